"""The phase of an image: from the centre of k-space, which every scan samples fully, or from an image so far."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_blurvae.errors import DataError
from monai_blurvae.priors.reconstruction.masks import centre_line_count
from monai_blurvae.priors.reconstruction.operator import CartesianMRI, centred_fft, centred_ifft

SMALLEST_CENTRE = 4
"""Lines; a phase from fewer is that of a few numbers."""
PHASE_CYCLES = 16.0
"""Of the Gaussian through which the phase of an image is seen: of validation slices from 10 to 16 do as well where the
phase is smooth, and a rough one needs more than 10."""
SMALLEST_PERIOD = 8
"""Pixels; smaller images than those of 128 pixels are seen through fewer cycles."""


def centre_phase(kspace: Tensor, operator: CartesianMRI, lines: int | None = None) -> Tensor:
    """exp(i φ) of the image that the centre of k-space shows through a Hann window, coils combined.

    The window is twice as wide as the lines, which cut it off: one that falls to 0 within them loses resolution, and
    has more than twice the error on T1 slices with a smooth phase. It is as wide along the lines as across them, in
    cycles per millimetre where voxels are square.

    Args:
        kspace: ``(B, N, H, W)``.
        operator: with the mask and the maps of this k-space.
        lines: that are looked at; by default those sampled around the centre, at most a quarter of all.

    Returns:
        Complex numbers of modulus 1, ``(B, 1, H, W)``.

    Raises:
        DataError: if fewer than :data:`SMALLEST_CENTRE` lines around the centre are sampled.
    """
    height, width = operator.image_size
    if lines is None:
        lines = min(centre_line_count(operator.mask), max(width // 4, SMALLEST_CENTRE))
    if lines < SMALLEST_CENTRE:
        raise DataError(
            f"{lines} neighbouring lines around the centre of k-space are sampled, where at least {SMALLEST_CENTRE} "
            "are needed for the phase; give the phase, or a mask with a sampled centre."
        )
    columns = torch.zeros(width, device=kspace.device)
    columns[width // 2 - lines // 2 : width // 2 - lines // 2 + lines] = 1
    window = _hann(height, 2 * lines * height / width, kspace)[:, None] * _hann(width, 2 * lines, kspace) * columns
    return unit_phase(operator.adjoint(kspace * window))


def smooth_phase(image: Tensor, cycles: float = PHASE_CYCLES) -> Tensor:
    """exp(i φ) of what a complex image ``(B, 1, H, W)`` shows through a Gaussian filter.

    Args:
        image: of which the phase is wanted.
        cycles: standard deviation of the Gaussian in k-space, in cycles over the image; at most one for each
            :data:`SMALLEST_PERIOD` pixels of the smaller side.

    Returns:
        Complex numbers of modulus 1, like ``image``.
    """
    cycles = min(cycles, min(image.shape[-2:]) / SMALLEST_PERIOD)
    row, column = (torch.arange(n, device=image.device, dtype=image.real.dtype) - n // 2 for n in image.shape[-2:])
    passed = torch.exp(-(row[:, None].square() + column.square()) / (2 * cycles**2))
    return unit_phase(centred_ifft(passed * centred_fft(image)))


def unit_phase(image: Tensor) -> Tensor:
    """The phase factor x / |x|, and 1 where x = 0."""
    modulus = image.abs()
    return torch.where(modulus > 0, image / modulus.clamp_min(torch.finfo(modulus.dtype).tiny), torch.ones_like(image))


def _hann(n: int, width: float, like: Tensor) -> Tensor:
    """A Hann window of a width around the centre n // 2, which is 0 beyond it."""
    distance = (torch.arange(n, device=like.device, dtype=like.real.dtype) - n // 2).abs()
    return torch.where(distance < width / 2, 0.5 + 0.5 * torch.cos(2 * torch.pi * distance / width), 0)
