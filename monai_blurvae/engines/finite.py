"""Whether the numbers of a training iteration are finite, asked of the device once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer


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
