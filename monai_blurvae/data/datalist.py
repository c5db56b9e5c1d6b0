"""Which volume belongs to which split, always by person."""

from __future__ import annotations

import fnmatch
import glob
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from monai_blurvae.data.header import VOLUME_SUFFIXES, distinct_volumes, is_volume
from monai_blurvae.data.people import known_person, label_maps, persons, unique_names, without_suffix
from monai_blurvae.errors import DataError
from monai_blurvae.files import handle_absent, how_to_get, is_absent, write_json
from monai_blurvae.seeding import numpy_rng

logger = logging.getLogger(__name__)


@dataclass
class Listing:
    """What a glob matches in a folder: paths relative to it, with forward slashes.

    Attributes:
        files: that are there.
        folders: likewise.
        hidden: files whose name begins with a dot, such as ``._scan.nii``.
        broken: links that lead to nothing.
    """

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def list_folder(root: Path, pattern: str) -> Listing:
    """List what matches, opening no file and entering only folders in which something may match.

    Upper and lower case are the same, links to folders and files are followed, and hidden folders are not entered.

    Args:
        root: the folder.
        pattern: glob relative to the folder, ``**`` included.

    Raises:
        DataError: if it or a folder in it cannot be listed.
    """
    parts = [part.lower() for part in PurePosixPath(pattern).parts]
    parts += ["*"] if parts[-1:] == ["**"] else []
    found = Listing()

    def walk(folder: str, names: list[str], prefix: str, above: frozenset[tuple[int, int]]) -> None:
        status = os.stat(folder)  # noqa: PTH116 - with scandir, for speed
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link to a folder that it lies in
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                below, path = [*names, entry.name.lower()], prefix + entry.name
                hidden, is_folder = entry.name.startswith("."), entry.is_dir()
                if is_folder and not hidden and _fits(below, parts, begin=True):
                    walk(entry.path, below, f"{path}/", above | {here})
                if (is_folder and hidden) or not _fits(below, parts):
                    continue
                is_file = entry.is_file() or not entry.is_symlink()
                kind = found.folders if is_folder else found.hidden if hidden else found.files
                (kind if is_folder or hidden or is_file else found.broken).append(path)

    try:
        walk(str(root), [], "", frozenset())
    except OSError as error:
        raise DataError(
            f"the folder {error.filename or root} cannot be listed ({error.strerror or error}); check its permissions."
        ) from error
    return found


def _fits(names: list[str], parts: list[str], begin: bool = False) -> bool:
    """Whether a path matches a glob, or, with ``begin``, whether something below it may."""
    if not names or not parts:
        return bool(parts) if begin and not names else not names and not parts
    if parts[0] == "**":
        return _fits(names, parts[1:], begin) or _fits(names[1:], parts, begin)
    return fnmatch.fnmatchcase(names[0], parts[0]) and _fits(names[1:], parts[1:], begin)


def require_listable(root: Path, pattern: str, what: str) -> None:
    """Check a folder and a glob before they are used.

    Args:
        root: the folder.
        pattern: the glob.
        what: the folder has to hold, for the message.

    Raises:
        DataError: if the folder is not there or the glob is absolute.
    """
    if not root.is_dir():
        found = "but a file" if root.exists() else "nothing is there"
        raise DataError(f"dataset_dir {root} is not a folder, {found}; give the folder that holds the {what}.")
    if PurePosixPath(pattern).is_absolute():
        raise DataError(f"image_pattern {pattern!r} is absolute; make it relative to dataset_dir {root}.")


def count_text(number: int, what: str) -> str:
    """``"1 image"``, ``"2 images"``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def example_of(paths: Sequence[str]) -> str:
    """The first of some files, one that a user can see before a hidden one."""
    return min(paths, key=lambda path: (path.rpartition("/")[2].startswith("."), path))


SPLITS = ("training", "validation", "test")
TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.1
SAMPLE_DESCRIPTION = "synthetic: MNI152 template, deformed at random"
"""By which the built-in sample's data list is known."""
SYNTHETIC_REMARK = "SYNTHETIC images"
"""What every table of results says of synthetic volumes."""


