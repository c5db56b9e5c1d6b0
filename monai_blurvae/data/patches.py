"""Patches as pure functions of (seed, epoch, index), and the endless stream of batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from monai_blurvae.data.store import FOREGROUND_THRESHOLD, StoredVolume
from monai_blurvae.seeding import numpy_rng

FloatArray = npt.NDArray[np.float16]


def foreground_map(slice_: FloatArray, patch_size: int) -> npt.NDArray[np.int32]:
    """Foreground pixels of the patch at every position of a slice, by a summed-area table.

    Args:
        slice_: (rows, columns) in [0, 1].
        patch_size: of the square patches.

    Returns:
        (rows − patch_size + 1, columns − patch_size + 1) counts.
    """
    table = np.zeros((slice_.shape[0] + 1, slice_.shape[1] + 1), np.int32)
    np.cumsum(np.cumsum(slice_ > FOREGROUND_THRESHOLD, axis=0, dtype=np.int32), axis=1, out=table[1:, 1:])
    p = patch_size
    counts: npt.NDArray[np.int32] = table[p:, p:] - table[:-p, p:] - table[p:, :-p] + table[:-p, :-p]
    return counts


def largest_foreground(volume: StoredVolume, patch_size: int, enough: float) -> float:
    """Largest share of foreground of any patch of a volume, searched only until one has ``enough``."""
    best = 0.0
    for index in np.argsort(volume.foreground)[::-1]:
        if volume.foreground[index] <= best * patch_size**2:
            break
        best = max(best, float(foreground_map(volume.array()[index], patch_size).max()) / patch_size**2)
        if best >= enough:
            break
    return best


def draw_patch(
    volume: StoredVolume, patch_size: int, min_foreground: float, rng: np.random.Generator
) -> tuple[FloatArray, tuple[int, int, int]]:
    """Cut a random patch: first a random slice that has one, then a position, uniform among those with enough.

    Args:
        volume: in the store; it has to hold a patch with enough foreground.
        patch_size: of the square patch.
        min_foreground: smallest share of foreground pixels.
        rng: of the draw.

    Returns:
        The patch in [0, 1] and its (slice, row, column) in the volume.
    """
    needed = min_foreground * patch_size**2
    candidates = np.flatnonzero(np.asarray(volume.foreground) >= needed)
    for index in rng.permutation(candidates):
        slice_ = np.asarray(volume.array()[index])
        positions = np.flatnonzero(foreground_map(slice_, patch_size) >= needed)
        if len(positions):
            row, column = divmod(int(rng.choice(positions)), slice_.shape[1] - patch_size + 1)
            patch = slice_[row : row + patch_size, column : column + patch_size]
            return patch, (int(index), row, column)
    raise ValueError(f"{volume.source} has no patch with {min_foreground:.0%} foreground.")


class SizedDataset(Protocol):
    """A dataset with a length whose samples are dictionaries with ``image``."""

    def __len__(self) -> int:
        """Samples in an epoch."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample."""


