"""Which image belongs to which split: folders, CelebA's partition file, CIFAR-10's batches."""

from __future__ import annotations

import csv
import json
import logging
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_blurvae.data.datalist import (
    SPLITS,
    VALIDATION_FRACTION,
    Datalist,
    count_text,
    draw_validation,
    example_of,
    list_folder,
    made_or_problem,
    read_datalist,
    read_split,
    require_listable,
    split_subjects,
)
from monai_blurvae.errors import DataError
from monai_blurvae.files import handle_absent
from monai_blurvae.transforms.prepare_image import read_cifar_batch

logger = logging.getLogger(__name__)

TRAINING_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_BATCH = "test_batch"
CIFAR_FOLDER = "cifar-10-batches-py"
"""What the archive unpacks to."""


def find_cifar_batches(dataset_dir: str | Path) -> Path | None:
    """The folder with the batches: ``dataset_dir`` itself or ``cifar-10-batches-py`` in it; None if there is none."""
    for folder in (Path(dataset_dir), Path(dataset_dir) / CIFAR_FOLDER):
        if any((folder / name).is_file() for name in (*TRAINING_BATCHES, TEST_BATCH)):
            return folder
    return None


def list_cifar_images(folder: str | Path) -> dict[str, list[dict[str, str]]]:
    """Every row of the batches as an entry of a data list; reads them all, about a second, so that none is broken.

    Args:
        folder: see :func:`find_cifar_batches`.

    Returns:
        ``training``, the rows of the five training batches, and ``test``; ``{"image": "data_batch_1#17", "subject":
        "data_batch_1#17"}``.

    Raises:
        DataError: if a batch is missing, or as :func:`read_cifar_batch` says.
    """
    for name in (*TRAINING_BATCHES, TEST_BATCH):
        if not (Path(folder) / name).is_file():
            raise DataError(
                f"{folder} has no {name}, one of the six batches of CIFAR-10; unpack cifar-10-python.tar.gz again."
            )
    training = [entry for name in TRAINING_BATCHES for entry in _rows(Path(folder) / name)]
    return {"training": training, "test": _rows(Path(folder) / TEST_BATCH)}


def _rows(path: Path) -> list[dict[str, str]]:
    names = [f"{path.name}#{row}" for row in range(len(read_cifar_batch(path)))]
    return [{"image": name, "subject": name} for name in names]


