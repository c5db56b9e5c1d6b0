"""From the files of a split to its prepared volumes, and patches of these as pure functions of (seed, epoch, index)."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai import data as monai_data
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    Randomizable,
    ResizeWithPadOrCropd,
    ScaleIntensityRangePercentilesd,
)
from monai.utils import MAX_SEED, convert_to_tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from monai_blurvae.data.datalist import SYNTHETIC_REMARK, subject_of
from monai_blurvae.data.facts import DatasetFacts, EpochOrder
from monai_blurvae.data.header import read_header
from monai_blurvae.data.store import StoredVolume, VolumeStore, data_error, require_space
from monai_blurvae.distributed import is_main_process
from monai_blurvae.errors import DataError
from monai_blurvae.seeding import derive_seed
from monai_blurvae.transforms import (
    CheckVolumed,
    NaNToBackgroundd,
    RandCubePatchd,
    RandPatchd,
    RandSlicePatchd,
    ScalePercentilesd,
)
from monai_blurvae.transforms.rand_patch import TABLE_KEY, PatchTable

logger = logging.getLogger(__name__)


VOXELS_PER_SECOND = 8e6
"""How fast a compressed volume is prepared on one ordinary core; only the announced time depends on it."""

KEEP_SHAPE = (
    *(LoadImaged, EnsureChannelFirstd, NaNToBackgroundd, CheckVolumed),
    *(ScalePercentilesd, ScaleIntensityRangePercentilesd),
)
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


class VolumeDataset(monai_data.Dataset):
    """MONAI's ``Dataset`` whose error names the file, and the innermost reason in place of MONAI's chain of them.

    Args:
        data: dictionaries with the path of a volume under ``image``.
        transform: the deterministic transform.

    Raises:
        DataError: when an item is asked for that cannot be used.
    """

    def _transform(self, index: int) -> Any:
        try:
            return super()._transform(index)
        except Exception as error:  # a damaged file can raise whatever the reader meets
            raise data_error(str(self.data[index]["image"]), error) from error


class _Draw(NamedTuple):
    volume: StoredVolume
    table: PatchTable | None
    seed: int  # of the random transform


class VolumePatchDataset(Dataset[dict[str, Any]]):
    """Random patches of volumes that a deterministic transform has prepared once.

    The deterministic transform turns the path under ``image`` into a volume ``(C, X, Y, Z)``, usually in [−1, 1]. It
    runs when the dataset is made, for the files that are not yet in the store; the store keeps float16. The random
    transform, usually a ``Compose`` with a :class:`~monai_blurvae.transforms.RandSlicePatchd` or a
    :class:`~monai_blurvae.transforms.RandCubePatchd`, turns the volume into
    a sample whenever one is asked for. What stands in front of the cutting transform gets the volume as a float32
    ``MetaTensor`` of its own, which takes time; what stands behind it gets the patch.

    With ``shuffle`` the index n = epoch · len + i runs on over all epochs: sample i of epoch e is a function of
    (seed, e, i), drawn anew in every epoch, from every volume ``patches_per_volume`` times an epoch, in random order.
    Without it sample i is a function of the volume's ``name``, by default its ``subject``, and i alone, whatever the
    seed and the other volumes, so that runs are evaluated on the same patches.

    Each sample is a dictionary with ``image`` ``(C, *patch_size)`` float32, ``subject``, ``source`` and, if one of
    these cut it, ``position``, (slice, row, column) or (x, y, z).

    Args:
        data: dictionaries with the path of a volume under ``image`` and, optionally, ``subject``, the person, ``name``,
            which tells the volumes of a person apart, and ``remark``.
        transform: the deterministic part, for each file once.
        random_transform: the random part, for each sample.
        cache_dir: of the :class:`~monai_blurvae.data.VolumeStore`.
        patches_per_volume: samples of each volume in an epoch.
        seed: of the samples and their order.
        shuffle: for training.
        skip_bad_files: leave out files that cannot be used, and list them in the facts, in place of stopping.

    Raises:
        DataError: if a file cannot be used, naming it, or, with ``skip_bad_files``, none can.
        RunFolderError: if the store cannot be written.
        ValueError: if ``patches_per_volume`` is not positive.

    Example:
        >>> len(VolumePatchDataset([], Compose([]), Compose([RandSlicePatchd("image")]), "cache"))
        0
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[[dict[str, Any]], Any],
        random_transform: Callable[[dict[str, Any]], Any],
        cache_dir: str | Path,
        patches_per_volume: int = 8,
        seed: int = 0,
        shuffle: bool = False,
        skip_bad_files: bool = False,
    ) -> None:
        if patches_per_volume < 1:
            raise ValueError(f"patches_per_volume must be positive, but is {patches_per_volume!r}.")
        self.patches_per_volume = patches_per_volume
        self.random_transform = random_transform
        self.seed = seed
        self.shuffle = shuffle
        self._names = {str(item["image"]): str(item["name"]) for item in data if item.get("name")}
        self._remark = next((str(item["remark"]) for item in data if item.get("remark")), "")
        steps = flatten(random_transform)
        self._cutter = next((step for step in steps if isinstance(step, RandPatchd)), None)
        self._cuts_first = bool(steps) and steps[0] is self._cutter
        slice_axis = self._cutter.slice_axis if self._cutter else 0
        self._prepared = prepare_volumes(
            data, lambda: VolumeStore(cache_dir, transform, slice_axis), self._cutter, skip_bad_files
        )
        self._order = EpochOrder(len(self), seed)
        ours = len(steps) == 1 and type(steps[0]) in (RandSlicePatchd, RandCubePatchd)
        self._only_cuts = ours and steps[0].keys == ("image",)
        self._state = np.random.RandomState()  # seeded for each patch; a new one takes longer than the patch

    def __len__(self) -> int:
        return len(self._prepared.volumes) * self.patches_per_volume

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample, by the whole random transform."""
        volume, table, seed = self._draw(index)
        if self._only_cuts and self._cutter:
            self._cutter.set_random_state(seed)  # and not by way of a Compose, which takes as long as the cutting
        elif isinstance(self.random_transform, Randomizable):
            self.random_transform.set_random_state(seed)
        data = {"image": volume.image(), TABLE_KEY: table} if self._cuts_first else {"image": volume.tensor()}
        sample = self.random_transform({**data, "subject": volume.subject, "source": volume.source})
        if not isinstance(sample, dict):
            raise ValueError(f"random_transform must return one dictionary, but returned a {type(sample).__name__}.")
        image = convert_to_tensor(sample["image"], dtype=torch.float32, track_meta=False)
        more = {"position": sample["position"]} if "position" in sample else {}
        return {"image": image, "subject": sample["subject"], "source": sample["source"], **more}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The samples of a batch, the same as one by one.

        Where cutting is all that the random transform does, the patches are converted to float32 together.
        """
        if not self._only_cuts:
            return [self[index] for index in indices]
        return self._cut_batch([self._draw(index) for index in indices])

    @property
    def voxel_sizes(self) -> list[tuple[float, ...]]:
        """Voxel size in mm along the axes of a patch, of each volume."""
        return [volume.voxel_size[3 - self._spatial_dims :] for volume in self._prepared.volumes]

    @property
    def _spatial_dims(self) -> int:
        return 2 if self._cutter is None else self._cutter.rule.spatial_dims

    def facts(self) -> DatasetFacts:
        """What a run records of the data."""
        volumes = self._prepared.volumes
        content = json.dumps([[volume.subject, volume.checksum] for volume in volumes])
        return DatasetFacts(
            entries=[_entry(volume) | self._name_of(volume) for volume in volumes],
            skipped=list(self._prepared.skipped),
            remark=self._remark or (SYNTHETIC_REMARK if any(volume.synthetic for volume in volumes) else ""),
            voxel_sizes=self.voxel_sizes,
            digest=hashlib.sha256(content.encode()).hexdigest()[:16],
            identities=frozenset(volume.checksum for volume in volumes),
            kind="cubes" if self._spatial_dims == 3 else "patches",
        )

    def unshuffled(self, count: int) -> VolumePatchDataset:
        """The same volumes, as an evaluation sees them, with at least ``count`` samples, the same of each volume.

        Whatever the seed, they are the same.
        """
        fixed = copy.copy(self)
        fixed.shuffle = False
        fixed.patches_per_volume = max(1, -(-count // max(1, len(self._prepared.volumes))))
        return fixed

    def _name(self, volume: StoredVolume) -> str:
        """By which a volume is known: of a person with one volume that is the person."""
        return self._names.get(volume.source, volume.subject)

    def _name_of(self, volume: StoredVolume) -> dict[str, str]:
        return {"name": self._names[volume.source]} if volume.source in self._names else {}

    def _draw(self, index: int) -> _Draw:
        """The volume that a sample is from, and the seed of what is drawn for it."""
        if self.shuffle:
            epoch, place = self._order[index]
            place //= self.patches_per_volume
            seed = derive_seed(self.seed, "patch", epoch, index % len(self))
        elif 0 <= index < len(self):
            place, i = divmod(index, self.patches_per_volume)
            seed = derive_seed(0, "evaluation", self._name(self._prepared.volumes[place]), i)
        else:
            raise IndexError(index)  # ends iteration over the dataset
        return _Draw(self._prepared.volumes[place], self._prepared.tables[place], seed % MAX_SEED)

    def _cut_batch(self, draws: Sequence[_Draw]) -> list[dict[str, Any]]:
        cutter = self._cutter
        assert cutter is not None
        cutter.R = state = self._state
        patches, positions = [], []
        for volume, table, seed in draws:
            state.seed(seed)
            assert table is not None
            position, patch = cutter.draw(volume.slices(), table, volume.source)
            patches.append(patch)
            positions.append(position)
        images = _to_float32(patches)
        return [
            {"image": image, "subject": draw.volume.subject, "source": draw.volume.source, "position": position}
            for image, draw, position in zip(images, draws, positions, strict=True)
        ]


def _entry(volume: StoredVolume) -> dict[str, str]:
    entry = {"image": str(Path(volume.source).absolute()), "subject": volume.subject, "sha256": volume.checksum}
    return {**entry, "nan_voxels": str(volume.nan)} if volume.nan else entry


def _to_float32(patches: Sequence[npt.NDArray[np.float16]]) -> Sequence[torch.Tensor]:
    """Patches as tensors, converted at once where they have the same number of channels."""
    if len({patch.shape for patch in patches}) > 1:
        return [torch.from_numpy(patch).to(torch.float32) for patch in patches]
    return torch.from_numpy(np.stack(patches)).to(torch.float32).unbind()
