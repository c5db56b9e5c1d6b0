"""Blur kernels, convolution and Parseval sums on half spectra.

All convolutions are true (not correlations) and circular, so every identity is exact. Spectra are half
spectra, as ``torch.fft.rfftn`` returns them over the spatial axes: the last axis holds ``n // 2 + 1``
frequencies. In sums over all frequencies, the missing half is the complex conjugate of the stored one.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def _spatial_axes(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def kernel_otf(kernel: Tensor, image_size: Sequence[int]) -> Tensor:
    """Optical transfer function of a blur kernel: the DFT of the zero-padded kernel, its centre at the origin.

    Args:
        kernel: ``(B, C, *kernel_size)``, odd sizes, none larger than the image. ``C`` is 1 when the
            channels of an image share their kernel.
        image_size: spatial size of the images that the kernel is applied to.

    Returns:
        Complex half spectrum ``(B, C, *image_size[:-1], image_size[-1] // 2 + 1)``, unnormalised
        (``norm="backward"``): 1 at frequency zero for a kernel that sums to 1.

    Raises:
        ValueError: if the kernel has an even size, is larger than the image, or the dimensions differ.
    """
    kernel_size = tuple(kernel.shape[2:])
    image_size = tuple(int(n) for n in image_size)
    if len(kernel_size) != len(image_size):
        raise ValueError(f"kernel of shape {tuple(kernel.shape)} does not fit images of size {image_size}.")
    if any(k % 2 == 0 for k in kernel_size):
        raise ValueError(f"kernel size {kernel_size} is even; a kernel with a centre needs odd sizes.")
    if any(k > n for k, n in zip(kernel_size, image_size, strict=True)):
        raise ValueError(f"kernel size {kernel_size} is larger than the image size {image_size}.")

    kernel = at_least_float32(kernel)
    padding: list[int] = []
    for k, n in zip(reversed(kernel_size), reversed(image_size), strict=True):
        padding += [0, n - k]
    axes = _spatial_axes(kernel)
    padded = torch.nn.functional.pad(kernel, padding)
    centred = torch.roll(padded, shifts=[-(k // 2) for k in kernel_size], dims=axes)
    return torch.fft.rfftn(centred, dim=axes, norm="backward")


def blur(x: Tensor, kernel: Tensor) -> Tensor:
    """Circular convolution x * k.

    Args:
        x: images ``(B, C, *image_size)``.
        kernel: ``(B, 1, *kernel_size)``, the same for all channels, or ``(B, C, *kernel_size)``, odd sizes.

    Returns:
        ``(B, C, *image_size)``.
    """
    x = at_least_float32(x)
    axes = _spatial_axes(x)
    image_size = x.shape[2:]
    spectrum = torch.fft.rfftn(x, dim=axes) * kernel_otf(kernel, image_size)
    return torch.fft.irfftn(spectrum, s=image_size, dim=axes)


def ortho_spectrum(x: Tensor) -> Tensor:
    """Half spectrum of images ``(B, C, *image_size)`` with ``norm="ortho"``, so that Parseval holds without factors."""
    x = at_least_float32(x)
    return torch.fft.rfftn(x, dim=_spatial_axes(x), norm="ortho")


def spectral_sum(values: Tensor, image_size: Sequence[int]) -> Tensor:
    """Sum of a real, conjugate-symmetric quantity over all frequencies and channels, from its half spectrum.

    The first column of the half spectrum, and the last when the last image size is even, stand for themselves;
    every other column stands for two.

    Args:
        values: real ``(B, C, *image_size[:-1], image_size[-1] // 2 + 1)``.
        image_size: spatial size of the images.

    Returns:
        ``(B,)``.
    """
    n = int(image_size[-1])
    multiplicity = torch.full((n // 2 + 1,), 2.0, dtype=values.dtype, device=values.device)
    multiplicity[0] = 1.0
    if n % 2 == 0:
        multiplicity[-1] = 1.0
    return (values * multiplicity).flatten(1).sum(1)


def weighted_spectral_sum(residual: Tensor, weight: Tensor) -> Tensor:
    """Σ_j |W_j|² |R_j|² over all frequencies and channels, R the ortho DFT of the residual.

    Args:
        residual: x − x̂, ``(B, C, *image_size)``.
        weight: |W| as a half spectrum, ``(B, 1, *half)``, the same for all channels, or ``(B, C, *half)``.

    Returns:
        ``(B,)``; with a weight of 1 the squared norm of the residual.
    """
    spectrum = ortho_spectrum(residual)
    power = spectrum.real.square() + spectrum.imag.square()
    return spectral_sum(weight.square() * power, residual.shape[2:])


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
