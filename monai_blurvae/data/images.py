"""From a data list of natural images to the datasets of a run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from monai_blurvae.data.datalist import SPLITS, Datalist
from monai_blurvae.data.image_store import NOT_THERE, ImageStore
from monai_blurvae.data.patches import EpochOrder
from monai_blurvae.errors import DataError
from monai_blurvae.transforms.prepare_image import PrepareImage

logger = logging.getLogger(__name__)


class PreparedImage(NamedTuple):
    """An image of a split.

    Attributes:
        array: uint8, (channels, size, size).
        subject: its name in the data list.
        source: path of its file.
    """

    array: npt.NDArray[np.uint8]
    subject: str
    source: str


@dataclass
class ImageSplit:
    """The images of one split; each is prepared when it is first asked for.

    Attributes:
        store: of all images of the run.
        indices: of this split's images in the store.
        subjects: their names.
        replace_bad: whether the next usable image of the split takes the place of one that cannot be prepared, in place
            of stopping. Which one that is follows from the list alone. It is logged and recorded in the store once.
    """

    store: ImageStore
    indices: npt.NDArray[np.int64]
    subjects: Sequence[str]
    replace_bad: bool = False
    _bad: set[int] = field(default_factory=set, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> PreparedImage:
        """An image.

        Raises:
            DataError: if it cannot be prepared; with ``replace_bad``, if none of the split can.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends iteration over the split
        if not self.replace_bad:
            return self._image(index)
        for step in range(len(self)):
            position = (index + step) % len(self)
            if position in self._bad:
                continue
            try:
                return self._image(position)
            except DataError as error:
                self._bad.add(position)
                if self.store.note_bad(int(self.indices[position]), str(error)):
                    logger.warning(f"Skipping: {error}")
        raise DataError(
            f"none of the {len(self)} images can be used; repair the files: {next(iter(self.skipped().values()))}"
        )

    def source(self, index: int) -> str:
        """Path of an image."""
        return self.store.sources[int(self.indices[index])]

    def skipped(self) -> dict[str, str]:
        """A sentence for each image, by its path, that was met and replaced so far, here or in other processes."""
        if not self.replace_bad:
            return {}
        here = set(self.indices.tolist())
        return {self.store.sources[i]: sentence for i, sentence in self.store.bad().items() if i in here}

    def _image(self, index: int) -> PreparedImage:
        return PreparedImage(self.store[int(self.indices[index])], self.subjects[index], self.source(index))


@dataclass
class Images:
    """The natural images of a run, beside :class:`~monai_blurvae.data.Volumes`.

    Attributes:
        root: folder of the data list.
        training: images.
        validation: images.
        test: images.
        remark: what every table of results has to say of them, for example that they are the built-in sample.
        left_out: a sentence for each validation and test image, by its path, that could not be used.
    """

    root: Path
    training: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    remark: str = ""
    left_out: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[PreparedImage]:
        for split in SPLITS:
            yield from getattr(self, split)

    @property
    def voxel_sizes(self) -> list[tuple[float, float]]:
        """Photographs have none."""
        return []

    @property
    def voxel_size(self) -> None:
        """Photographs have none."""
        return

    @property
    def skipped(self) -> list[str]:
        """One sentence for each image that could not be used, those of the training as far as it has met them."""
        return [*self.training.skipped().values(), *self.left_out.values()]

    def used(self, datalist: Datalist) -> Datalist:
        """The data list without what was skipped so far."""
        skipped = {**self.training.skipped(), **self.left_out}

        def rest(split: str) -> list[dict[str, str]]:
            listed = zip(getattr(datalist, split), datalist.items(split), strict=True)
            return [entry for entry, item in listed if item["image"] not in skipped]

        return replace(datalist, training=rest("training"), validation=rest("validation"), test=rest("test"))

    def digest(self) -> str:
        """What a resumed training compares: the names and sizes of the training and validation images, in order.

        Names are relative to the data list's folder, and neither contents nor times count, so that the training goes on
        with a copy of the folder, and no file is read.
        """
        folder = f"{self.root}{os.sep}"
        files = [
            [
                [split.source(i).removeprefix(folder).replace(os.sep, "/"), int(split.store.sizes[split.indices[i]])]
                for i in range(len(split))
            ]
            for split in (self.training, self.validation)
        ]
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]

    def identities(self) -> set[str]:
        """Paths and sizes of the files."""
        splits = (self.training, self.validation, self.test)
        indices = [(split, i) for split in splits for i in range(len(split))]
        return {f"{split.source(i)} {split.store.sizes[split.indices[i]]}" for split, i in indices}

    def changed(self, datalist: Datalist) -> list[str]:
        """None: a list of images records no contents, which would all have to be read."""
        return []

    def count_text(self, count: int) -> str:
        """Images."""
        return f"{count} image{'' if count == 1 else 's'}"


