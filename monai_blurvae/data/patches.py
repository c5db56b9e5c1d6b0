"""Patches of volumes as pure functions of (seed, epoch, index)."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Randomizable
from monai.utils import MAX_SEED, convert_to_tensor
from torch.utils.data import Dataset

from monai_blurvae.data.datalist import SYNTHETIC_REMARK
from monai_blurvae.data.facts import DatasetFacts
from monai_blurvae.data.order import EpochOrder
from monai_blurvae.data.store import StoredVolume, VolumeStore
from monai_blurvae.data.volumes import flatten, prepare_volumes
from monai_blurvae.seeding import derive_seed
from monai_blurvae.transforms import RandCubePatchd, RandPatchd, RandSlicePatchd
from monai_blurvae.transforms.patch_table import PatchTable
from monai_blurvae.transforms.rand_patch import TABLE_KEY


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
