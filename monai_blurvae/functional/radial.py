"""Radial power spectra, and windows against the jump at the edges of a patch, across which the DFT continues it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from monai_blurvae.functional.spectral import at_least_float32, ortho_spectrum

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


class Annuli(NamedTuple):
    """The frequencies of a half spectrum by their distance from zero.

    Attributes:
        radius: integer radius of each frequency, like the half spectrum, int64.
        multiplicity: how many frequencies of the full spectrum it stands for, 1 or 2, like ``radius``.
        members: frequencies of the full spectrum in the annuli of radius 0, 1, …; ``(bins,)``.
    """

    radius: Tensor
    multiplicity: Tensor
    members: Tensor


@lru_cache(maxsize=16)
def annuli(image_size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Annuli:
    """Radius and multiplicity of every frequency of a half spectrum.

    The radius is the spatial frequency in cycles per min(image_size) pixels, rounded to an integer, so that an annulus
    is isotropic in the image when its sides differ too.

    Args:
        image_size: spatial size of the images.
        dtype: of the multiplicities and numbers of members.
        device: of all three.

    Returns:
        :class:`Annuli`, kept for later calls: leave their values alone.
    """
    # An inference tensor, once cached, could take part in no later training.
    with torch.inference_mode(False):
        # float64 on the CPU, so that every device and precision rounds to the same annuli, and none is waited for
        *rest, last = image_size
        axes = [torch.fft.fftfreq(n, dtype=torch.float64, device="cpu") for n in rest]
        axes.append(torch.fft.rfftfreq(last, dtype=torch.float64, device="cpu"))
        squares = torch.stack([axis.square() for axis in torch.meshgrid(*axes, indexing="ij")])
        radius = (squares.sum(0).sqrt() * min(image_size)).round().long()
        multiplicity = torch.full(radius.shape, 2.0, dtype=torch.float64, device="cpu")
        multiplicity[..., 0] = 1.0  # any other column of the half spectrum stands for its mirror image too
        if last % 2 == 0:
            multiplicity[..., -1] = 1.0
        members = radius.flatten().bincount(multiplicity.flatten())
        return Annuli(radius.to(device), multiplicity.to(device, dtype), members.to(device, dtype))


def annulus_mean(power: Tensor, image_size: tuple[int, ...]) -> Tensor:
    """Mean over the frequencies of each annulus, see :func:`annuli`.

    Args:
        power: half spectrum of a quantity that is the same at j and −j, ``(B, C, *half)``.
        image_size: spatial size of the images.

    Returns:
        ``(B, C, bins)`` for the radii 0, 1, … to the corner of the spectrum.
    """
    radius, multiplicity, members = annuli(tuple(image_size), power.dtype, power.device)
    total = power.new_zeros(*power.shape[:2], len(members))
    return total.index_add(2, radius.flatten(), (power * multiplicity).flatten(2)) / members


def radial_power(images: Tensor, window: bool = True) -> Tensor:
    """Mean power P(r) of the frequencies in each annulus of integer radius, of the ortho DFT.

    The radius is counted in cycles per min(image_size) pixels and rounded to the nearest integer r; frequencies beyond
    r = min(image_size) // 2 (the corners) and the mean of the image (r = 0) are left out. Of cubes the annuli are
    shells.

    Args:
        images: ``(B, C, *image_size)``, any range, in two or three dimensions. Nothing is subtracted: with the window,
            the mean of an image leaks into r = 1.
        window: whether to multiply the images by a Hann window first, since a patch does not go on across its edge as
            the DFT assumes. The window has a mean square of 1, so white noise of variance σ² has P(r) = σ² on average
            with or without it.

    Returns:
        ``(B, C, R)``, R = min(image_size) // 2, for r = 1 … R; power per pixel, in the squared units of ``images``.

    Raises:
        ValueError: if the images have another number of dimensions, or fewer than 2 pixels along an axis.
    """
    if images.ndim not in (4, 5) or min(images.shape[2:]) < 2:
        raise ValueError(
            "images must have shape (B, C, H, W) or (B, C, X, Y, Z) with at least 2 pixels along each axis, but have "
            f"shape {tuple(images.shape)}."
        )
    images = at_least_float32(images)
    image_size = tuple(images.shape[2:])
    if window:
        images = images * hann_window(image_size, images)
    spectrum = ortho_spectrum(images)
    power = spectrum.real.square() + spectrum.imag.square()
    return annulus_mean(power, image_size)[..., 1 : min(image_size) // 2 + 1]
