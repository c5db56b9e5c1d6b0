"""The files that are made of volumes: which are finished, which were left half-made, which are someone else's."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai_blurvae.data.header import along_patch
from monai_blurvae.data.results import ResultNames, is_finished, marker_of
from monai_blurvae.files import finishing, remove_leftovers
from monai_blurvae.handlers.voxel_size import TOLERANCE
from monai_blurvae.inferers import PreparedScan

logger = logging.getLogger(__name__)


def is_there(names: ResultNames, about: str, targets: Sequence[Path], settings: Mapping[str, Any]) -> bool:
    """:func:`~monai_blurvae.data.results.is_finished`, which is logged where it is so."""
    there = is_finished(names, about, targets, settings)
    if there:
        logger.info(f"{names.path(about, '.json')} is there already.")
    return there


@contextmanager
def writing_results(names: ResultNames, targets: Sequence[Path]) -> Iterator[None]:
    """Around the writing of a volume's results, see :func:`~monai_blurvae.files.finishing`.

    Args:
        names: of the results.
        targets: the files, of which none was there before.
    """
    with finishing(marker_of(names), targets):
        remove_leftovers(names.folder, names.entities)
        yield


def warn_of_voxel_size(
    path: str, prepared: PreparedScan, trained: Sequence[float], slice_axis: int | None, remedy: str = ""
) -> None:
    """Say where a volume's voxels are not those of the training.

    Args:
        path: of the volume.
        prepared: the volume.
        trained: that of the training along the axes of a patch, in mm; zeros if it is unknown.
        slice_axis: across which the slices lie, None for cubes.
        remedy: what the user can do about it.
    """
    sizes = along_patch(prepared.voxel_size, slice_axis)
    if min(trained) > 0 and any(abs(size / own - 1) > TOLERANCE for size, own in zip(sizes, trained, strict=True)):
        logger.warning(
            f"{path} has voxels of {_by(sizes)} mm along the axes of a patch, where the model was trained on "
            f"{_by(trained)} mm{remedy}, or expect worse results."
        )


def _by(sizes: Sequence[float]) -> str:
    return "×".join(f"{size:.3g}" for size in sizes)
