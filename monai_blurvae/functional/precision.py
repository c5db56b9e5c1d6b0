"""Float32 or float64 where reduced precision would spoil a sum over thousands of pixels."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """A bfloat16 or float16 tensor in float32, any other as it is; FFTs need it, and sums over an image too."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Context in which autocast lowers no precision; it knows no autocast on devices that have none.

    Args:
        device: of the tensors in it.
    """
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
