"""Which lines of k-space are sampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from monai_blurvae.errors import DataError
from monai_blurvae.seeding import numpy_rng


def gaussian_line_mask(
    lines: int, acceleration: float, centre_lines: int = 15, density_std: float = 1 / 6, seed: int = 0
) -> Tensor:
    """A 1-D Cartesian mask whose line density is the Gaussian of Tezcan et al. 2019.

    Args:
        lines: of full k-space.
        acceleration: R; round(lines / R) lines are sampled.
        centre_lines: lines around the centre, index ``lines // 2``, that are always sampled.
        density_std: standard deviation of the density as a share of ``lines``.
        seed: of the draw.

    Returns:
        ``(lines,)`` of 0 and 1.

    Raises:
        ValueError: if the centre alone has more lines than there are to sample.

    Example:
        >>> int(gaussian_line_mask(128, 4).sum())
        32
    """
    count = round(lines / acceleration)
    if acceleration < 1 or count < max(centre_lines, 1):
        raise ValueError(
            f"acceleration {acceleration:g} leaves {count} of {lines} lines, which is less than {centre_lines} "
            "centre_lines; take a smaller acceleration, at least 1, or fewer centre_lines."
        )
    mask = torch.zeros(lines)
    start = lines // 2 - centre_lines // 2
    mask[start : start + centre_lines] = 1
    distance = (torch.arange(lines, dtype=torch.float64) - lines // 2) / (density_std * lines)
    density = (torch.exp(-0.5 * distance.square()) + 1e-6) * (mask == 0)  # the rim can be drawn, too
    if count > centre_lines:
        rng = numpy_rng(seed, "line mask")
        drawn = rng.choice(lines, count - centre_lines, replace=False, p=(density / density.sum()).numpy())
        mask[torch.as_tensor(drawn)] = 1
    return mask


def mask_of_lines(indices: Sequence[int], lines: int) -> Tensor:
    """The mask of a list of lines.

    Args:
        indices: of the sampled lines, from 0.
        lines: of full k-space.

    Raises:
        DataError: if there are none, one is twice in the list, or one does not exist.
    """
    if not len(indices):
        raise DataError("the list of sampled lines is empty; name at least one.")
    twice = [index for index, count in Counter(int(index) for index in indices).items() if count > 1]
    if twice:
        raise DataError(f"line {twice[0]} is in the list of sampled lines twice or more; average its samples.")
    outside = [int(index) for index in indices if not 0 <= int(index) < lines]
    if outside:
        raise DataError(f"line {outside[0]} is not one of the {lines} lines of k-space; count from 0.")
    mask = torch.zeros(lines)
    mask[torch.as_tensor([int(index) for index in indices])] = 1
    return mask


def check_mask(mask: Tensor, image_size: tuple[int, int]) -> Tensor:
    """A mask as ``(B or 1, 1, H, W)``, also one in the shape that MONAI's mask transforms give it.

    Args:
        mask: numbers 0 and 1, or truth values; ``(W,)`` for whole lines, ``(H, W)``, ``(B, 1, H, W)``, or lines with
            further axes of length 1 around them.
        image_size: (H, W).

    Raises:
        DataError: if it has another size, samples nothing, or holds other numbers.
    """
    height, width = image_size
    given = torch.as_tensor(mask)
    flat = given.squeeze()
    if flat.ndim == 0:
        flat = flat[None]
    if flat.ndim == 1 and len(flat) == width:
        shaped = flat.expand(1, 1, height, width)
    elif tuple(flat.shape) == (height, width):
        shaped = flat[None, None]
    elif given.ndim == 4 and given.shape[1] == 1 and given.shape[-1] == width and given.shape[-2] in (1, height):
        shaped = given.expand(given.shape[0], 1, height, width)
    else:
        raise DataError(
            f"the mask has shape {tuple(given.shape)}, but k-space has {height}×{width} samples; give {width} numbers, "
            f"one for each line, or ({height}, {width})."
        )
    values = shaped.float()
    if not ((values == 0) | (values == 1)).all():
        raise DataError("the mask holds numbers other than 0 and 1, as where a line is counted twice; give 0 and 1.")
    if not values.flatten(1).any(1).all():
        raise DataError("the mask samples no line at all; it may be of another scan.")
    return values


def centre_line_count(mask: Tensor) -> int:
    """How many neighbouring lines around the centre are sampled over their whole length.

    Args:
        mask: ``(B, 1, H, W)``.
    """
    full = mask.flatten(0, 2).bool().all(0)
    middle = len(full) // 2
    if not full[middle]:
        return 0
    left = next((k for k in range(1, middle + 1) if not full[middle - k]), middle + 1)
    right = next((k for k in range(1, len(full) - middle) if not full[middle + k]), len(full) - middle)
    return left + right - 1