IMAGE_SUFFIXES = frozenset(("jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff", "gif", "ppm", "pgm", "jp2"))
PARTITIONS = dict(zip("012", SPLITS, strict=True))
"""CelebA's numbers."""
PARTITION_FILE = "list_eval_partition.txt"
PARTITION_FILES = (PARTITION_FILE, "list_eval_partition.csv")
SIX_DIGITS = re.compile("[0-9]{6}")
MARK_FILE = "sample.json"
"""Marks the built-in sample of photographs, and says whether it is whole."""
SAMPLE_ORIGIN = "the built-in sample, crops of photographs that scikit-image ships, not for results"
SAMPLE_REMARK = "crops of the built-in photographs"
SPLIT_FOLDERS = {
    "train": "training",
    "training": "training",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
UNPACK = {
    ".tar.gz": "tar -xzf {archive} -C {folder}",
    ".tgz": "tar -xzf {archive} -C {folder}",
    ".tar": "tar -xf {archive} -C {folder}",
    ".zip": "unzip {archive} -d {folder}",
}

Entries = list[dict[str, str]]


def find_images(dataset_dir: str | Path, image_pattern: str, skip_absent: bool = False) -> Entries:
    """List the images of a folder by their names alone; no file is opened, and a symbolic link counts as its target.

    Args:
        dataset_dir: the folder.
        image_pattern: glob relative to it, for example ``"*.jpg"``, ``"img_align_celeba/*.jpg"`` or, for all folders in
            it as well, ``"**/*"``. Upper and lower case are the same. Of what matches, hidden files and files without
            the suffix of an image are ignored and counted in the log.
        skip_absent: leave out links that lead to nothing, with a warning, in place of refusing them.

    Returns:
        Dictionaries with ``image`` (relative, with forward slashes) and ``subject``, sorted by subject: the name
        without suffix where these names are distinct, else the relative path without suffix, else the relative path.

    Raises:
        DataError: if the folder is missing, cannot be listed, holds no image that matches or links to images that are
            not there.
    """
    root = Path(dataset_dir).expanduser()
    require_listable(root, image_pattern, "images")
    found = list_folder(root, image_pattern)
    images = [path for path in found.files if _is_image(path)]
    broken = sorted(path for path in found.broken if _is_image(path))
    handle_absent(root, broken, len(images) + len(broken), skip_absent)
    if not images:
        raise _nothing_found(root, image_pattern)
    ignored = [path for path in found.files if not _is_image(path)] + found.hidden
    if ignored:
        logger.info(
            f"Ignored {count_text(len(ignored), 'file')}, hidden or no images, {example_of(ignored)} among them."
        )
    subjects = _distinct(images)
    entries = [{"image": image, "subject": subject} for image, subject in zip(images, subjects, strict=True)]
    return sorted(entries, key=lambda entry: (entry["subject"], entry["image"]))


def load_image_datalist(
    dataset_dir: str | Path | None,
    image_pattern: str,
    datalist: str | Path | None,
    partition_file: str | Path | None,
    seed: int,
    skip_bad_files: bool = False,
) -> Datalist:
    """The images of a run; the log says where their splits are from.

    In this order:

    1. a given ``datalist``;
    2. the batches of CIFAR-10 in ``dataset_dir`` or in ``cifar-10-batches-py`` in it;
    3. a partition file in CelebA's format: the given one, or ``list_eval_partition.txt`` or ``.csv`` in
       ``dataset_dir``, in the folder above it, or in ``Eval`` in one of these;
    4. folders ``train`` and ``test``, ``val`` (also ``valid`` or ``validation``) or both in ``dataset_dir``;
    5. a random split: 20 % test, 10 % of the rest validation; with a warning if the folder looks like CelebA's.

    Where only the validation set is missing, 10 % of the training images are drawn for it. The sample that
    :func:`~monai_blurvae.data.photographs.make_photographs` makes is known by its ``sample.json``, and goes the third
    way whatever ``image_pattern`` is.

    Args:
        dataset_dir: folder of images.
        image_pattern: see :func:`find_images`.
        datalist: path of a list that overrides the split, or None.
        partition_file: lines ``000001.jpg 0``, with 0 for training, 1 for validation and 2 for the test, or, if its
            name ends in ``.csv``, ``000001.jpg,0`` under a header; None to look for it.
        seed: of what is drawn at random.
        skip_bad_files: go on without links that lead to nothing.

    Returns:
        The list; without any image, and with the ``problem``, if there is neither a list nor a folder that can be used:
        see :func:`find_images`, :func:`~monai_blurvae.data.datalist.read_datalist` and
        :func:`~monai_blurvae.transforms.prepare_image.read_cifar_batch`; if a partition file cannot be used or does not
        name exactly the images of the folder; or if a split would be left empty.
    """
    return made_or_problem(
        lambda: (
            _split_folder(_read_folder(dataset_dir, image_pattern, partition_file, skip_bad_files), image_pattern, seed)
            if datalist is None
            else read_datalist(datalist, dataset_dir, seed)
        ),
    )


def evaluation_image_datalist(
    dataset_dir: str | Path | None,
    image_pattern: str,
    datalist: str | Path | None = None,
    split: str = "all",
    partition_file: str | Path | None = None,
    skip_bad_files: bool = False,
) -> Datalist:
    """The images that an evaluation looks at, as the test split of a list.

    Args:
        dataset_dir: folder of images, or of CIFAR-10's batches; for ``"all"`` whole, else as far as the folder itself
            says, without anything drawn at random, what belongs to the split, see :func:`load_image_datalist`.
        image_pattern: see :func:`find_images`.
        datalist: list whose split is evaluated.
        split: ``"training"``, ``"validation"``, ``"test"`` or ``"all"``.
        partition_file: says what belongs to the split of ``dataset_dir``; None to look for it.
        skip_bad_files: go on without links that lead to nothing.

    Returns:
        The list; without any image, and with the ``problem``, if there is nothing to evaluate.
    """
    return made_or_problem(
        lambda: (
            _one_split(_read_folder(dataset_dir, image_pattern, partition_file, skip_bad_files), split)
            if datalist is None
            else read_split(datalist, dataset_dir, split)
        ),
    )


@dataclass
class _Folder:
    """A folder's images, and the splits that it comes with; without those ``parts`` is empty.

    ``origin`` says where the splits are from, or that there are none.
    """

    root: Path
    entries: Entries
    parts: dict[str, Entries]
    origin: str
    remark: str = ""


def _read_folder(
    dataset_dir: str | Path | None, image_pattern: str, partition_file: str | Path | None, skip_absent: bool
) -> _Folder:
    if dataset_dir is None:
        raise DataError("there is neither a dataset_dir nor a datalist; give the folder that holds the images.")
    given = Path(dataset_dir).expanduser()
    root = given.resolve()
    batches = None if partition_file else find_cifar_batches(root)
    if batches is not None:
        parts = list_cifar_images(batches)
        return _Folder(batches, parts["training"] + parts["test"], parts, f"CIFAR-10's batches in {batches}")
    if partition_file is None and _is_sample(root):
        entries = find_images(root, "*.png")
        parts = _split_by_file(entries, root / PARTITION_FILE, root)
        return _Folder(root, entries, parts, SAMPLE_ORIGIN, SAMPLE_REMARK)
    entries = find_images(root, image_pattern, skip_absent)
    if partition_file is None:
        path = _find_partition_file(given.absolute(), root, entries)
    else:
        path = Path(partition_file).expanduser()
        if not path.is_file():
            raise DataError(f"partition_file {path} is not there; check the path, or leave it out to split at random.")
    if path is not None:
        return _Folder(root, entries, _split_by_file(entries, path, root), f"split by {path}")
    parts, origin = _split_by_folder(entries, root)
    return _Folder(root, entries, parts, origin)


def _is_sample(folder: Path) -> bool:
    """Whether a folder holds the built-in sample of photographs.

    Raises:
        DataError: if it holds only the beginning of it.
    """
    try:
        mark = json.loads((folder / MARK_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or another one's
        return False
    if not isinstance(mark, dict) or mark.keys() != {"image_size", "seed", "whole"}:
        return False
    if not mark["whole"]:
        raise DataError(
            f"{folder} holds only the beginning of the sample of photographs; call make_photographs with this folder "
            "and the same size again, which goes on with it."
        )
    return True


def _split_folder(folder: _Folder, image_pattern: str, seed: int) -> Datalist:
    """The splits of a folder, with what it does not say drawn at random."""
    parts, origin = dict(folder.parts), folder.origin
    if not parts:
        parts = _split_at_random(folder, seed)
        if _looks_like_celeba(folder.root, folder.entries):
            logger.warning(
                f"{folder.root} looks like CelebA, but no {' or '.join(PARTITION_FILES)} is in it or around it: its "
                "images are split at random, so that a person may be in training and test, and results are not those "
                "of CelebA's split; put the file beside the images, or give it as partition_file."
            )
        origin = f"{origin}, {image_pattern} split at random with seed {seed}"
    elif not parts.get("validation"):
        parts["training"], parts["validation"] = draw_validation(parts["training"], folder.root, seed)
        origin = f"{origin}, {VALIDATION_FRACTION:.0%} of the training images drawn for validation with seed {seed}"
    made = Datalist.of(folder.root, parts, origin, folder.remark)
    counts = ", ".join(f"{len(getattr(made, split))} {split}" for split in SPLITS)
    logger.info(f"{origin[0].upper()}{origin[1:]}: {counts} images.")
    return made


def _one_split(folder: _Folder, split: str) -> Datalist:
    """What a folder itself says of a split, or all of it."""
    if split == "all":
        return Datalist(folder.root, [], [], folder.entries, f"all images of {folder.root}", folder.remark)
    if not folder.parts.get(split):
        raise DataError(
            f"{folder.root} does not say which of its images are for {split}; give the datalist of a run or a "
            "partition_file, or set split to 'all' to evaluate every image."
        )
    return Datalist(folder.root, [], [], folder.parts[split], f"{folder.origin}: {split}", folder.remark)


# Listing


def _is_image(path: str) -> bool:
    before, _, suffix = _name(path).rpartition(".")
    return bool(before) and suffix.lower() in IMAGE_SUFFIXES


def _distinct(paths: Sequence[str]) -> list[str]:
    for name_of in (_stem, _without_suffix):
        names = [name_of(path) for path in paths]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def _stem(path: str) -> str:
    return _without_suffix(_name(path))


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _without_suffix(path: str) -> str:
    return path.rpartition(".")[0] or path


def _nothing_found(root: Path, image_pattern: str) -> DataError:
    everything = list_folder(root, "**/*")
    images = [path for path in everything.files if _is_image(path)]
    if images:
        return DataError(
            f"dataset_dir {root} holds {count_text(len(images), 'image')}, {min(images)} among them, but none that "
            f"matches {image_pattern!r}; set image_pattern to a glob relative to dataset_dir, for example '**/*'."
        )
    others = sorted(everything.files + everything.hidden + everything.broken)
    for path in others:
        for suffix, command in UNPACK.items():
            if path.lower().endswith(suffix):
                archive, folder = shlex.quote(str(root / path)), shlex.quote(str(root))
                return DataError(
                    f"dataset_dir {root} holds no image, but {path}; unpack it: "
                    f"{command.format(archive=archive, folder=folder)}"
                )
    among = f", {others[0]} among them" if others else ""
    return DataError(
        f"dataset_dir {root} holds no image ({count_text(len(others), 'other file')}{among}); give the folder that "
        f"holds the images, which are known by their suffix ({', '.join(sorted(IMAGE_SUFFIXES))})."
    )


# Splits


def _split_at_random(folder: _Folder, seed: int) -> dict[str, Entries]:
    if len(folder.entries) < 3:
        raise DataError(
            f"dataset_dir {folder.root} holds {count_text(len(folder.entries), 'image')}, but training, validation and "
            "test need at least 3; add images, or write the split yourself and give it as datalist."
        )
    return split_subjects(folder.entries, seed)


def _split_by_folder(entries: Entries, root: Path) -> tuple[dict[str, Entries], str]:
    """The splits by the first folder of each path, and where they are from.

    Empty if there is no folder to train on or none beside it. Images elsewhere are left out.
    """
    parts: dict[str, Entries] = {}
    names = set()
    for entry in entries:
        first, slash, _ = entry["image"].partition("/")
        split = SPLIT_FOLDERS.get(first.lower()) if slash else None
        if split is not None:
            parts.setdefault(split, []).append(entry)
            names.add(first)
    if "training" not in parts or len(parts) == 1:
        return {}, f"no {PARTITION_FILE} and no folders train and test in {root}"
    outside = len(entries) - sum(map(len, parts.values()))
    without = f" without the {count_text(outside, 'image')} outside" if outside else ""
    return parts, f"split by the folders {', '.join(sorted(names))} of {root}{without}"


def _find_partition_file(given: Path, root: Path, entries: Entries) -> Path | None:
    """CelebA's file in the folder or the one above it, or in ``Eval`` in these.

    Args:
        given: the folder as it was named, which a link may lead away from the file.
        root: what it resolves to.
        entries: its images. A file above the folder counts only if it names most of them.
    """
    for base in dict.fromkeys((given, root)):
        for folder in (base, base / "Eval", base.parent, base.parent / "Eval"):
            for path in (folder / name for name in PARTITION_FILES):
                if path.is_file() and (folder.is_relative_to(base) or _names_most(path, entries)):
                    return path
    return None


def _names_most(path: Path, entries: Entries) -> bool:
    try:
        named = {_stem(name) for name in _read_partitions(path)}
    except DataError as error:
        logger.info(f"{path} is not used: {error}")
        return False
    if 2 * sum(_stem(entry["image"]) in named for entry in entries) > len(entries):
        return True
    logger.info(f"{path} names none of the images, or few, and is not used.")
    return False


def _looks_like_celeba(root: Path, entries: Entries) -> bool:
    """By its names, 000001.jpg, or those of its folders."""
    numbered = all(SIX_DIGITS.fullmatch(_stem(entry["image"])) for entry in entries)
    celeba = "celeba" in f"{root}/{entries[0]['image']}".lower()
    return numbered and (celeba or all(entry["image"].lower().endswith(".jpg") for entry in entries))


def _split_by_file(entries: Entries, path: Path, root: Path) -> dict[str, Entries]:
    """The splits of a partition file.

    Raises:
        DataError: unless its names are those of the images.
    """
    partitions = _read_partitions(path)
    for split in ("training", "validation"):
        if split not in partitions.values():
            raise DataError(
                f"{path} has no line for {split} ({SPLITS.index(split)}); give a partition_file with images for "
                "training (0) and validation (1)."
            )
    images = [entry["image"] for entry in entries]
    key = _common_key(images, list(partitions))
    split_of = {key(name): (name, split) for name, split in partitions.items()}
    parts: dict[str, Entries] = {split: [] for split in SPLITS}
    unnamed = []
    for entry in entries:
        name, split = split_of.pop(key(entry["image"]), (None, ""))
        if name is None:
            unnamed.append(entry["image"])
        else:
            parts[split].append(entry)
    if unnamed:
        raise DataError(
            f"{path} does not name {len(unnamed)} of the {count_text(len(images), 'image')} of {root}, {unnamed[0]} "
            "the first; give the partition_file or datalist that belongs to them, or narrow image_pattern."
        )
    if split_of:
        missing = [name for name, _ in split_of.values()]
        raise DataError(
            f"{path} names {count_text(len(missing), 'image')} that {root} does not hold, {missing[0]} the first; "
            "complete the download, widen image_pattern, or give the partition_file that belongs to the folder."
        )
    return parts


def _common_key(images: Sequence[str], names: Sequence[str]) -> Callable[[str], str]:
    """What an image and its line have in common.

    The name without suffix, as CelebA's list says ``.jpg`` for its PNG files too; where two have the same, the name;
    where two have the same, the relative path.
    """
    for key in (_stem, _name):
        if all(len({key(path) for path in paths}) == len(paths) for paths in (images, names)):
            return key
    return str


def _read_partitions(path: Path) -> dict[str, str]:
    """Split of each image that a partition file names."""
    partitions: dict[str, str] = {}
    try:
        for number, fields in _partition_lines(path):
            if not fields:
                continue
            if len(fields) != 2:
                raise DataError(f"line {number} of {path} cannot be read; write it like '000001.jpg 0'.")
            name, value = (field.strip() for field in fields)
            if value not in PARTITIONS:
                raise DataError(
                    f"line {number} of {path} gives {name} the partition {value!r}, where 0 (training), 1 (validation) "
                    "or 2 (test) is expected; correct the line."
                )
            if name in partitions:
                raise DataError(f"line {number} of {path} names {name} for the second time; keep one of the lines.")
            partitions[name] = PARTITIONS[value]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"partition_file {path} cannot be read as text ({error}); check the file.") from error
    return partitions


def _partition_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each line, without a header."""
    with path.open(encoding="utf-8-sig", newline="") as handle:
        if path.suffix.lower() != ".csv":
            yield from ((number, line.rsplit(maxsplit=1)) for number, line in enumerate(handle, 1))
            return
        reader = csv.reader(handle)
        for fields in reader:
            if reader.line_num > 1 or [field.strip().lower() for field in fields[1:]] != ["partition"]:
                yield reader.line_num, fields
