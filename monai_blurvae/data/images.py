"""The dataset of natural images."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Compose, Randomizable, ScaleIntensityRanged
from monai.utils import convert_to_tensor
from torch.utils.data import Dataset

from monai_blurvae.data.facts import DatasetFacts, EpochOrder, evenly_spread
from monai_blurvae.data.store import NOT_THERE, ImageStore, ItemTransform
from monai_blurvae.errors import DataError
from monai_blurvae.seeding import derive_seed

logger = logging.getLogger(__name__)

ELEMENTWISE = (ScaleIntensityRanged,)
"""Transforms that make the same of each value, whatever is around it."""
GREY_LEVELS = 256


class ImageDataset(Dataset[dict[str, Any]]):
    """Images that are prepared once and, each time they are asked for, transformed at random.

    With ``shuffle`` the index n = epoch · len + i runs on over all epochs: the order of epoch e is a function of
    (seed, e), and the random state of its image i one of (seed, e, i). Without it image i is the list's, and the random
    state a function of its subject alone, so that runs are evaluated on the same images.

    A file is read when its image is first asked for, so that a training begins at once. With ``skip_bad_files`` and
    ``shuffle`` the next usable image takes the place of one that cannot be prepared; which one that is follows from the
    list alone, and it is logged and recorded in the store once. With ``skip_bad_files`` and without ``shuffle`` all
    images are prepared at once, since what is bad among them is left out, lest one be measured twice.

    Args:
        data: dictionaries with ``image``, a path, and, optionally, ``subject``, by default the file's name, and
            ``remark``. There may be none.
        transform: the part without chance, run once for each file; see
            :class:`~monai_blurvae.data.store.ImageStore`.
        random_transform: run on ``{"image", "subject", "source"}`` each time; it has to give ``image`` in [−1, 1].
        cache_dir: of the store.
        max_images: largest number of images, evenly spread over the list; None for all.
        seed: of the order and the random transform.
        shuffle: for training.
        skip_bad_files: go on without what cannot be used, in place of stopping when it is met.

    Each sample is a dictionary with ``image`` ``(channels, rows, columns)`` float32, ``subject``, ``source``, the path
    of the file, and whatever ``random_transform`` adds.

    Raises:
        DataError: if, without ``skip_bad_files``, a file is not there; when an image that cannot be prepared is asked
            for; with ``skip_bad_files``, if no image can be used.
        RunFolderError: if the store cannot be created.
        ValueError: if ``max_images`` is not positive.

    Example:
        >>> len(ImageDataset([], transform=Compose([]), random_transform=Compose([]), cache_dir="cache"))
        0
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, str]],
        transform: ItemTransform,
        random_transform: ItemTransform,
        cache_dir: str | Path,
        max_images: int | None = None,
        seed: int = 0,
        shuffle: bool = False,
        skip_bad_files: bool = False,
    ) -> None:
        if max_images is not None and max_images < 1:
            raise ValueError(f"max_images must be None or positive, but is {max_images!r}.")
        self.data = list(data)
        self.store = ImageStore(cache_dir, [str(item["image"]) for item in self.data], transform)
        self.random_transform = random_transform
        self.seed = seed
        self.shuffle = shuffle
        self.skip_bad_files = skip_bad_files
        self._bad: dict[int, str] = {}
        self._indices = np.array(evenly_spread(len(self.data), max_images), dtype=np.int64)
        if not skip_bad_files:
            _require_files(self.store)
        elif shuffle:
            self.store.prepare(self.store.bad(), skip_bad_files=True)  # what has become readable is no longer skipped
        else:
            self._leave_out_bad_files()
        for sentence in self._skipped().values():
            logger.warning(f"Skipping: {sentence}")
        self._order = EpochOrder(len(self), seed)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item, state = self._draw(index)
        if item["image"].dtype == torch.uint8 and self._table is not None:
            return {**item, "image": torch.from_numpy(np.take(self._table, item["image"].numpy()))}
        if isinstance(self.random_transform, Randomizable):
            self.random_transform.set_random_state(seed=derive_seed(*state))
        return _plain(self.random_transform(item))

    def prepare(self) -> None:
        """Fill the store now.

        Raises:
            DataError: for an image that cannot be prepared, without ``skip_bad_files``.
        """
        for index, sentence in self.store.prepare(self._indices.tolist(), self.skip_bad_files).items():
            self.store.note_bad(index, sentence)

    def facts(self) -> DatasetFacts:
        """What there is to say of the images, those that a training skips as far as it has met them.

        The entries are those of the whole list, also where ``max_images`` leaves some of them unseen.
        The digest is of their names and sizes, in order. Names are relative to the folder that holds all, and neither
        contents nor times count, so that a training goes on with a copy of the folder, and no file is read.
        """
        skipped = self._skipped()
        paths = [os.path.abspath(source) for source in self.store.sources]  # noqa: PTH100, as fast as 200 000 need it
        used = [i for i in self._indices.tolist() if i not in skipped]
        sizes = self.store.sizes.tolist()
        return DatasetFacts(
            entries=[{"image": path, "subject": self._subject(i)} for i, path in enumerate(paths) if i not in skipped],
            skipped=list(skipped.values()),
            remark="; ".join(dict.fromkeys(item["remark"] for item in self.data if item.get("remark"))),
            voxel_sizes=[],
            digest=_digest([paths[i] for i in self._indices], [sizes[i] for i in self._indices]),
            identities=frozenset(f"{paths[i]} {sizes[i]}" for i in used),
            kind="images",
        )

    def unshuffled(self, count: int) -> ImageDataset:
        """The same images, as an evaluation sees them, whatever the seed, and as many as there are.

        Args:
            count: that will be taken of them; it changes nothing, and is that of the other dataset's method.
        """
        fixed = copy.copy(self)
        fixed.shuffle = False
        return fixed

    @cached_property
    def _table(self) -> npt.NDArray[np.float32] | None:
        """What the random transform makes of each grey level, if it looks at nothing else.

        To look it up is some 30 times as fast as a call of MONAI's, and gives the same bits.
        """
        if not _is_elementwise(self.random_transform):
            return None
        levels = torch.arange(GREY_LEVELS, dtype=torch.uint8).reshape(1, 1, -1)
        table: npt.NDArray[np.float32] = _plain(self.random_transform({"image": levels}))["image"].numpy().ravel()
        return table

    def _draw(self, index: int) -> tuple[dict[str, Any], tuple[Any, ...]]:
        """The item that a sample is made of, and what its random state is a function of."""
        if self.shuffle:
            epoch, position = self._order[index]
            item = self._next_usable(position) if self.skip_bad_files else self._item(int(self._indices[position]))
            return item, (self.seed, "image", epoch, index % len(self))
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends iteration over the dataset
        item = self._item(int(self._indices[index]))
        return item, (0, "evaluation", item["subject"])

    def _next_usable(self, position: int) -> dict[str, Any]:
        """What is at a position of the list, or else the next that can be used."""
        for step in range(len(self)):
            stored = int(self._indices[(position + step) % len(self)])
            if stored in self._bad:
                continue
            try:
                return self._item(stored)
            except DataError as error:
                self._bad[stored] = str(error)
                if self.store.note_bad(stored, str(error)):
                    logger.warning(f"Skipping: {error}")
        raise _nothing_usable(self._bad)

    def _item(self, stored: int) -> dict[str, Any]:
        image = torch.from_numpy(self.store[stored])
        return {"image": image, "subject": self._subject(stored), "source": self.store.sources[stored]}

    def _subject(self, stored: int) -> str:
        subject = self.data[stored].get("subject")
        return Path(self.store.sources[stored]).name if subject is None else str(subject)

    def _leave_out_bad_files(self) -> None:
        self._bad = self.store.prepare(self._indices.tolist(), skip_bad_files=True)
        self._indices = self._indices[~np.isin(self._indices, list(self._bad))]
        if self._bad and not len(self):
            raise _nothing_usable(self._bad)

    def _skipped(self) -> dict[int, str]:
        """A sentence for each image, by its place in the store, that was left out or, so far, replaced."""
        if not (self.shuffle and self.skip_bad_files):
            return self._bad
        here = set(self._indices.tolist())
        return {i: sentence for i, sentence in self.store.bad().items() if i in here}  # other processes met some, too


