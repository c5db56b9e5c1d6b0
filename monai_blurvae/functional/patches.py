"""Overlapping patches of images on the torus, and back; the discrete cosine transform of a patch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import fold


def covering_steps(image_size: Sequence[int], stride: int) -> tuple[int, int]:
    """Distance of neighbouring patches along each axis, so that patches cover every pixel of a torus equally often.

    It is the greatest common divisor of the stride and the size: along an odd axis a stride of 2 is one of 1.

    Args:
        image_size: (H, W).
        stride: wanted distance.
    """
    return math.gcd(stride, image_size[0]), math.gcd(stride, image_size[1])


def patches_of(image: Tensor, patch_size: int, stride: int, offset: tuple[int, int] = (0, 0)) -> Tensor:
    """All patches of a grid over images whose opposite borders are joined.

    Args:
        image: ``(B, 1, H, W)``, neither side smaller than the patch.
        patch_size: side p of the patches.
        stride: wanted distance of neighbouring patches, a divisor of p; see :func:`covering_steps` for the one taken.
        offset: (row, column) of the first patch.

    Returns:
        ``(B, P, p, p)``, rows of patches one after the other; each pixel is in p² / (step · step) of them.
    """
    rows, columns = covering_steps(image.shape[2:], stride)
    torus = image[:, 0].roll((-offset[0], -offset[1]), (1, 2))
    torus = torch.cat([torus, torus[:, : patch_size - rows]], 1)
    torus = torch.cat([torus, torus[:, :, : patch_size - columns]], 2)
    return torus.unfold(1, patch_size, rows).unfold(2, patch_size, columns).flatten(1, 2)


def image_of(patches: Tensor, image_size: Sequence[int], stride: int, offset: tuple[int, int] = (0, 0)) -> Tensor:
    """The mean, at each pixel, of the patches that cover it; of the patches of an image the image.

    Times the number of patches that cover a pixel it is the adjoint of :func:`patches_of`.

    Args:
        patches: as :func:`patches_of` gives them, ``(B, P, p, p)``.
        image_size: (H, W).
        stride: as for :func:`patches_of`.
        offset: likewise.

    Returns:
        ``(B, 1, H, W)``.
    """
    rows, columns = covering_steps(image_size, stride)
    height, width, p = *image_size, patches.shape[-1]
    extended = height + p - rows, width + p - columns
    total = fold(patches.flatten(2).transpose(1, 2), extended, kernel_size=p, stride=(rows, columns))
    total[:, :, : p - rows] += total[:, :, height:]
    total[:, :, :, : p - columns] += total[:, :, :, width:]
    mean = total[:, :, :height, :width] * (rows * columns / p**2)
    return mean.roll(offset, (2, 3))


@lru_cache(maxsize=16)
def dct_matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Orthonormal DCT-II of length ``size``; D @ x @ Dᵀ is the transform in two dimensions.

    Args:
        size: number of samples.
        dtype: of the result; the cosines are taken in float64.
        device: of the result.

    Returns:
        ``(size, size)``, frequencies in rows. It is kept for later calls: leave its values alone.
    """
    # An inference tensor, once cached, could take part in no later training.
    with torch.inference_mode(False):
        frequency = torch.arange(size, dtype=torch.float64, device="cpu")[:, None]
        position = torch.arange(size, dtype=torch.float64, device="cpu")[None, :] + 0.5
        matrix = torch.cos(math.pi / size * frequency * position) * math.sqrt(2 / size)
        matrix[0] /= math.sqrt(2)
        return matrix.to(device, dtype)
