"""The volumes that a command is given: a file, a folder, a DICOM series, a glob, or several of these."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from monai_blurvae.data.datalist import Datalist, evaluation_datalist, made_or_problem
from monai_blurvae.data.header import VOLUME_SUFFIXES, distinct_volumes, is_volume
from monai_blurvae.data.listing import Listing
from monai_blurvae.errors import DataError

WILDCARDS = "*?["


def input_datalist(
    inputs: str | Path | Sequence[str | Path] | None,
    dataset_dir: str | Path | None,
    image_pattern: str,
    output_dir: str | Path,
) -> Datalist:
    """The volumes to look at, as the test split of a list whose folder is what results keep the structure below.

    Args:
        inputs: a file, a folder, a folder with a DICOM series or a glob, or several of these.
        dataset_dir: without ``inputs``, the folder of the volumes.
        image_pattern: glob relative to ``dataset_dir``.
        output_dir: of the results, in which no inputs are looked for.

    Returns:
        The list, whose ``problem`` says what is wrong with the input.
    """
    if inputs is None:
        return evaluation_datalist(dataset_dir, image_pattern)
    given = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)

    def make() -> Datalist:
        found: dict[Path, None] = {}
        roots = []
        for place in given:
            volumes, root = _volumes(Path(place).expanduser().absolute(), Path(output_dir).expanduser().absolute())
            found |= dict.fromkeys(volumes)
            roots.append(root)
        items = [{"image": str(path), "subject": path.name} for path in found]
        return Datalist(Path(os.path.commonpath(roots)), test=items)

    return made_or_problem(make)


def _volumes(place: Path, output_dir: Path) -> tuple[list[Path], Path]:
    """Volumes of one input, and the folder that they lie in."""
    if place.exists():
        if place.is_dir() and not is_volume(place):
            return _in_folder(place, output_dir), place
        return [place], place.parent
    matches = [Path(match) for match in sorted(glob.glob(str(place), recursive=True))]  # noqa: PTH207 - of any root
    if not matches:
        raise DataError(f"input {place} does not exist; give a volume, a folder of volumes or a glob.")
    volumes = distinct_volumes(path for path in matches if not path.is_relative_to(output_dir))
    if not volumes:
        raise DataError(
            f"input {place} matches {len(matches)} file(s) or folder(s), {matches[0]} among them, but no volume "
            f"(known are {', '.join(VOLUME_SUFFIXES)} and folders with a DICOM series); change it, or convert them."
        )
    plain = [part for part in place.parts if not any(mark in part for mark in WILDCARDS)]
    fixed = Path(*place.parts[: next(i for i, part in enumerate([*place.parts, "*"]) if part not in plain)])
    return volumes, fixed if fixed.is_dir() else fixed.parent


def _in_folder(folder: Path, output_dir: Path) -> list[Path]:
    listed = Listing("**/*").of(folder)
    paths = [folder / name for name in sorted([*listed.files, *listed.folders, *listed.broken])]
    volumes = distinct_volumes(path for path in paths if not path.is_relative_to(output_dir))
    if not volumes:
        raise DataError(
            f"input {folder} is a folder without a volume ({len(listed.files)} file(s), none of "
            f"{', '.join(VOLUME_SUFFIXES)} or of a DICOM series); give another one, or convert them to NIfTI."
        )
    return volumes
