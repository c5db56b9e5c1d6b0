"""Radial power spectra of 2-D images."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_blurvae.functional.spectral import ortho_spectrum
from monai_blurvae.functional.window import hann_window


def _annuli(image_size: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Radius and multiplicity of each frequency of the flattened half spectrum; ``(H · (W // 2 + 1),)`` each.

    The radius is the spatial frequency in cycles per min(H, W) pixels, rounded to an integer, so that an annulus is
    isotropic in the image when H ≠ W too.
    """
    height, width = image_size
    # float64, so that every device and precision rounds to the same annuli
    rows = torch.fft.fftfreq(height, dtype=torch.float64, device=like.device)
    columns = torch.fft.rfftfreq(width, dtype=torch.float64, device=like.device)
    radius = (rows[:, None].square() + columns[None, :].square()).sqrt() * min(image_size)
    multiplicity = torch.full_like(radius, 2.0)  # a column of the half spectrum stands for its mirror image too
    multiplicity[:, 0] = 1.0
    if width % 2 == 0:
        multiplicity[:, -1] = 1.0
    return radius.round().long().flatten(), multiplicity.flatten().to(like.dtype)


def radial_power(images: Tensor, window: bool = True) -> Tensor:
    """Mean power P(r) of the frequencies in each annulus of integer radius, of the ortho DFT.

    The radius is counted in cycles per min(H, W) pixels and rounded to the nearest integer r; frequencies beyond
    r = min(H, W) // 2 (the corners) and the mean of the image (r = 0) are left out.

    Args:
        images: ``(B, C, H, W)``, any range. Nothing is subtracted: with the window, the mean of an image leaks into
            r = 1.
        window: whether to multiply the images by a Hann window first, since a patch does not go on across its edge as
            the DFT assumes. The window has a mean square of 1, so white noise of variance σ² has P(r) = σ² on average
            with or without it.

    Returns:
        ``(B, C, R)``, R = min(H, W) // 2, for r = 1 … R; power per pixel, in the squared units of ``images``.

    Raises:
        ValueError: if the images are not four-dimensional with H, W ≥ 2.
    """
    if images.ndim != 4 or min(images.shape[2:]) < 2:
        raise ValueError(
            f"images must have shape (B, C, H, W) with H and W at least 2, but have shape {tuple(images.shape)}."
        )
    if images.dtype in (torch.bfloat16, torch.float16):
        images = images.float()
    image_size = (images.shape[2], images.shape[3])
    if window:
        images = images * hann_window(image_size, images)
    spectrum = ortho_spectrum(images)
    power = (spectrum.real.square() + spectrum.imag.square()).flatten(2)

    radius, multiplicity = _annuli(image_size, images)
    bins = int(radius.max()) + 1
    total = power.new_zeros(*power.shape[:2], bins).index_add(2, radius, power * multiplicity)
    count = power.new_zeros(bins).index_add(0, radius, multiplicity)
    radii = min(image_size) // 2
    return total[..., 1 : radii + 1] / count[1 : radii + 1]
