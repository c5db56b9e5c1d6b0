"""Windows: against the jump at the edges of a patch, across which the DFT continues it, and that of the SSIM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SSIM_WINDOW_SIZE = 11
"""Pixels of the structural similarity's window along each axis (Wang et al. 2004)."""

SSIM_WINDOW_SIGMA = 1.5
"""σ in pixels of the Gaussian that it is."""


def hann_window(image_size: Sequence[int], like: Tensor) -> Tensor:
    """Separable periodic Hann window with a mean square of 1, so that white noise keeps its mean power.

    Args:
        image_size: spatial size of the images.
        like: gives dtype and device.

    Returns:
        Of shape ``image_size``.
    """
    window = torch.ones((), dtype=like.dtype, device=like.device)
    for n in image_size:
        window = window[..., None] * torch.hann_window(n, periodic=True, dtype=like.dtype, device=like.device)
    return window / window.square().mean().sqrt()
