"""The discrete cosine transform as a matrix."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=16)
def dct_matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Orthonormal DCT-II of length ``size``; D @ x @ Dᵀ is the transform in two dimensions.

    Args:
        size: number of samples.
        dtype: of the result; the cosines are taken in float64.
        device: of the result.

    Returns:
        ``(size, size)``, frequencies in rows. It is kept for later calls: leave its values alone.
    """
    # An inference tensor, once cached, could take part in no later training.
    with torch.inference_mode(False):
        frequency = torch.arange(size, dtype=torch.float64, device="cpu")[:, None]
        position = torch.arange(size, dtype=torch.float64, device="cpu")[None, :] + 0.5
        matrix = torch.cos(math.pi / size * frequency * position) * math.sqrt(2 / size)
        matrix[0] /= math.sqrt(2)
        return matrix.to(device, dtype)
