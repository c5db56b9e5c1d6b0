"""A small head of constant patches, and its scan."""

import torch

from monai_blurvae.priors.reconstruction import (
    CartesianMRI,
    gaussian_line_mask,
    simulate_coil_maps,
    simulate_kspace,
    simulate_phase,
)


def head(height=48, width=40, slices=1, dtype=torch.float32):
    """Ellipses in [0, 1], one in the other."""
    row = torch.linspace(-1, 1, height, dtype=dtype)[:, None]
    column = torch.linspace(-1, 1, width, dtype=dtype)[None, :]
    image = torch.zeros(height, width, dtype=dtype)
    for radius, value, shift in ((0.85, 0.6, 0.0), (0.7, 1.0, 0.0), (0.35, 0.4, 0.2), (0.15, 0.9, -0.4)):
        image[(row / radius).square() + ((column - shift) / radius).square() < 1] = value
    return torch.stack([image * (1 - 0.1 * i) for i in range(slices)])[:, None]


def scan(acceleration=2.0, coils=1, noise_std=0.01, slices=1, size=(48, 40), centre_lines=9, seed=0):
    """(k-space, operator, complex image)."""
    mask = gaussian_line_mask(size[1], acceleration, centre_lines, seed=seed)
    operator = CartesianMRI(mask, size, simulate_coil_maps(coils, size) if coils > 1 else None)
    image = head(*size, slices) * simulate_phase(size, slices=slices, seed=seed)
    return simulate_kspace(image, operator, noise_std, seed), operator, image
