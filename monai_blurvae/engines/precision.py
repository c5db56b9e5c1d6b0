"""Autocast that works on the CPU too, where MONAI's ``amp`` silently does nothing."""

from __future__ import annotations

import torch

PRECISIONS = ("float32", "bfloat16")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Context for the network's forward pass; losses and FFTs stay outside it, in float32.

    Args:
        device: where the network runs.
        precision: ``"float32"`` or ``"bfloat16"``.

    Raises:
        ValueError: for another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, but is {precision!r}.")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