@dataclass
class Datalist:
    """Volumes of each split, in the layout of MONAI's decathlon data lists.

    Attributes:
        dataset_dir: folder that the image paths are relative to.
        training: dictionaries with ``image``, ``subject``, the person, and, where a person has several volumes,
            ``name``, which tells them apart.
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


def find_volumes(
    dataset_dir: str | Path, image_pattern: str, subject_pattern: str | None = None, skip_absent: bool = False
) -> list[dict[str, str]]:
    """List the volumes of a folder, and say in the log what was taken for a person.

    Args:
        dataset_dir: the folder.
        image_pattern: glob relative to it, ``**`` included; upper and lower case are the same. It may match files and
            folders with the DICOM files of one series. Hidden files are ignored and counted in the log.
        subject_pattern: regular expression whose group is the person, searched for in the path of each volume relative
            to the folder; None for the conventions of :func:`~monai_blurvae.data.people.persons`.
        skip_absent: leave out links that lead to nothing, and files that git-annex or git-lfs has not downloaded, with
            a warning, in place of refusing them.

    Returns:
        Dictionaries with ``image`` (relative, with forward slashes), ``subject``, the person, and, for persons with
        several volumes, ``name``, which is unique; sorted by subject and image.

    Raises:
        DataError: if the folder or matching volumes are missing, or ``subject_pattern`` cannot be used.
    """
    root = Path(dataset_dir).expanduser()
    require_listable(root, image_pattern, "volumes")
    found = list_folder(root, image_pattern)
    links = [path for path in found.broken if _has_suffix(path)]
    paths = [p.relative_to(root).as_posix() for p in distinct_volumes(root / n for n in found.files + found.folders)]
    pointers = [path for path in paths if is_absent(root / path)]
    absent = set(links + pointers)
    handle_absent(root, sorted(absent), len(paths) + len(links), skip_absent)
    paths = sorted(path for path in paths if path not in absent)
    if found.hidden:
        logger.info(f"Ignored {count_text(len(found.hidden), 'hidden file')}, {example_of(found.hidden)} among them.")
    if not paths:
        raise _nothing_found(root, image_pattern, found)
    _warn_of_label_maps(paths)
    people = persons(paths, image_pattern, VOLUME_SUFFIXES, subject_pattern)
    entries = [{"image": path, "subject": person} for path, person in zip(paths, people, strict=True)]
    unique_names(entries, VOLUME_SUFFIXES)
    entries.sort(key=lambda entry: (entry["subject"], entry["image"]))
    _say_who(entries)
    return entries


def _say_who(entries: Sequence[dict[str, str]]) -> None:
    """Log who was taken for a person, by the first who has several volumes, with the first and last of these."""
    people = Counter(entry["subject"] for entry in entries)
    subject, count = next(((name, count) for name, count in people.items() if count > 1), (entries[0]["subject"], 1))
    images = [entry["image"] for entry in entries if entry["subject"] == subject]
    together = images[0] if count == 1 else f"{images[0]} and {images[-1]}, {count} in all,"
    several = sum(count > 1 for count in people.values())
    logger.info(
        f"{count_text(len(entries), 'volume')} of {count_text(len(people), 'person')}, {several} of them with several: "
        f"{together} {'was' if count == 1 else 'were'} taken for {subject}'s. If that is wrong, set subject_pattern."
    )


def _warn_of_label_maps(paths: Sequence[str]) -> None:
    if maps := label_maps(paths, VOLUME_SUFFIXES):
        logger.warning(
            f"{len(maps)} of {count_text(len(paths), 'volume')} look like label maps by their names, {maps[0]} the "
            "first; if they are no images, narrow image_pattern or take them out of the data list."
        )


def _has_suffix(path: str) -> bool:
    return path.lower().endswith(VOLUME_SUFFIXES)


def _nothing_found(root: Path, image_pattern: str, found: Listing) -> DataError:
    """What a glob matched, if it was no volume, or else what there is."""
    known = ", ".join(VOLUME_SUFFIXES)
    slices = next((path for path in sorted(found.files) if is_volume((root / path).parent)), None)
    if slices:
        folder = PurePosixPath(slices).parent.as_posix()
        advice = "give its parent as dataset_dir" if folder == "." else f"let it match the folders, {folder} among them"
        return DataError(
            f"image_pattern {image_pattern!r} matches {count_text(len(found.files), 'file')} in dataset_dir {root}, "
            f"{slices} among them, which is one slice of a DICOM series; {advice}, for a folder with one series is a "
            "volume."
        )
    if found.files:
        return DataError(
            f"image_pattern {image_pattern!r} matches {count_text(len(found.files), 'file')} in dataset_dir {root}, "
            f"{example_of(found.files)} among them, but none of a known format ({known}, or a folder with a DICOM "
            "series); convert them to NIfTI, for example with dcm2niix, mri_convert or nibabel, or set image_pattern "
            "to the files that hold the volumes."
        )
    everything = list_folder(root, "**/*")
    volumes = [path for path in everything.files if _has_suffix(path)]
    among = f", {min(volumes)} among them" if volumes else ""
    return DataError(
        f"dataset_dir {root} holds no volume that matches {image_pattern!r} (it holds "
        f"{count_text(len(volumes), 'volume')}{among}); set image_pattern to a glob relative to dataset_dir, for "
        "example '**/*.nii.gz'."
    )


def split_subjects(volumes: Sequence[dict[str, str]], seed: int) -> dict[str, list[dict[str, str]]]:
    """Split by person: 20 % test, then 10 % of the rest, at least one, validation.

    Args:
        volumes: as :func:`find_volumes` returns them; all of one ``subject`` come into one split.
        seed: of the split.

    Returns:
        The volumes of ``training``, ``validation`` and ``test``, each sorted by subject.

    Raises:
        DataError: for fewer than three persons.
    """
    people = list(dict.fromkeys(volume["subject"] for volume in volumes))
    if len(people) < 3:
        names = f" ({', '.join(people)})" if people else ""
        raise DataError(
            f"found {count_text(len(volumes), 'volume')} of {len(people)} subject(s){names}, but training, validation "
            "and test need at least 3; add volumes, set subject_pattern if they are of more persons, or write the "
            "split yourself and give it as datalist."
        )
    shuffled = [people[i] for i in numpy_rng(seed, "split").permutation(len(people))]
    test = max(1, round(TEST_FRACTION * len(people)))
    validation = max(1, round(VALIDATION_FRACTION * (len(people) - test)))
    split_of = dict.fromkeys(shuffled, "training")
    split_of |= dict.fromkeys(shuffled[:test], "test")
    split_of |= dict.fromkeys(shuffled[test : test + validation], "validation")
    ordered = sorted(volumes, key=lambda item: item["subject"])
    return {split: [item for item in ordered if split_of[item["subject"]] == split] for split in SPLITS}


def draw_validation(
    training: list[dict[str, str]], where: str | Path, seed: int
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Draw 10 % of the persons in a training split, at least one, for its validation.

    Args:
        training: dictionaries with ``subject``.
        where: the split is from, for the message.
        seed: of what is drawn.

    Returns:
        Training and validation, in the order that they came in.

    Raises:
        DataError: for fewer than two persons.
    """
    people = list(dict.fromkeys(entry["subject"] for entry in training))
    if len(people) < 2:
        raise DataError(
            f"{where} has {count_text(len(people), 'subject')} to train on and names none for validation, but "
            "both need at least 1; add some."
        )
    count = max(1, round(VALIDATION_FRACTION * len(people)))
    drawn = {people[i] for i in numpy_rng(seed, "validation").permutation(len(people))[:count].tolist()}
    rest = [entry for entry in training if entry["subject"] not in drawn]
    return rest, [entry for entry in training if entry["subject"] in drawn]


