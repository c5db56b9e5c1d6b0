"""From a data list to the prepared volumes of a run."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from monai_blurvae.data.datalist import SPLITS, Datalist
from monai_blurvae.data.patches import largest_foreground
from monai_blurvae.data.store import StoredVolume, VolumeStore, require_space
from monai_blurvae.errors import DataError
from monai_blurvae.transforms import PrepareVolume

logger = logging.getLogger(__name__)

VOXELS_PER_SECOND = 8e6
"""How fast a compressed volume is prepared on one ordinary core; only the announced time depends on it."""


@dataclass
class Volumes:
    """The prepared volumes of a run.

    Attributes:
        training: stored volumes.
        validation: stored volumes.
        test: stored volumes.
        skipped: one sentence for each file that could not be used and was left out.
    """

    training: list[StoredVolume] = field(default_factory=list)
    validation: list[StoredVolume] = field(default_factory=list)
    test: list[StoredVolume] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[StoredVolume]:
        for split in SPLITS:
            yield from getattr(self, split)

    @property
    def synthetic(self) -> bool:
        """Whether any volume is synthetic."""
        return any(volume.synthetic for volume in self)

    @property
    def remark(self) -> str:
        """What every table of results has to say of the data."""
        return "SYNTHETIC images" if self.synthetic else ""

    @property
    def voxel_sizes(self) -> list[tuple[float, float]]:
        """In-plane voxel sizes in mm, (row, column), of the training volumes, or of all if there are none."""
        return [volume.voxel_size[1:] for volume in self.training or self]

    @property
    def voxel_size(self) -> tuple[float, float]:
        """Median of :attr:`voxel_sizes`."""
        row, column = np.median(self.voxel_sizes, axis=0)
        return float(row), float(column)

    def digest(self) -> str:
        """Of the subjects and the checksums of the files that a training sees."""
        seen = [[volume.subject, volume.checksum] for volume in (*self.training, *self.validation)]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]

    def identities(self) -> set[str]:
        """Checksums of the files."""
        return {volume.checksum for volume in self}

    def used(self, datalist: Datalist) -> Datalist:
        """The data list without what was skipped, with checksums."""
        parts = {}
        for split in SPLITS:
            stored = {volume.source: volume for volume in getattr(self, split)}
            parts[split] = [
                {**relative, "sha256": stored[item["image"]].checksum}
                for relative, item in zip(getattr(datalist, split), datalist.items(split), strict=True)
                if item["image"] in stored
            ]
        return Datalist.of(datalist.dataset_dir, parts, datalist.description, datalist.remark)

    def changed(self, datalist: Datalist) -> list[str]:
        """Volumes whose checksum is not the recorded one; all entries of the list have to be in use."""
        return [
            volume.source
            for split in SPLITS
            for volume, entry in zip(getattr(self, split), getattr(datalist, split), strict=True)
            if entry.get("sha256", volume.checksum) != volume.checksum
        ]

    def count_text(self, count: int) -> str:
        """Patches of subjects."""
        return f"{count} patches of {len({volume.subject for volume in self})} subjects"


def prepare_volumes(
    datalist: Datalist,
    cache_dir: str | Path,
    transform: PrepareVolume,
    patch_size: int,
    min_foreground: float,
    skip_bad_files: bool = False,
    required: Sequence[str] = ("training", "validation"),
) -> Volumes:
    """Check every file of a data list and bring it into the store.

    Headers are read first, all of them, so that a file that cannot be used stops the run before the long work. What the
    preparation will take on disk and in time is logged before it starts.

    Args:
        datalist: the files.
        cache_dir: of the :class:`VolumeStore`.
        transform: the preprocessing.
        patch_size: every slice has to hold a patch of this size.
        min_foreground: smallest share of foreground in a patch; every volume has to have one such patch.
        skip_bad_files: leave out what cannot be used, and list it, in place of stopping.
        required: splits that have to hold a usable volume.

    Raises:
        DataError: naming the file, or, if all files of a split were skipped, the split.
    """
    store = VolumeStore(cache_dir, transform)
    volumes = Volumes()
    on_error = partial(_skip_or_raise, volumes, skip_bad_files)
    listed = [(split, item) for split in SPLITS for item in datalist.items(split)]
    usable, missing_voxels = _check_files(listed, store, patch_size, on_error)
    _announce(missing_voxels, store.root)

    started = time.monotonic()
    for split, item in tqdm(usable, desc="preparing volumes", unit="volume", disable=not missing_voxels):
        with on_error():
            entry = store.add(item["image"], item["subject"])
            _check_foreground(entry, patch_size, min_foreground)
            getattr(volumes, split).append(entry)
    if missing_voxels:
        logger.info(f"Prepared {len(missing_voxels)} volumes in {time.monotonic() - started:.0f} s.")
    for split in required:
        if not getattr(volumes, split):
            raise DataError(f"no usable volume is left for {split}; repair the files: {' '.join(volumes.skipped)}")
    return volumes


def _check_files(
    listed: list[tuple[str, dict[str, str]]],
    store: VolumeStore,
    patch_size: int,
    on_error: Callable[[], AbstractContextManager[None]],
) -> tuple[list[tuple[str, dict[str, str]]], list[int]]:
    """The entries whose header can be used, and the voxels of those that are not in the store yet."""
    usable, missing_voxels = [], []
    # Checksums of hundreds of large files take a while; a few files show no bar.
    for split, item in tqdm(listed, desc="checking files", unit="file", delay=3):
        with on_error():
            shape = _check_size(store.transform, item["image"], patch_size)
            usable.append((split, item))
            if store.get(item["image"], item["subject"]) is None:
                missing_voxels.append(math.prod(shape))
    return usable, missing_voxels


def _check_size(transform: PrepareVolume, path: str, patch_size: int) -> tuple[int, int, int]:
    shape = transform.header(path).shape
    if min(shape[1:]) < patch_size:
        raise DataError(
            f"{path} has slices of {shape[1]}×{shape[2]} voxels along slice_axis {transform.slice_axis}, smaller than "
            f"the patch_size {patch_size}; choose another --slice_axis or --patch_size, or pad with --volume_size."
        )
    return shape


def _check_foreground(volume: StoredVolume, patch_size: int, min_foreground: float) -> None:
    best = largest_foreground(volume, patch_size, min_foreground)
    if best < min_foreground:
        raise DataError(
            f"{volume.source} has no {patch_size}×{patch_size} patch with {min_foreground:.0%} foreground, the best "
            f"has {best:.0%}; lower --min_foreground or remove the file."
        )


@contextmanager
def _skip_or_raise(volumes: Volumes, skip: bool) -> Iterator[None]:
    """Around the work on one file: note the error and go on, or stop."""
    try:
        yield
    except DataError as error:
        if not skip:
            raise
        volumes.skipped.append(str(error))
        logger.warning(f"Skipping: {error}")


def _announce(missing: list[int], root: Path) -> None:
    if not missing:
        return
    needed = 2 * sum(missing)
    minutes = sum(missing) / VOXELS_PER_SECOND / 60
    logger.info(
        f"Preparing {len(missing)} volumes, once: {needed / 1e9:.2f} GB in {root}, about "
        f"{f'{minutes:.0f} min' if minutes >= 1 else f'{60 * minutes:.0f} s'}."
    )
    require_space(root, needed, "volumes")
