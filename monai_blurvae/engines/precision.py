"""Autocast that works on the CPU too, where MONAI's ``amp`` silently does nothing."""

from __future__ import annotations

import torch

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
