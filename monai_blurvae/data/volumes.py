"""From the files of a split to its prepared volumes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ResizeWithPadOrCropd,
    ScaleIntensityRangePercentilesd,
)
from tqdm import tqdm

from monai_blurvae.data.datalist import subject_of
from monai_blurvae.data.header import read_header
from monai_blurvae.data.store import StoredVolume, VolumeStore, require_space
from monai_blurvae.distributed import is_main_process
from monai_blurvae.errors import DataError
from monai_blurvae.transforms import CheckVolumed, NaNToBackgroundd, RandPatchd
from monai_blurvae.transforms.patch_table import PatchTable

logger = logging.getLogger(__name__)

VOXELS_PER_SECOND = 8e6
"""How fast a compressed volume is prepared on one ordinary core; only the announced time depends on it."""

KEEP_SHAPE = (LoadImaged, EnsureChannelFirstd, NaNToBackgroundd, CheckVolumed, ScaleIntensityRangePercentilesd)
"""Transforms after which a volume has the shape that it had before."""

Shape = tuple[int, ...]


class _CheckedFile(NamedTuple):
    source: str
    subject: str
    shape: Shape | None  # after the transform, where that follows from the header
    voxels: int  # to be prepared


@dataclass
class PreparedVolumes:
    """The prepared volumes of a split.

    Attributes:
        volumes: in the store.
        tables: what is known of where their patches may lie; None for each where nothing is cut.
        skipped: one sentence for each file that could not be used and was left out.
    """

    volumes: list[StoredVolume] = field(default_factory=list)
    tables: list[PatchTable | None] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @contextmanager
    def skipping(self, skip: bool) -> Iterator[None]:
        """Around the work on one file: note the error and go on, or stop."""
        try:
            yield
        except DataError as error:
            if not skip:
                raise
            self.skipped.append(str(error))
            logger.warning(f"Skipping: {error}")


def prepare_volumes(
    data: Iterable[dict[str, Any]],
    store_of: Callable[[], VolumeStore],
    cutter: RandPatchd | None,
    skip_bad_files: bool = False,
) -> PreparedVolumes:
    """Check every file of a split and bring it into the store.

    Headers are read first, all of them, so that a file that cannot be used stops the run before the long work. What the
    preparation will take on disk and in time is logged before it starts.

    Args:
        data: dictionaries with the path of a volume under ``image`` and, optionally, ``subject``.
        store_of: makes the store, if there is any data.
        cutter: what will be cut; every volume has to have a patch for it.
        skip_bad_files: leave out what cannot be used, and list it, in place of stopping.

    Raises:
        DataError: naming the file, or, if all files were skipped, the first of them.
    """
    prepared = PreparedVolumes()
    items = _distinct_items(data)
    if not items:
        return prepared
    store = store_of()
    checked = _check_files(items, store, cutter, prepared, skip_bad_files)
    missing = [file.voxels for file in checked if file.voxels]
    _announce(missing, store.root)

    started = time.monotonic()
    quiet = not missing or not is_main_process()
    for file in tqdm(checked, desc="preparing volumes", unit="volume", disable=quiet):
        with prepared.skipping(skip_bad_files):
            volume = store.add(file.source, file.subject)
            table = _measure(volume, file.shape, store, cutter)
            prepared.volumes.append(volume)
            prepared.tables.append(table)
    if missing:
        logger.info(f"Prepared {len(missing)} volumes in {time.monotonic() - started:.0f} s.")
    with_nan = [volume for volume in prepared.volumes if volume.nan]
    if with_nan:
        logger.info(
            f"{len(with_nan)} of {len(prepared.volumes)} volumes hold NaN, in {sum(v.nan for v in with_nan)} voxels in "
            f"all, which are taken for background; {with_nan[0].source} is the first."
        )
    if not prepared.volumes:
        raise DataError(f"none of the {len(items)} volumes can be used; repair the files: {prepared.skipped[0]}")
    return prepared


def expected_shape(transform: Any, shape: Shape) -> Shape | None:
    """The spatial shape that a transform gives to a volume, as far as it follows from the transform's classes.

    Args:
        transform: the deterministic transform.
        shape: of the file in RAS order.

    Returns:
        The shape, or None if another transform of MONAI's or a user's may change it.
    """
    oriented = False
    for step in flatten(transform):
        if isinstance(step, Orientationd):
            oriented = step.ornt_transform.axcodes == "RAS"
        elif isinstance(step, ResizeWithPadOrCropd):
            size = step.padder.padder.spatial_size
            shape = tuple([size] * 3 if isinstance(size, int) else size)
        elif isinstance(step, CenterSpatialCropd):
            size = step.cropper.roi_size
            sizes = [size] * 3 if isinstance(size, int) else size
            shape = tuple(n if wanted <= 0 else min(n, wanted) for n, wanted in zip(shape, sizes, strict=True))
        elif not isinstance(step, KEEP_SHAPE):
            return None
    return shape if oriented and min(shape) > 0 else None


def flatten(transform: Any) -> list[Any]:
    """The transforms of nested ``Compose`` objects in their order; others, such as ``OneOf``, stay whole."""
    if transform is None:
        return []
    if type(transform) is not Compose:
        return [transform]
    return [step for inner in transform.transforms for step in flatten(inner)]


def _distinct_items(data: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """Path and subject of each volume; of a pair .hdr and .img that is listed twice the .img alone."""
    items = [(str(item["image"]), str(item.get("subject") or subject_of(str(item["image"])))) for item in data]
    images = {Path(source).with_suffix("") for source, _ in items if source.lower().endswith(".img")}
    return [
        (source, subject)
        for source, subject in items
        if not source.lower().endswith(".hdr") or Path(source).with_suffix("") not in images
    ]


def _check_files(
    items: Sequence[tuple[str, str]],
    store: VolumeStore,
    cutter: RandPatchd | None,
    prepared: PreparedVolumes,
    skip_bad_files: bool,
) -> list[_CheckedFile]:
    """The files whose header can be used."""
    checked = []
    # Checksums of hundreds of large files take a while; a few files show no bar.
    for source, subject in tqdm(items, desc="checking files", unit="file", delay=3, disable=not is_main_process()):
        with prepared.skipping(skip_bad_files):
            header = read_header(source)
            shape = expected_shape(store.transform, header.shape)
            if shape is not None and cutter is not None:
                cutter.require_size(shape, source)
            voxels = 0 if store.get(source, subject) else math.prod(shape or header.shape)
            checked.append(_CheckedFile(source, subject, shape, voxels))
    return checked


def _measure(
    volume: StoredVolume, shape: Shape | None, store: VolumeStore, cutter: RandPatchd | None
) -> PatchTable | None:
    """The table of a volume that has a patch."""
    if shape not in (None, volume.image().shape[1:]):
        raise DataError(f"{volume.source} has a header that contradicts itself about its axes; repair the file.")
    if cutter is None:
        return None
    cutter.require_size(volume.image().shape[1:], volume.source)
    table = store.table(volume, cutter.rule)
    cutter.require_position(volume.slices(), table, volume.source)
    return table


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
