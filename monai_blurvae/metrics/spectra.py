"""Sharpness without pairs of pixels: the radial power spectrum and the Laplacian of sets of images."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_blurvae.functional.radial import annulus_mean, hann_window, radial_power
from monai_blurvae.functional.spectral import ortho_spectrum

IMAGES_AT_ONCE = 64
"""Images whose spectra or Laplacians are taken at once: in float64, with copies, they need many times their memory."""

POWER_FLOOR = 1e-12
"""Smallest mean power of a radius, in squared units of the images; constant images have none to take the log of."""


def log_spectrum_distance(images: Tensor, reference: Tensor, window: bool = True) -> Tensor:
    """Distance of the radial log spectra of two sets of images, of reconstructions or samples from the originals.

    Of each set the mean power per radius over its images comes first, then its log10; the distance is the root mean
    square of the difference over the radii r = 1 … min(image_size) // 2 and the channels. The sets need neither pairs
    nor the same number of images. A set that is the other one times a has distance 2 |log10 a|.

    Args:
        images: ``(N, C, *image_size)`` in two or three dimensions, any range.
        reference: ``(M, C, *image_size)`` of the same range.
        window: whether to multiply the images by a Hann window first, see
            :func:`~monai_blurvae.functional.radial_power`; a patch does not wrap around.

    Returns:
        A number without dimensions, ≥ 0, in decades of power.

    Raises:
        ValueError: if the sets are empty or differ in channels or size, or the images are neither 2-D nor 3-D.
    """
    _check_sets(images, reference)
    powers = [
        torch.cat([radial_power(part.double(), window) for part in x.split(IMAGES_AT_ONCE)])
        for x in (images, reference)
    ]
    spectra = [power.mean(0).clamp_min(POWER_FLOOR).log10() for power in powers]
    return (spectra[0] - spectra[1]).square().mean().sqrt()


def fourier_ring_correlation(images: Tensor, reference: Tensor) -> Tensor:
    """Correlation of pairs of images in each ring of frequencies, FRC (Saxton & Baumeister 1982; van Heel 1987).

    Of cubes the rings are shells, and it is the Fourier shell correlation (Harauz & van Heel 1986).

    FRC(r) = Re Σ X_j Y_j* / √(Σ |X_j|² Σ |Y_j|²), the sums over the frequencies of ring r, the channels and all pairs,
    of images without their mean under a Hann window. Power that has nothing to do with the reference does not raise
    it, as it does the power spectrum.

    Args:
        images: ``(N, C, *image_size)`` in two or three dimensions, any range.
        reference: of the same shape and range, the image that belongs to each.

    Returns:
        ``(R,)``, R = min(image_size) // 2, in [−1, 1], for r = 1 … R cycles per min(image_size) pixels; 0 where
        either has no power.

    Raises:
        ValueError: unless the images are 2-D or 3-D pairs of one shape.
    """
    if images.ndim not in (4, 5) or images.shape != reference.shape or not len(images):
        raise ValueError(
            f"pairs of images (N, C, *image_size) are compared, but have shapes {tuple(images.shape)} and "
            f"{tuple(reference.shape)}."
        )
    pairs = zip(images.split(IMAGES_AT_ONCE), reference.split(IMAGES_AT_ONCE), strict=True)
    cross, power, reference_power = torch.stack([_ring_products(*pair) for pair in pairs]).sum(0)
    return cross / (power * reference_power).sqrt().clamp_min(POWER_FLOOR)


def _ring_products(x: Tensor, y: Tensor) -> Tensor:
    """Σ Re X Y*, Σ |X|² and Σ |Y|² over images and channels, in each ring, ``(3, R)``, up to a factor of each ring."""
    image_size = tuple(x.shape[2:])
    window = hann_window(image_size, x.double())
    axes = tuple(range(2, x.ndim))
    a, b = (ortho_spectrum((z.double() - z.double().mean(axes, keepdim=True)) * window) for z in (x, y))
    products = torch.stack([(first * second.conj()).real.sum((0, 1)) for first, second in ((a, b), (a, a), (b, b))])
    return annulus_mean(products[None], image_size)[0, :, 1 : min(image_size) // 2 + 1]


def ring_resolution(images: Tensor, reference: Tensor, threshold: float = 0.5) -> Tensor:
    """Period of the finest waves that are still those of the reference: where the FRC first falls below a threshold.

    Args:
        images: ``(N, C, *image_size)`` in two or three dimensions, any range.
        reference: of the same shape and range, the image that belongs to each.
        threshold: between two rings the FRC is interpolated; before the first it is 1.

    Returns:
        A period in pixels, from 2, where the FRC does not fall below, to min(image_size) and more; lower is better.

    Raises:
        ValueError: as :func:`fourier_ring_correlation`.
    """
    correlation = fourier_ring_correlation(images, reference)
    size = min(images.shape[2:])
    below = (correlation < threshold).nonzero()
    if not len(below):
        return correlation.new_tensor(size / len(correlation))
    ring = int(below[0])
    before = correlation[ring - 1] if ring else correlation.new_tensor(1.0)
    crossing = ring + (before - threshold) / (before - correlation[ring])
    return size / crossing


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
