"""The images of a batch, as both engines take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.engines import Workflow
from monai.engines.utils import default_prepare_batch
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_blurvae.errors import DataError


def images_of(engine: Workflow, batch: Any) -> Tensor:
    """The images ``(B, C, *image_size)`` of a batch on the engine's device, as a plain tensor.

    Args:
        engine: whose hook ``prepare_batch`` takes them out.
        batch: of the data loader; for MONAI's own hook a dictionary with ``image``.

    Raises:
        DataError: if there are none, their type is not float32, or they hold NaN or infinite values, which would stay
            in the running statistics of batch norms and likelihoods.
    """
    if engine.prepare_batch is default_prepare_batch and not (isinstance(batch, Mapping) and CommonKeys.IMAGE in batch):
        found = f"the keys {sorted(batch)}" if isinstance(batch, Mapping) else f"the type {type(batch).__name__}"
        raise DataError(
            f"a batch has {found}, where a dictionary with 'image' is expected; let the data set give "
            "{'image': image} for each of its items."
        )
    images = engine.prepare_batch(batch, engine.state.device, engine.non_blocking, **engine.to_kwargs)[0]
    if not isinstance(images, Tensor) or images.dtype != torch.float32:
        found = f"numbers of {images.dtype}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise DataError(
            f"'image' of a batch is {found}, where a tensor of torch.float32 with values from -1 to 1 is expected; "
            "scale and convert the images in the transforms."
        )
    # as the loader gave them, mostly on the CPU: a look at the device's copy would have to wait for it
    given = batch[CommonKeys.IMAGE] if engine.prepare_batch is default_prepare_batch else images
    if not bool(torch.isfinite(given).all()):
        sources = ", ".join(sorted(set(batch.get("source", [])))) if isinstance(batch, Mapping) else ""
        raise DataError(
            f"'image' of a batch holds NaN or infinite values{f', cut from {sources}' if sources else ''}; repair the "
            "images, or replace such values in the transforms."
        )
    return images.as_tensor() if isinstance(images, MetaTensor) else images
