"""k-space of magnitude images, made complex first: to reconstruct a magnitude as it is would be an inverse crime."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monai_blurvae.priors.reconstruction.operator import CartesianMRI, centred_ifft
from monai_blurvae.seeding import torch_rng

SMOOTH, ROUGH = 1.0, 4.0
"""Cycles over the image, of the phase of a spin echo or shimmed gradient echo, and of one near air and bone."""


def simulate_phase(
    image_size: tuple[int, int], cycles: float = SMOOTH, amplitude: float = 1.0, seed: int = 0, slices: int = 1
) -> Tensor:
    """exp(i φ) of a random φ whose spectrum is a Gaussian.

    Args:
        image_size: (H, W).
        cycles: standard deviation of that Gaussian, in cycles over the image.
        amplitude: standard deviation of φ in radians.
        seed: of the draw.
        slices: number of phases.

    Returns:
        Complex numbers of modulus 1, ``(slices, 1, H, W)``.
    """
    height, width = image_size
    noise = torch.randn(2, slices, 1, height, width, generator=torch_rng(seed, "phase"), dtype=torch.float64)
    row = (torch.arange(height, dtype=torch.float64) - height // 2)[:, None]
    column = (torch.arange(width, dtype=torch.float64) - width // 2)[None, :]
    spectrum = torch.exp(-(row.square() + column.square()) / (2 * cycles**2))
    field = centred_ifft(torch.complex(noise[0], noise[1]) * spectrum).real
    field = field * (amplitude / field.square().mean((-2, -1), keepdim=True).sqrt())
    return torch.polar(torch.ones_like(field), field).to(torch.complex64)


def simulate_coil_maps(coils: int, image_size: tuple[int, int]) -> Tensor:
    """Sensitivities of a ring of coils, 1 / distance with the phase of its direction, Σ|S|² = 1 in every pixel.

    The birdcage of the literature, at 1.5 times half the image's size.

    Args:
        coils: N.
        image_size: (H, W).

    Returns:
        Complex, ``(1, N, H, W)``.
    """
    height, width = image_size
    angle = 2 * math.pi * torch.arange(coils, dtype=torch.float64)[:, None, None] / coils
    row = torch.linspace(-1, 1, height, dtype=torch.float64)[:, None] - 1.5 * angle.sin()
    column = torch.linspace(-1, 1, width, dtype=torch.float64)[None, :] - 1.5 * angle.cos()
    maps = torch.polar(1 / torch.hypot(row, column), torch.atan2(column, -row) - angle)
    return (maps / maps.abs().square().sum(0).sqrt())[None].to(torch.complex64)


def simulate_kspace(image: Tensor, operator: CartesianMRI, noise_std: float, seed: int = 0) -> Tensor:
    """Samples of an image with white noise, added before lines are left out.

    Args:
        image: complex, ``(B, 1, H, W)``.
        operator: of the scan.
        noise_std: standard deviation of the noise's real and imaginary part, each.
        seed: of the noise; the same lines of two masks have the same noise.

    Returns:
        ``(B, N, H, W)``, 0 where nothing is sampled.
    """
    shape = (2, image.shape[0], operator.coils, *operator.image_size)
    noise = noise_std * torch.randn(shape, generator=torch_rng(seed, "noise")).to(image.device, image.real.dtype)
    samples = operator.forward(image)
    return samples + operator.mask.to(samples.device) * torch.complex(noise[0], noise[1])