class EpochOrder:
    """The random order of a dataset in each epoch, a function of (seed, epoch).

    Args:
        size: of the dataset.
        seed: of the order.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self._newest: tuple[int, npt.NDArray[np.int64]] = (-1, np.zeros(0, np.int64))

    def __getitem__(self, index: int) -> tuple[int, int]:
        """The epoch of index n = epoch · size + i, which runs on over all epochs, and what is i-th in its order."""
        epoch, i = divmod(index, self.size)
        if self._newest[0] != epoch:
            self._newest = (epoch, numpy_rng(self.seed, "order", epoch).permutation(self.size))
        return epoch, int(self._newest[1][i])


class SlicePatchDataset(Dataset[dict[str, Any]]):
    """Square patches of slices, scaled to [−1, 1].

    With ``shuffle`` the index n = epoch · len + i runs on over all epochs: patch i of epoch e is a function of
    (seed, e, i), drawn anew in every epoch, from every volume ``patches_per_volume`` times an epoch, in random order.
    Without it patch i is a function of the subject and i alone, whatever the seed and the other subjects, so that runs
    are evaluated on the same patches.

    Args:
        data: volumes of one split.
        patch_size: of the patches.
        patches_per_volume: patches of each volume in an epoch.
        min_foreground: smallest share of foreground in a patch, 0 to 1.
        seed: of the patches and their order.
        shuffle: for training.

    Each sample is a dictionary with ``image`` ``(1, patch_size, patch_size)`` float32, ``subject``, ``source`` and
    ``position`` (slice, row, column).

    Example:
        >>> SlicePatchDataset([], patch_size=64, patches_per_volume=8).__len__()
        0
    """

    def __init__(
        self,
        data: Sequence[StoredVolume],
        patch_size: int = 64,
        patches_per_volume: int = 8,
        min_foreground: float = 0.25,
        seed: int = 0,
        shuffle: bool = False,
    ) -> None:
        self.data = list(data)
        self.patch_size = patch_size
        self.patches_per_volume = patches_per_volume
        self.min_foreground = min_foreground
        self.seed = seed
        self.shuffle = shuffle
        self._order = EpochOrder(len(self), seed)

    def __len__(self) -> int:
        return len(self.data) * self.patches_per_volume

    def __getitem__(self, index: int) -> dict[str, Any]:
        volume, rng = self._training_draw(index) if self.shuffle else self._fixed_draw(index)
        patch, position = draw_patch(volume, self.patch_size, self.min_foreground, rng)
        image = torch.from_numpy(patch.astype(np.float32) * 2.0 - 1.0)[None]
        return {"image": image, "subject": volume.subject, "source": volume.source, "position": position}

    def _training_draw(self, index: int) -> tuple[StoredVolume, np.random.Generator]:
        epoch, place = self._order[index]
        volume = self.data[place // self.patches_per_volume]
        return volume, numpy_rng(self.seed, "patch", epoch, index % len(self))

    def _fixed_draw(self, index: int) -> tuple[StoredVolume, np.random.Generator]:
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends iteration over the dataset
        volume = self.data[index // self.patches_per_volume]
        return volume, numpy_rng(0, "evaluation", volume.subject, index % self.patches_per_volume)


class EndlessBatchSampler(Sampler[list[int]]):
    """Indices n = epoch · size + i in order, cut into the batches of each epoch, without end.

    Workers live on over the epochs, and a training can be taken up at any iteration.

    Args:
        size: patches in an epoch; the last batch of an epoch may be smaller.
        batch_size: patches in a batch.

    Attributes:
        start_iteration: number of batches that were already used; read when an iterator is made.
    """

    def __init__(self, size: int, batch_size: int) -> None:
        if size < 1 or batch_size < 1:
            raise ValueError(f"size and batch_size must be positive, but are {size} and {batch_size}.")
        self.size = size
        self.batch_size = batch_size
        self.start_iteration = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        iteration = self.start_iteration
        while True:
            epoch, step = divmod(iteration, len(self))
            first = step * self.batch_size
            last = min(first + self.batch_size, self.size)
            yield [epoch * self.size + i for i in range(first, last)]
            iteration += 1


def make_train_loader(
    dataset: SizedDataset, batch_size: int, num_workers: int = 0, pin_memory: bool = False
) -> DataLoader[dict[str, Any]]:
    """Loader whose batches do not depend on the number of workers; ``len`` is the number of batches in an epoch."""
    sampler = EndlessBatchSampler(len(dataset), batch_size)
    return DataLoader(
        cast(Dataset[dict[str, Any]], dataset),
        batch_sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=_leave_process_group,
    )


def _leave_process_group(worker: int) -> None:
    """Leave signals to the whole group, as ``timeout`` and terminals send them, to the main process.

    It needs its workers until it has written a checkpoint, and ends them itself.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()
