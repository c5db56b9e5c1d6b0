"""Results of a volume that are there already: whether they are finished, of the same settings, and ours."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_blurvae.data.header import volume_files
from monai_blurvae.data.result_names import ResultNames
from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import read_object, sha256_of


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
        return True
    there = [target for target in targets if target.exists()]
    if there and not marker_of(names).exists():
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


def marker_of(names: ResultNames) -> Path:
    """The file that is there while results are written, see :func:`~monai_blurvae.files.finishing`."""
    return names.path("unfinished", "")
