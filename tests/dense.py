"""The mathematics written a second time, with explicit matrices and no FFT."""

import itertools

import numpy as np
import torch


def circulant(kernel: torch.Tensor, image_size: tuple[int, ...]) -> torch.Tensor:
    """Block-circulant matrix K with vec(x * k) = K vec(x), from the definition of the circular convolution.

    (x * k)[p] = Σ_d k[d] x[p − d], d counted from the kernel's centre, indices modulo the image size.
    """
    shape = kernel.shape
    pixels = list(itertools.product(*(range(n) for n in image_size)))
    matrix = torch.zeros(len(pixels), len(pixels), dtype=torch.float64)
    for row, p in enumerate(pixels):
        for index in itertools.product(*(range(k) for k in shape)):
            d = [i - k // 2 for i, k in zip(index, shape, strict=True)]
            q = tuple((a - b) % n for a, b, n in zip(p, d, image_size, strict=True))
            column = int(np.ravel_multi_index(q, image_size))
            matrix[row, column] += kernel[index]
    return matrix


def wiener_matrix(blur: torch.Tensor, c: float, weighting: str = "wiener") -> torch.Tensor:
    """W: (KᵀK + C)⁻¹Kᵀ, or a square root of (KᵀK + C)⁻¹."""
    identity = torch.eye(len(blur), dtype=blur.dtype)
    regular = blur.T @ blur + c * identity
    if weighting == "wiener":
        return torch.linalg.solve(regular, blur.T)
    return torch.linalg.inv(torch.linalg.cholesky(regular))


def random_kernel(size: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """A kernel that sums to 1 and suppresses no frequency: half of it stays at the centre."""
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.rand(size, generator=generator, dtype=torch.float64)
    kernel = 0.45 * kernel / kernel.sum()
    kernel[tuple(k // 2 for k in size)] += 0.55
    return kernel