def read_datalist(path: str | Path, dataset_dir: str | Path | None = None, seed: int = 0) -> Datalist:
    """Read a data list, also one of the Medical Segmentation Decathlon.

    Args:
        path: JSON with ``training``, ``validation`` and, optionally, ``test``: lists of paths or of ``{"image",
            "subject", "name"}``, of which ``image`` is needed. Without a ``subject`` a volume is of
            the person whose name in BIDS, ADNI, OASIS or HCP is in its path, or else of another than all others.
        dataset_dir: what relative image paths are relative to; by default the list's own ``dataset_dir``, or the
            folder of the list.
        seed: of the validation set, 10 % of the training persons, of a list that has no ``validation``.

    Raises:
        DataError: if the list cannot be read, lacks a split, has a person or an image in two, an image twice, or names
            a file that is not there.
    """
    listed = _parse(path, dataset_dir)
    if not listed.training:
        raise DataError(f"datalist {path} has no entry under 'training'; give it at least one image.")
    if not listed.validation:
        listed.training, listed.validation = draw_validation(listed.training, f"datalist {path}", seed)
        logger.info(
            f"datalist {path} names nothing under 'validation'; drew {count_text(len(listed.validation), 'image')} of "
            f"its training for that, with seed {seed}."
        )
    return listed


