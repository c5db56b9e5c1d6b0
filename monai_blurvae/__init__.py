"""Variational autoencoders that explicitly minimise their blur error, as a MONAI plugin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monai_blurvae.trained import TrainedModel

__version__ = "0.1.0"

SAMPLE_MODEL = Path(__file__).parent / "trained" / "sample_model.zip"
"""A packed bundle that comes with the package: a narrow network, trained on the synthetic sample, to try things on."""


def load(path: str | Path = SAMPLE_MODEL, device: str = "cpu") -> TrainedModel:
    """Load a trained model as one object that takes images as they are.

    Nothing from the path is run; torch and MONAI are imported by the first call.

    Args:
        path: the folder of a finished run, a packed bundle, or its zip; by default :data:`SAMPLE_MODEL`.
        device: to compute on.

    Returns:
        :class:`~monai_blurvae.trained.TrainedModel` with ``reconstruct``, ``encode``, ``sample``, ``log_prob`` and
        ``prior``.

    Raises:
        RunFolderError: if it is none of these, unfinished, broken, or of another version, in a sentence.
    """
    from monai_blurvae.trained import TrainedModel

    return TrainedModel.load(path, device)
