"""The files that are made of volumes: which are finished, which were left half-made, which are someone else's."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai_blurvae.data.header import volume_files
from monai_blurvae.data.result_names import ResultNames
from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import finishing, read_object, remove_leftovers, sha256_of
from monai_blurvae.handlers.voxel_size import TOLERANCE
from monai_blurvae.inferers import PreparedScan

logger = logging.getLogger(__name__)


def digest_of(path: str) -> str:
    """SHA-256 of the contents of all files of a volume, in hexadecimal."""
    return hashlib.sha256("".join(sha256_of(file) for file in volume_files(path)).encode()).hexdigest()


def is_finished(names: ResultNames, about: str, targets: Sequence[Path], settings: Mapping[str, Any]) -> bool:
    """Whether all results of a volume are there.

    Args:
        names: of the results.
        about: kind of the JSON with the ``settings``, which is written last.
        targets: the other files.
        settings: what the results depend on.

    Raises:
        RunFolderError: if there are results of other settings, or files that were not made by this package.
    """
    path = names.path(about, ".json")
    if path.is_file():
        require_same(path, settings)
        logger.info(f"{path} is there already.")
        return True
    there = [target for target in targets if target.exists()]
    if there and not _marker(names).exists():
        raise RunFolderError(f"{there[0]} is there and was not made by this; choose another output_dir.")
    return False


def require_same(path: Path, settings: Mapping[str, Any]) -> None:
    """Check the ``settings`` in a JSON.

    Args:
        path: of the JSON.
        settings: what is expected.

    Raises:
        RunFolderError: if one of them is another, or the file cannot be read.
    """
    before = read_object(path, "choose another output_dir").get("settings")
    before = before if isinstance(before, Mapping) else {}
    differing = [name for name, value in settings.items() if before.get(name) != value]
    if differing:
        name = differing[0]
        raise RunFolderError(
            f"{path} is of other settings, {name} was {before.get(name)!r} and is {settings[name]!r} now; "
            "choose another output_dir, or remove the results."
        )


@contextmanager
def writing_results(names: ResultNames, targets: Sequence[Path]) -> Iterator[None]:
    """Around the writing of a volume's results, see :func:`~monai_blurvae.files.finishing`.

    Args:
        names: of the results.
        targets: the files, of which none was there before.
    """
    with finishing(_marker(names), targets):
        remove_leftovers(names.folder, names.entities)
        yield


def warn_of_voxel_size(
    path: str, prepared: PreparedScan, trained: Sequence[float], slice_axis: int, remedy: str = ""
) -> None:
    """Say where a volume's voxels are not those of the training.

    Args:
        path: of the volume.
        prepared: the volume.
        trained: (row, column) of the training in mm; zeros if it is unknown.
        slice_axis: across which the slices lie.
        remedy: what the user can do about it.
    """
    sizes = [size for axis, size in enumerate(prepared.voxel_size) if axis != slice_axis]
    if min(trained) > 0 and any(abs(size / own - 1) > TOLERANCE for size, own in zip(sizes, trained, strict=True)):
        logger.warning(
            f"{path} has voxels of {_by(sizes)} mm in plane, where the model was trained on {_by(trained)} mm{remedy}, "
            "or expect worse results."
        )


def _marker(names: ResultNames) -> Path:
    return names.path("unfinished", "")


def _by(sizes: Sequence[float]) -> str:
    return "×".join(f"{size:.3g}" for size in sizes)
