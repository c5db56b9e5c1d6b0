"""Which volume belongs to which split, always by subject."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from monai_blurvae.errors import DataError
from monai_blurvae.files import write_json
from monai_blurvae.seeding import numpy_rng

SPLITS = ("training", "validation", "test")
TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.1
NIFTI_SUFFIXES = (".nii.gz", ".nii")
SAMPLE_DESCRIPTION = "synthetic: MNI152 template, deformed at random"
"""By which the built-in sample's data list is known."""
SYNTHETIC_REMARK = "SYNTHETIC images"
"""What every table of results says of synthetic volumes."""


@dataclass
class Datalist:
    """Volumes of each split, in the layout of MONAI's decathlon data lists.

    Attributes:
        dataset_dir: folder that the image paths are relative to.
        training: dictionaries with ``image`` and ``subject``.
        validation: like ``training``.
        test: like ``training``; may be empty in a list that a user wrote.
        description: a line on where the data is from.
        remark: what every table of results has to say of the data, for example that it is a sample; mostly nothing.
        problem: why the list is empty, where it was to be found and could not be; a sentence.
    """

    dataset_dir: Path = Path()
    training: list[dict[str, str]] = field(default_factory=list)
    validation: list[dict[str, str]] = field(default_factory=list)
    test: list[dict[str, str]] = field(default_factory=list)
    description: str = ""
    remark: str = ""
    problem: str = ""

    def __post_init__(self) -> None:
        self.dataset_dir = Path(self.dataset_dir)

    @classmethod
    def of(
        cls, dataset_dir: Path, parts: Mapping[str, list[dict[str, str]]], description: str = "", remark: str = ""
    ) -> Datalist:
        """A list from its splits by name; one that is not there is empty."""
        training, validation, test = (parts.get(split, []) for split in SPLITS)
        return cls(dataset_dir, training, validation, test, description, remark)

    @classmethod
    def empty(cls, problem: str) -> Datalist:
        """A list without entries.

        Args:
            problem: why there are none, a sentence.
        """
        return cls(problem=problem)

    def items(self, split: str) -> list[dict[str, str]]:
        """Entries of one split with absolute image paths, and the list's ``remark`` if it has one."""
        entries: list[dict[str, str]] = getattr(self, split)
        more = {"remark": self.remark} if self.remark else {}
        return [{**entry, "image": str(self.dataset_dir / entry["image"]), **more} for entry in entries]

    def require(self) -> Datalist:
        """The list itself, if it could be found.

        Raises:
            DataError: with the problem, if there is one.
        """
        if self.problem:
            raise DataError(self.problem)
        return self

    def write(self, path: str | Path) -> None:
        """Write the list, to be taken back by :func:`read_datalist`."""
        content = {"description": self.description, "remark": self.remark, "dataset_dir": str(self.dataset_dir)}
        write_json(path, content | {split: getattr(self, split) for split in SPLITS})


def find_volumes(dataset_dir: str | Path, image_pattern: str) -> list[dict[str, str]]:
    """List the volumes of a folder.

    The subject is the BIDS label ``sub-…`` where the path has one; else, for a pattern whose file name is fixed, the
    folder that the first wildcard stands for (HCP); else the name of the file, with its folder if the name alone is
    not unique.

    Args:
        dataset_dir: the folder.
        image_pattern: glob relative to it, ``**`` included.

    Returns:
        Dictionaries with ``image`` (relative, with forward slashes) and ``subject``, sorted by subject.

    Raises:
        DataError: if the folder or matching files are missing, or two files are of one subject.
    """
    root = Path(dataset_dir).expanduser()
    if not root.is_dir():
        raise DataError(f"dataset_dir {root} is not a folder; give the folder that holds the volumes.")
    if PurePosixPath(image_pattern).is_absolute():
        raise DataError(f"image_pattern {image_pattern!r} is absolute; make it relative to dataset_dir {root}.")
    files = [p for p in sorted(root.glob(image_pattern)) if p.is_file() and p.name.endswith(NIFTI_SUFFIXES)]
    if not files:
        raise DataError(
            f"dataset_dir {root} holds no NIfTI file that matches {image_pattern!r}; set image_pattern to a glob "
            "relative to dataset_dir, for example '*.nii.gz'."
        )
    relative = [p.relative_to(root).as_posix() for p in files]
    by_subject = defaultdict(list)
    for path, subject in zip(relative, _subjects(relative, image_pattern), strict=True):
        by_subject[subject].append(path)
    for subject, paths in by_subject.items():
        if len(paths) > 1:
            raise DataError(
                f"subject {subject} has {len(paths)} files, {paths[0]} and {paths[1]} among them; "
                "narrow image_pattern to one file for each subject."
            )
    return [{"image": paths[0], "subject": subject} for subject, paths in sorted(by_subject.items())]


