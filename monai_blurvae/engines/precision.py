"""Autocast that works on the CPU too, where MONAI's ``amp`` silently does nothing."""

from __future__ import annotations

import torch

_TYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
PRECISIONS = tuple(_TYPES)

SMALLEST_SCALE = 2.0**-16
"""A gradient that overflows float16 at this scale of the loss does so for another reason than the scale."""


def check_precision(precision: str) -> None:
    """Check the name of a precision.

    Raises:
        ValueError: for another than ``"float32"``, ``"bfloat16"`` and ``"float16"``.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, but is {precision!r}.")


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
