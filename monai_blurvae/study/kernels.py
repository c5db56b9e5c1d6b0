"""The predicted kernels over a training, from what it wrote for TensorBoard."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator

from monai_blurvae.errors import RunFolderError
from monai_blurvae.handlers.pictures import LABEL_HEIGHT, Pixels

PICTURES = "kernels"
TRAINED = "train/kernel_loss"
WIDTH_TRAINING, WIDTH_VALIDATION = "train/kernel_width", "validation/kernel_width"


class KernelHistory(NamedTuple):
    """The kernels of one training.

    Attributes:
        pictures: at the epochs with a validation, the kernels of the same few validation images in a row, each
            relative to its maximum, ``(height, width)``.
        training: mean width in pixels over the training patches of each epoch.
        validation: likewise over the validation patches, at the epochs of ``pictures``.
    """

    pictures: Mapping[int, Pixels]
    training: Mapping[int, float]
    validation: Mapping[int, float]


def read_kernels(folder: Path) -> KernelHistory:
    """Read the event files of a run.

    Args:
        folder: of the event files.

    Raises:
        RunFolderError: if there are none, if they cannot be read, or if no kernel was trained.
    """
    if not folder.is_dir():
        raise RunFolderError(f"{folder} is not there.")
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every end of a file and every resumed run
    events = EventAccumulator(str(folder), size_guidance={IMAGES: 0, SCALARS: 0})  # 0 keeps all
    try:
        events.Reload()
        tags = events.Tags()
        absent = [tag for tag in (TRAINED, WIDTH_TRAINING, WIDTH_VALIDATION) if tag not in tags["scalars"]]
        absent += [PICTURES] if PICTURES not in tags["images"] else []
        if absent:
            raise RunFolderError(f"the event files in {folder} hold no {absent[0]!r}.")
        # Of an epoch that was done again the last counts.
        return KernelHistory(
            {image.step: _kernels(image.encoded_image_string) for image in events.Images(PICTURES)},
            {scalar.step: scalar.value for scalar in events.Scalars(WIDTH_TRAINING)},
            {scalar.step: scalar.value for scalar in events.Scalars(WIDTH_VALIDATION)},
        )
    except RunFolderError:
        raise
    except Exception as error:  # the readers of events, of their messages and of PNGs have errors of their own
        raise RunFolderError(
            f"the event files in {folder} cannot be read ({type(error).__name__}: {error})."
        ) from error


def _kernels(picture: bytes) -> Pixels:
    """The row of kernels in TensorBoard's picture, without the label above it."""
    with Image.open(io.BytesIO(picture)) as image:
        return np.asarray(image.convert("L"))[LABEL_HEIGHT:]
