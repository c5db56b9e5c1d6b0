"""Sharpness without pairs of pixels: the radial power spectrum and the Laplacian of sets of images."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_blurvae.functional.radial import radial_power

IMAGES_AT_ONCE = 64
"""Images whose spectra or Laplacians are taken at once: in float64, with copies, they need many times their memory."""

POWER_FLOOR = 1e-12
"""Smallest mean power of a radius, in squared units of the images; constant images have none to take the log of."""


def log_spectrum_distance(images: Tensor, reference: Tensor, window: bool = True) -> Tensor:
    """Distance of the radial log spectra of two sets of images, of reconstructions or samples from the originals.

    Of each set the mean power per radius over its images comes first, then its log10; the distance is the root mean
    square of the difference over the radii r = 1 … min(H, W) // 2 and the channels. The sets need neither pairs nor
    the same number of images. A set that is the other one times a has distance 2 |log10 a|.

    Args:
        images: ``(N, C, H, W)``, any range.
        reference: ``(M, C, H, W)`` of the same range.
        window: whether to multiply the images by a Hann window first, see
            :func:`~monai_blurvae.functional.radial.radial_power`; a patch does not wrap around.

    Returns:
        A number without dimensions, ≥ 0, in decades of power.

    Raises:
        ValueError: if the sets are empty or differ in channels or size, or the images are not 2-D.
    """
    _check_sets(images, reference)
    powers = [
        torch.cat([radial_power(part.double(), window) for part in x.split(IMAGES_AT_ONCE)])
        for x in (images, reference)
    ]
    spectra = [power.mean(0).clamp_min(POWER_FLOOR).log10() for power in powers]
    return (spectra[0] - spectra[1]).square().mean().sqrt()


def laplacian_variance(images: Tensor) -> Tensor:
    """Variance over the pixels of the Laplacian of each image, a measure of its focus (Pech-Pacheco et al. 2000).

    The Laplacian is the sum over the axes of the second differences, (1, −2, 1); the outermost pixels, where it would
    need values from outside, are left out.

    Args:
        images: ``(N, C, *image_size)``, at least 3 pixels along every axis.

    Returns:
        ``(N,)``, the mean over the channels, in squared units of the images.

    Raises:
        ValueError: if the images are too small.
    """
    if images.ndim < 3 or min(images.shape[2:]) < 3:
        raise ValueError(
            f"the Laplacian needs images (N, C, *image_size) of at least 3 pixels along every axis, but has shape "
            f"{tuple(images.shape)}."
        )
    return torch.cat([_laplacian_variance(part.double()) for part in images.split(IMAGES_AT_ONCE)])


def _laplacian_variance(images: Tensor) -> Tensor:
    interior = (slice(None), slice(None)) + (slice(1, -1),) * (images.ndim - 2)
    laplacian = torch.zeros_like(images[interior])
    for axis in range(2, images.ndim):
        trimmed = images[tuple(s if i != axis else slice(None) for i, s in enumerate(interior))]
        laplacian = laplacian + trimmed.diff(n=2, dim=axis)
    return laplacian.flatten(2).var(2, correction=0).mean(1)


def relative_sharpness(images: Tensor, reference: Tensor) -> Tensor:
    """Mean variance of the Laplacian of a set of images over that of another: 1 is as sharp, below 1 is blurrier.

    The ratio is one of means over the sets, since single images may be flat.

    Args:
        images: ``(N, C, *image_size)``, any range.
        reference: ``(M, C, *image_size)`` of the same range.

    Returns:
        A number without dimensions, ≥ 0.

    Raises:
        ValueError: if the sets are empty or differ in channels or size, the images are too small, or the reference
            is flat.
    """
    _check_sets(images, reference)
    scale = laplacian_variance(reference).mean()
    if not scale > 0:
        raise ValueError(
            "the Laplacian of the reference images is constant; no image is sharper or blurrier than flat."
        )
    return laplacian_variance(images).mean() / scale


def _check_sets(images: Tensor, reference: Tensor) -> None:
    if not len(images) or not len(reference) or images.shape[1:] != reference.shape[1:]:
        raise ValueError(
            f"two sets of images of one shape are compared, but have shapes {tuple(images.shape)} and "
            f"{tuple(reference.shape)}."
        )