def _plain(sample: Mapping[Any, Any]) -> dict[str, Any]:
    """The sample with a float32 image that is a tensor and nothing more, which collates fast."""
    return {**sample, "image": convert_to_tensor(sample["image"], dtype=torch.float32, track_meta=False)}


def _is_elementwise(transform: object) -> bool:
    if isinstance(transform, Compose):
        return type(transform) is Compose and all(_is_elementwise(part) for part in transform.transforms)
    return type(transform) in ELEMENTWISE


def _digest(paths: Sequence[str], sizes: Sequence[int]) -> str:
    ends = [min(paths), max(paths)] if paths else []
    folder = os.path.commonprefix(ends).rpartition(os.sep)[0]  # noqa: RUF071, which has no answer for two drives
    files = [
        [path.removeprefix(f"{folder}{os.sep}").replace(os.sep, "/"), size]
        for path, size in zip(paths, sizes, strict=True)
    ]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


def _require_files(store: ImageStore) -> None:
    missing = np.flatnonzero(store.sizes == NOT_THERE)
    if len(missing):
        raise DataError(
            f"{store.sources[missing[0]]} is not there, as {len(missing)} of {len(store)} listed images; "
            "check the data list, or set skip_bad_files to go on without them."
        )


def _nothing_usable(bad: Mapping[int, str]) -> DataError:
    return DataError(f"none of the {len(bad)} images can be used; repair the files: {next(iter(bad.values()))}")
