"""Precision of a training, also on the CPU, where MONAI's ``amp`` does nothing; and whether its numbers are finite."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

_TYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTO = "auto"
PRECISIONS = (*_TYPES, AUTO)

SMALLEST_SCALE = 2.0**-16
"""A gradient that overflows float16 at this scale of the loss does so for another reason than the scale."""


def chosen_precision(precision: str, device: str | torch.device) -> str:
    """The precision that a name stands for on a device.

    ``"auto"`` is bfloat16 on processors that compute in it (avx512_bf16, amx), where it was measured at 0.6 of the time
    of float32, and float32 elsewhere: on other processors bfloat16 takes twice as long, and on an H100 a step of 64×64
    patches, bound by the host, a quarter longer.

    Raises:
        ValueError: for another name than ``"float32"``, ``"bfloat16"``, ``"float16"`` and ``"auto"``.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, but is {precision!r}.")
    if precision != AUTO:
        return precision
    return "bfloat16" if torch.device(device).type == "cpu" and _has_bfloat16_units() else "float32"


def _has_bfloat16_units() -> bool:
    # torch tells of no public way
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asked)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Context for the network's forward pass; losses and FFTs stay outside it, in float32.

    Args:
        device: where the network runs.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    """
    dtype = _TYPES[precision]
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def grad_scaler(device: str | torch.device, precision: str) -> torch.amp.GradScaler:
    """The scaler of the losses: float16 needs one, lest small gradients vanish; for the others it does nothing."""
    return torch.amp.GradScaler(torch.device(device).type, enabled=precision == "float16")


class FiniteCheck:
    """Losses and gradient norms of an iteration, of which the host reads no more than whether all are finite.

    A host that reads a value waits until the device has computed all that comes before it, and then the device waits
    for the host. An optimizer that is fused can leave a step out by itself, so that one reading at the end of the
    iteration is enough; before another kind of optimizer steps, the host has to look.
    """

    def __init__(self) -> None:
        self._values: dict[str, Tensor] = {}

    def reset(self) -> None:
        """Begin another iteration."""
        self._values = {}

    def add(self, name: str, value: Tensor) -> None:
        """Take a value without dimensions, on the device of the others."""
        self._values[name] = value.detach()

    def can_guard(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer can leave a step out without the host, as those made with ``fused=True`` can."""
        return bool(getattr(optimizer, "_step_supports_amp_scaling", False))

    def guarded_step(self, optimizer: Optimizer) -> None:
        """Let a fused optimizer step if all values so far are finite; else its weights and its state stay."""
        optimizer.found_inf = (~self._finite()).float()  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf  # type: ignore[attr-defined]

    def first_bad(self) -> tuple[str, float] | None:
        """The first value that is not finite and its name, None where all are; one reading of the device for that."""
        if not self._values or bool(self._finite()):
            return None
        return next((name, float(value)) for name, value in self._values.items() if not torch.isfinite(value))

    def _finite(self) -> Tensor:
        return torch.stack(list(self._values.values())).isfinite().all()