def split_subjects(volumes: Sequence[dict[str, str]], seed: int) -> dict[str, list[dict[str, str]]]:
    """Split by subject: 20 % test, then 10 % of the rest, at least one, validation.

    Args:
        volumes: one for each subject, as :func:`find_volumes` returns them.
        seed: of the split.

    Returns:
        The volumes of ``training``, ``validation`` and ``test``, each sorted by subject.

    Raises:
        DataError: for fewer than three subjects.
    """
    if len(volumes) < 3:
        raise DataError(
            f"found {len(volumes)} subject(s), but training, validation and test need at least 3; add volumes, or "
            "write the split yourself and give it as datalist."
        )
    shuffled = [volumes[i] for i in numpy_rng(seed, "split").permutation(len(volumes))]
    test = max(1, round(TEST_FRACTION * len(volumes)))
    validation = max(1, round(VALIDATION_FRACTION * (len(volumes) - test)))
    parts = {
        "test": shuffled[:test],
        "validation": shuffled[test : test + validation],
        "training": shuffled[test + validation :],
    }
    return {split: sorted(parts[split], key=lambda item: item["subject"]) for split in SPLITS}


def read_datalist(path: str | Path, dataset_dir: str | Path | None = None) -> Datalist:
    """Read a data list.

    Args:
        path: JSON with ``training``, ``validation`` and, optionally, ``test``, lists of ``{"image", "subject"}``.
        dataset_dir: what relative image paths are relative to; by default the list's own ``dataset_dir``, or the
            folder of the list.

    Raises:
        DataError: if the list cannot be read, lacks a split, names a subject twice or a file that is not there.
    """
    path = Path(path).expanduser()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"datalist {path} cannot be read as JSON ({error}); check the path and the file.") from error
    if not isinstance(content, dict):
        raise DataError(f"datalist {path} holds a {type(content).__name__}, where an object with splits is expected.")
    parts = {split: _entries(path, split, content.get(split, [])) for split in SPLITS}
    for split in ("training", "validation"):
        if not parts[split]:
            raise DataError(f"datalist {path} has no entry under '{split}'; give it at least one volume.")
    _require_distinct_subjects(path, parts)
    root = Path(dataset_dir or content.get("dataset_dir") or path.parent).expanduser()
    texts = {name: str(content.get(name, "")) for name in ("description", "remark")}
    datalist = Datalist.of(root, parts, **texts)
    for file in dict.fromkeys(image_file(item["image"]) for split in SPLITS for item in datalist.items(split)):
        if not Path(file).is_file():
            raise DataError(f"datalist {path} names {file}, which is not there; check dataset_dir.")
    return datalist


def read_split(path: str | Path, dataset_dir: str | Path | None, split: str) -> Datalist:
    """One split of a data list, as the test split of a new one.

    Args:
        path: see :func:`read_datalist`.
        dataset_dir: see :func:`read_datalist`.
        split: ``"training"``, ``"validation"``, ``"test"`` or ``"all"``.

    Raises:
        DataError: if the list cannot be used or has nothing under that split.
    """
    listed = read_datalist(path, dataset_dir)
    entries = [entry for name in SPLITS if split in (name, "all") for entry in getattr(listed, name)]
    if not entries:
        raise DataError(f"datalist {path} has no entry under '{split}'; choose another split.")
    return Datalist(listed.dataset_dir, [], [], entries, f"{split} images of {path}", listed.remark)