def _parse(path: str | Path, dataset_dir: str | Path | None) -> Datalist:
    """A data list as it is, with whatever splits it has."""
    path = Path(path).expanduser()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"datalist {path} cannot be read as JSON ({error}); check the path and the file.") from error
    if not isinstance(content, dict):
        raise DataError(f"datalist {path} holds a {type(content).__name__}, where an object with splits is expected.")
    parts = {split: _entries(path, split, content.get(split, [])) for split in SPLITS}
    for key, what in (("image", "image"), ("subject", "subject"), ("sha256", "content")):
        _require_one_split(path, parts, key, what)
    _require_once(path, parts)
    kept = {split: [_plain(entry) for entry in parts[split]] for split in SPLITS}
    unique_names([entry for split in SPLITS for entry in kept[split]], VOLUME_SUFFIXES)
    root = Path(dataset_dir or content.get("dataset_dir") or path.parent).expanduser()
    texts = {name: str(content.get(name, "")) for name in ("description", "remark")}
    datalist = Datalist.of(root, kept, **texts)
    _require_files(path, datalist)
    _warn_of_label_maps([e["image"] for split in SPLITS for e in kept[split] if _has_suffix(e["image"])])
    return datalist


def _require_files(path: Path, datalist: Datalist) -> None:
    files = dict.fromkeys(image_file(item["image"]) for split in SPLITS for item in datalist.items(split))
    missing = [file for file in files if not Path(file).exists()]
    if missing:
        link = Path(missing[0]).is_symlink()
        raise DataError(
            f"datalist {path} names {missing[0]}, which is not there, as {len(missing)} of {len(files)}; "
            f"{how_to_get(missing[0]) if link else 'check dataset_dir'}."
        )


def read_split(path: str | Path, dataset_dir: str | Path | None, split: str) -> Datalist:
    """One split of a data list, as the test split of a new one.

    Args:
        path: see :func:`read_datalist`.
        dataset_dir: see :func:`read_datalist`.
        split: ``"training"``, ``"validation"``, ``"test"`` or ``"all"``.

    Raises:
        DataError: if the list cannot be used or has nothing under that split.
    """
    listed = _parse(path, dataset_dir)
    entries = [entry for name in SPLITS if split in (name, "all") for entry in getattr(listed, name)]
    if not entries:
        held = ", ".join(f"{len(getattr(listed, name))} under '{name}'" for name in SPLITS)
        raise DataError(f"datalist {path} has no entry under '{split}', but {held}; choose another split.")
    return Datalist(listed.dataset_dir, [], [], entries, f"{split} images of {path}", listed.remark)


def load_datalist(
    dataset_dir: str | Path | None,
    image_pattern: str,
    datalist: str | Path | None,
    seed: int,
    subject_pattern: str | None = None,
    skip_bad_files: bool = False,
) -> Datalist:
    """The data of a training: a given list, the built-in sample's, or a folder split by person and seed.

    Where there is nothing that can be used the list is empty and has the sentence that says why as its ``problem``, so
    that a config can be read where its data is not.

    Args:
        dataset_dir: folder of volumes.
        image_pattern: glob relative to ``dataset_dir``.
        datalist: path of a list that overrides the split, or None.
        seed: of the split.
        subject_pattern: regular expression whose group is the person, see :func:`find_volumes`.
        skip_bad_files: go on without links that lead to nothing.
    """

    def make() -> Datalist:
        given = datalist or _sample_datalist(dataset_dir)
        if given:
            return read_datalist(given, dataset_dir, seed)
        root = _require_folder(dataset_dir)
        parts = split_subjects(find_volumes(root, image_pattern, subject_pattern, skip_bad_files), seed)
        return Datalist.of(root, parts, f"{image_pattern} in {root}, split by subject with seed {seed}")

    return made_or_problem(make)