def prepare_images(
    datalist: Datalist,
    cache_dir: str | Path,
    transform: PrepareImage,
    eval_images: int | None = None,
    skip_bad_files: bool = False,
    required: Sequence[str] = ("training", "validation"),
) -> Images:
    """Open the store of all images of a data list, without reading them.

    Images are prepared when they are first asked for, so that a training begins at once. With ``skip_bad_files`` those
    of validation and test are prepared now, since what is bad among them is left out, lest one be measured twice; in
    training the next usable image takes a bad one's place.

    Args:
        datalist: the files.
        cache_dir: of the :class:`~monai_blurvae.data.image_store.ImageStore`.
        transform: the preprocessing.
        eval_images: largest number of validation and of test images, evenly spread over each split; None for all.
        skip_bad_files: leave out what cannot be used, and list it, in place of stopping when it is met.
        required: splits that have to hold a usable image.

    Raises:
        DataError: if a required split is empty, or, without ``skip_bad_files``, a file is not there.
        RunFolderError: if the store cannot be created.
        ValueError: if ``eval_images`` is not positive.
    """
    if eval_images is not None and eval_images < 1:
        raise ValueError(f"eval_images must be null or positive, but is {eval_images!r}.")
    listed = {split: datalist.items(split) for split in SPLITS}
    store = ImageStore(cache_dir, [item["image"] for split in SPLITS for item in listed[split]], transform)
    if not skip_bad_files:
        _require_files(store)
    left_out: dict[str, str] = {}
    parts, first = {}, 0
    for split in SPLITS:
        indices = np.arange(len(listed[split]), dtype=np.int64)
        if split != "training":
            indices = _evenly(indices, eval_images)
            if skip_bad_files:
                bad = store.prepare(first + indices, skip_bad_files=True)
                left_out |= {store.sources[index]: sentence for index, sentence in bad.items()}
                indices = indices[~np.isin(first + indices, list(bad))]
        subjects = [listed[split][i]["subject"] for i in indices]
        parts[split] = ImageSplit(store, first + indices, subjects, skip_bad_files and split == "training")
        if split in required and not len(indices):
            example = next((f": {sentence}" for sentence in left_out.values()), ".")
            raise DataError(f"no usable image is left for {split}; repair the data list or the files{example}")
        first += len(listed[split])
    _retry(parts["training"])
    images = Images(datalist.dataset_dir, **parts, remark=datalist.remark, left_out=left_out)
    for sentence in images.skipped:
        logger.warning(f"Skipping: {sentence}")
    return images


class ImageDataset(Dataset[dict[str, Any]]):
    """Prepared images, scaled to [−1, 1].

    With ``shuffle`` the index n = epoch · len + i runs on over all epochs, and the order of epoch e is a function of
    (seed, e). Without it image i is the split's.

    Args:
        data: images of one split.
        seed: of the order.
        shuffle: for training.

    Each sample is a dictionary with ``image`` ``(channels, size, size)`` float32, ``subject`` and ``source``.

    Raises:
        DataError: when an image that cannot be prepared is asked for.
    """

    def __init__(self, data: ImageSplit, seed: int = 0, shuffle: bool = False) -> None:
        self.data = data
        self.seed = seed
        self.shuffle = shuffle
        self._order = EpochOrder(len(data), seed)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        prepared = self.data[self._order[index][1] if self.shuffle else index]
        image = torch.from_numpy(prepared.array.astype(np.float32) / 127.5 - 1.0)
        return {"image": image, "subject": prepared.subject, "source": prepared.source}


def _evenly(indices: npt.NDArray[np.int64], count: int | None) -> npt.NDArray[np.int64]:
    if count is None or count >= len(indices):
        return indices
    return indices[np.arange(count) * len(indices) // count]


def _require_files(store: ImageStore) -> None:
    missing = np.flatnonzero(store.sizes == NOT_THERE)
    if len(missing):
        raise DataError(
            f"{store.sources[missing[0]]} is not there, as {len(missing)} of {len(store)} listed images; "
            "check the data list, or set --skip_bad_files true."
        )


def _retry(training: ImageSplit) -> None:
    """Prepare what earlier runs found bad: what has become readable no longer counts as skipped."""
    if training.replace_bad:
        training.store.prepare(training.store.bad(), skip_bad_files=True)