def load_datalist(
    dataset_dir: str | Path | None, image_pattern: str, datalist: str | Path | None, seed: int
) -> Datalist:
    """The data of a training: a given list, the built-in sample's, or a folder split by subject and seed.

    Where there is nothing that can be used the list is empty and has the sentence that says why as its ``problem``, so
    that a config can be read where its data is not.

    Args:
        dataset_dir: folder of volumes.
        image_pattern: glob relative to ``dataset_dir``.
        datalist: path of a list that overrides the split, or None.
        seed: of the split.
    """
    try:
        given = datalist or _sample_datalist(dataset_dir)
        if given:
            return read_datalist(given, dataset_dir)
        root = _require_folder(dataset_dir)
        parts = split_subjects(find_volumes(root, image_pattern), seed)
    except DataError as error:
        return Datalist.empty(str(error))
    return Datalist.of(root, parts, f"{image_pattern} in {root}, split by subject with seed {seed}")


def evaluation_datalist(
    dataset_dir: str | Path | None,
    image_pattern: str,
    datalist: str | Path | None = None,
    split: str = "all",
) -> Datalist:
    """The volumes that an evaluation looks at, as the test split of a list; without any as :func:`load_datalist`.

    Args:
        dataset_dir: folder of volumes, all of which are evaluated when no list is given and it is not the sample.
        image_pattern: glob relative to ``dataset_dir``.
        datalist: list whose split is evaluated.
        split: ``"training"``, ``"validation"``, ``"test"`` or ``"all"``.
    """
    try:
        given = datalist or _sample_datalist(dataset_dir)
        if given:
            return read_split(given, dataset_dir, split)
        root = _require_folder(dataset_dir)
        return Datalist(root, [], [], find_volumes(root, image_pattern), f"{image_pattern} in {root}")
    except DataError as error:
        return Datalist.empty(str(error))


def _sample_datalist(dataset_dir: str | Path | None) -> Path | None:
    """The list that the built-in sample carries; one that a user left among the images is not used unasked."""
    path = None if dataset_dir is None else Path(dataset_dir).expanduser() / "datalist.json"
    if path is None or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_sample = isinstance(content, dict) and content.get("description") == SAMPLE_DESCRIPTION
    return path if is_sample else None


def _require_folder(dataset_dir: str | Path | None) -> Path:
    if dataset_dir is None:
        raise DataError("there is no data; give the folder that holds the volumes as dataset_dir, or a datalist.")
    return Path(dataset_dir).expanduser().resolve()


def subject_of(path: str) -> str:
    """A subject's name for a file of which nothing else is known: its own, without folder and suffix."""
    return _without_suffix(PurePosixPath(path).name)


def image_file(path: str) -> str:
    """The file that an entry lies in: its path without ``#17``, which names a row of a CIFAR-10 batch.

    A text of a text, since a list may hold hundreds of thousands.
    """
    file, _, row = path.rpartition("#")
    return file if file and row.isdigit() else path


def _subjects(paths: Sequence[str], image_pattern: str) -> list[str]:
    bids = [re.search(r"(?:^|/)(sub-[A-Za-z0-9]+)(?=[_/.])", path) for path in paths]
    if all(bids):
        return [match.group(1) for match in bids if match]
    pattern = PurePosixPath(image_pattern).parts
    wild = [bool(re.search(r"[*?\[]", part)) for part in pattern]
    if any(wild) and not wild[-1] and "**" not in pattern:
        return [PurePosixPath(path).parts[wild.index(True)] for path in paths]
    names = [_without_suffix(PurePosixPath(path).name) for path in paths]
    folders = {PurePosixPath(path).parent for path in paths}
    if len(set(names)) == len(names) or len(folders) == 1:
        return names
    return [_without_suffix(path) for path in paths]


def _without_suffix(name: str) -> str:
    for suffix in NIFTI_SUFFIXES:
        if name.endswith(suffix):
            return name[: -len(suffix)]
    return name


def _entries(path: Path, split: str, entries: Any) -> list[dict[str, str]]:
    if not isinstance(entries, list):
        raise DataError(f"datalist {path} has no list under '{split}'.")
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            raise DataError(f"datalist {path} has an entry without 'image' under '{split}': {entry!r}.")
    return [{"image": e["image"], "subject": str(e.get("subject", _without_suffix(e["image"])))} for e in entries]


def _require_distinct_subjects(path: Path, parts: dict[str, list[dict[str, str]]]) -> None:
    seen: dict[str, str] = {}
    for split in SPLITS:
        for entry in parts[split]:
            subject = entry["subject"]
            if subject in seen:
                raise DataError(
                    f"datalist {path} has subject {subject} under '{seen[subject]}' and '{split}'; "
                    "a subject may stand in it once."
                )
            seen[subject] = split