def evaluation_datalist(
    dataset_dir: str | Path | None,
    image_pattern: str,
    datalist: str | Path | None = None,
    split: str = "all",
    subject_pattern: str | None = None,
    skip_bad_files: bool = False,
) -> Datalist:
    """The volumes that an evaluation looks at, as the test split of a list; without any as :func:`load_datalist`.

    Args:
        dataset_dir: folder of volumes, all of which are evaluated when no list is given and it is not the sample.
        image_pattern: glob relative to ``dataset_dir``.
        datalist: list whose split is evaluated.
        split: ``"training"``, ``"validation"``, ``"test"`` or ``"all"``.
        subject_pattern: regular expression whose group is the person, see :func:`find_volumes`.
        skip_bad_files: go on without links that lead to nothing.
    """

    def make() -> Datalist:
        given = datalist or _sample_datalist(dataset_dir)
        if given:
            return read_split(given, dataset_dir, split)
        root = _require_folder(dataset_dir)
        volumes = find_volumes(root, image_pattern, subject_pattern, skip_bad_files)
        return Datalist(root, [], [], volumes, f"{image_pattern} in {root}")

    return made_or_problem(make)


def made_or_problem(make: Callable[[], Datalist]) -> Datalist:
    """A list, or, where there is nothing that can be used, an empty one with the sentence that says why.

    Args:
        make: makes the list.
    """
    try:
        return make()
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
    return without_suffix(PurePosixPath(path).name, VOLUME_SUFFIXES)


def image_file(path: str) -> str:
    """The file that an entry lies in: its path without ``#17``, which names a row of a CIFAR-10 batch.

    A text of a text, since a list may hold hundreds of thousands.
    """
    file, _, row = path.rpartition("#")
    return file if file and row.isdigit() else path


def _entries(path: Path, split: str, entries: Any) -> list[dict[str, str]]:
    if not isinstance(entries, list):
        raise DataError(
            f"datalist {path} has a {type(entries).__name__} under '{split}', where a list of images is expected; "
            "put its images in brackets."
        )
    return [_entry(path, split, {"image": entry} if isinstance(entry, str) else entry) for entry in entries]


def _entry(path: Path, split: str, entry: Any) -> dict[str, str]:
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
        raise DataError(
            f"datalist {path} has an entry without 'image' under '{split}': {entry!r}; write it as a path or as "
            '{"image": path}.'
        )
    image = entry["image"]
    stem = without_suffix(image.removeprefix("./"), VOLUME_SUFFIXES)
    known = known_person(stem) if _has_suffix(image) else None
    subject = str(entry.get("subject", known or stem))
    return {"image": image, "subject": subject} | {key: str(entry[key]) for key in ("name", "sha256") if key in entry}


def _plain(entry: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in entry.items() if key != "sha256"}


def _require_one_split(path: Path, parts: dict[str, list[dict[str, str]]], key: str, what: str) -> None:
    """No person in two splits, and no image or content either."""
    seen: dict[str, tuple[str, str]] = {}
    for split in SPLITS:
        for entry in parts[split]:
            value = entry.get(key)
            if value is None:
                continue
            before, image = seen.setdefault(value, (split, entry["image"]))
            if before != split:
                name = f"of {image} and {entry['image']}" if key == "sha256" else value
                raise DataError(
                    f"datalist {path} has the same {what} {name} under '{before}' and '{split}'; keep it in one split."
                )


def _require_once(path: Path, parts: dict[str, list[dict[str, str]]]) -> None:
    seen = set()
    for entry in (entry for split in SPLITS for entry in parts[split]):
        if entry["image"] in seen:
            raise DataError(f"datalist {path} has the image {entry['image']} twice; keep one.")
        seen.add(entry["image"])


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
    listed = list_folder(folder, "**/*")
    paths = [folder / name for name in sorted([*listed.files, *listed.folders, *listed.broken])]
    volumes = distinct_volumes(path for path in paths if not path.is_relative_to(output_dir))
    if not volumes:
        raise DataError(
            f"input {folder} is a folder without a volume ({len(listed.files)} file(s), none of "
            f"{', '.join(VOLUME_SUFFIXES)} or of a DICOM series); give another one, or convert them to NIfTI."
        )
    return volumes
