"""Blur kernels in the image domain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _coordinates(kernel_size: Sequence[int], spacing: Sequence[float] | None, like: Tensor) -> list[Tensor]:
    steps = [1.0] * len(kernel_size) if spacing is None else list(spacing)
    axes = [
        (torch.arange(k, dtype=like.dtype, device=like.device) - k // 2) * step
        for k, step in zip(kernel_size, steps, strict=True)
    ]
    return list(torch.meshgrid(*axes, indexing="ij"))


def gaussian_kernel(kernel_size: int | Sequence[int], variance: float, spatial_dims: int = 2) -> Tensor:
    """Isotropic Gaussian kernel sampled on the grid and scaled to sum 1.

    Args:
        kernel_size: odd size, one number or one for each axis.
        variance: of the Gaussian along each axis, in pixels²; > 0.
        spatial_dims: number of axes when ``kernel_size`` is one number.

    Returns:
        ``(1, 1, *kernel_size)``, float32.

    Raises:
        ValueError: if the variance is not positive.
    """
    if not variance > 0:
        raise ValueError(f"the variance of a Gaussian kernel must be positive, but is {variance!r}.")
    sizes = [kernel_size] * spatial_dims if isinstance(kernel_size, int) else list(kernel_size)
    grid = _coordinates(sizes, None, torch.zeros((), dtype=torch.float64))
    squared_radius = torch.stack([g.square() for g in grid]).sum(0)
    kernel = torch.exp(-0.5 * squared_radius / variance)
    return (kernel / kernel.sum()).float()[None, None]


def kernel_width(kernel: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
    """RMS radius of each kernel about its own centroid.

    For a kernel with negative values (normalisation "none") the absolute values are the weights.

    Args:
        kernel: ``(B, 1, *kernel_size)``, one for all channels of an image.
        spacing: voxel size along each axis in mm; without it the result is in pixels.

    Returns:
        ``(B,)``: √(Σ k |r − r̄|² / Σ k); √(d · v) for a d-dimensional Gaussian of variance v.
    """
    weights = kernel[:, 0].abs().flatten(1)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    variance = torch.zeros(kernel.shape[0], dtype=kernel.dtype, device=kernel.device)
    for coordinate in _coordinates(kernel.shape[2:], spacing, kernel):
        position = coordinate.flatten()
        mean = (weights * position).sum(1, keepdim=True)
        variance = variance + (weights * (position - mean).square()).sum(1)
    return variance.sqrt()
