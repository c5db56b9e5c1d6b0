"""Images that stand for a dataset, the same whatever the seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_blurvae.data.order import evenly_spread
from monai_blurvae.errors import DataError


def reference_images(dataset: Any, most: int, most_values: int) -> Tensor:
    """Images of a training, evenly spread over the data, the same at every call and for every seed.

    A dataset with a method ``unshuffled``, as this package's have, gives what an evaluation of its data would see.
    Of any other, such as a user's own, they are items by their index.

    Args:
        dataset: of ``{"image"}``, ``(C, *image_size)`` in [−1, 1]. Images that it skips are left out.
        most: how many at most.
        most_values: how many numbers they may have altogether at most, to bound the memory.

    Returns:
        ``(N, C, *image_size)`` float32.

    Raises:
        DataError: if there are none, or one cannot be used.
    """
    fixed = dataset.unshuffled(most) if hasattr(dataset, "unshuffled") else dataset

    def image(index: int) -> Tensor | None:
        try:
            return torch.as_tensor(fixed[index]["image"], dtype=torch.float32)
        except DataError:
            if getattr(dataset, "skip_bad_files", False):
                return None
            raise

    first = next((found for found in map(image, range(len(fixed))) if found is not None), None)
    if first is None:
        raise DataError("the training has no images that can be used; give its data.")
    images = map(image, evenly_spread(len(fixed), min(most, max(1, most_values // first.numel()))))
    return torch.stack([found for found in images if found is not None] or [first])
