"""Whether a model has learned its training images by heart: how near to them its images are."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Nearest(NamedTuple):
    """Of each image the nearest one of a set.

    Attributes:
        distance: root mean squared difference, in the units of the images, ``(N,)`` in float64.
        indices: of them in the set, ``(N,)``.
    """

    distance: Tensor
    indices: Tensor


def nearest_images(images: Tensor, others: Tensor, chunk_size: int = 64) -> Nearest:
    """The nearest image by the root mean squared difference.

    Args:
        images: ``(N, C, H, W)``.
        others: ``(M, C, H, W)``, M > 0.
        chunk_size: images that are compared at once.

    Raises:
        ValueError: if there are none to compare with, or they have another shape.
    """
    if not len(others) or images.shape[1:] != others.shape[1:]:
        raise ValueError(
            f"images and others need one shape (N, C, H, W) and others some images, but have {tuple(images.shape)} "
            f"and {tuple(others.shape)}."
        )
    flat, found = others.flatten(1), []
    for part in images.split(chunk_size):
        index = torch.cdist(part.flatten(1), flat).argmin(1)
        exact = (part.flatten(1) - flat[index]).double().square().mean(1)  # cdist multiplies the square out
        found.append((exact.sqrt(), index))
    distances, indices = zip(*found, strict=True)
    return Nearest(torch.cat(distances), torch.cat(indices))


def data_copying(generated: Tensor, test: Tensor) -> float:
    """C_T of Meehan et al. 2020, "A non-parametric test to detect data-copying in generative models", of one cell.

    The z-score of the Mann-Whitney statistic of distances to the nearest training image: of generated images, and of
    test images. 0 if they have one distribution; far below 0, −3 say, generated images are nearer to the training's
    than new images of its kind are.

    Args:
        generated: distances of generated images, ``(N,)``.
        test: distances of test images, ``(M,)``.

    Raises:
        ValueError: if there are none of either.
    """
    n, m = len(generated), len(test)
    if not n or not m:
        raise ValueError(f"there are {n} generated and {m} test images, where some of both are needed.")
    difference = generated[:, None] - test[None, :]
    larger = float((difference > 0).sum()) + 0.5 * float((difference == 0).sum())
    return (larger - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
