"""The predicted kernels over a training, from what it wrote for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from monai_blurvae.errors import RunFolderError
from monai_blurvae.handlers.pictures import Pixels
from monai_blurvae.report.figures import strips
from monai_blurvae.report.record import KERNELS, PICTURES, read_history

WIDTH_TRAINING, WIDTH_VALIDATION = "train/kernel_width", "validation/kernel_width"


class KernelHistory(NamedTuple):
    """The kernels of one training.

    Attributes:
        pictures: at the epochs with a validation, the kernels of the same few validation images in a row, each
            relative to its maximum, ``(height, width)``.
        training: mean width in pixels over the training patches of each epoch.
        validation: likewise over the validation patches, at the epochs of ``pictures``.
        reconstructions: of the same images, at these epochs, ``(height, width)`` or ``(height, width, 3)``.
        images: these images; None where they were not drawn.
    """

    pictures: Mapping[int, Pixels]
    training: Mapping[int, float]
    validation: Mapping[int, float]
    reconstructions: Mapping[int, Pixels] = {}
    images: Pixels | None = None


def read_kernels(folder: Path) -> KernelHistory:
    """Read the event files of a run.

    Args:
        folder: of the event files.

    Raises:
        RunFolderError: if there are none, if they cannot be read, or if no kernel was trained.
    """
    history = read_history(folder)
    widths = history.scalar(WIDTH_TRAINING), history.scalar(WIDTH_VALIDATION)
    pictures = history.picture(KERNELS)
    if not (history.trains_kernel and all(widths) and pictures):
        raise RunFolderError(f"{folder} holds no kernels of a training.")
    try:
        kernels = {epoch: strips(picture, 1)[0] for epoch, picture in pictures.items()}
        shown = {epoch: strips(picture, 3) for epoch, picture in history.picture(PICTURES).items()}
        images = next((rows[0] for rows in shown.values()), None)
        return KernelHistory(kernels, *widths, {epoch: rows[1] for epoch, rows in shown.items()}, images)
    except OSError as error:
        raise RunFolderError(f"a picture of kernels in {folder} cannot be read ({error}).") from error
