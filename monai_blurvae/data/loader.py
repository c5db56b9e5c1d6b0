"""The endless stream of batches that a training reads."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sized
from typing import Any, Protocol, cast

from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from monai_blurvae.data.facts import EpochOrder

logger = logging.getLogger(__name__)


class SizedDataset(Protocol):
    """A dataset with a length whose samples are dictionaries with ``image``."""

    def __len__(self) -> int:
        """Samples in an epoch."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample."""


class EndlessBatchSampler(Sampler[list[int]]):
    """Indices n = epoch · size + i in order, cut into the batches of each epoch, without end.

    Workers live on over the epochs, and a training can be taken up at any iteration. Several processes take the batches
    of ``num_replicas`` · ``batch_size`` that one process would take, an equal part each, one behind the other; the
    first indices of an epoch fill its last batch up.

    Args:
        size: samples in an epoch; the last batch of an epoch may be smaller. It may be 0 until batches are asked for.
        batch_size: samples in a batch of one process.
        rank: of this process, from 0.
        num_replicas: number of processes.
        order: the index below ``size`` that stands for each n; None where the dataset knows its own order.

    Attributes:
        start_iteration: number of batches that were already used; read when an iterator is made.

    Raises:
        ValueError: for an argument out of its range, and, when batches are asked for, if there is no data.
    """

    def __init__(
        self, size: int, batch_size: int, rank: int = 0, num_replicas: int = 1, order: EpochOrder | None = None
    ) -> None:
        if size < 0 or batch_size < 1:
            raise ValueError(f"size and batch_size must be positive, but are {size} and {batch_size}.")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank must lie between 0 and num_replicas − 1, but is {rank} of {num_replicas}.")
        self.size = size
        self.batch_size = batch_size
        self.rank = rank
        self.num_replicas = num_replicas
        self.order = order
        self.start_iteration = 0

    @property
    def share(self) -> int:
        """Samples of one process in an epoch."""
        return -(-self.size // self.num_replicas)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self.share // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        if not self.size:
            raise ValueError("the training data is empty; check the dataset's data.")
        return self._batches(self.start_iteration)

    def _batches(self, iteration: int) -> Iterator[list[int]]:
        while True:
            epoch, step = divmod(iteration, len(self))
            before = step * self.batch_size
            count = min(self.batch_size, self.share - before)
            first = before * self.num_replicas + self.rank * count
            numbers = [epoch * self.size + place % self.size for place in range(first, first + count)]
            yield numbers if self.order is None else [self.order[n][1] for n in numbers]
            iteration += 1


class TrainLoader(DataLoader[dict[str, Any]]):
    """Loader of an endless training, whose batches do not depend on the number of workers.

    ``len`` is the number of batches in an epoch.

    Args:
        dataset: one with ``shuffle=True``, whose indices run on over the epochs and which mixes them itself, or any
            other with a length, whose samples are mixed anew in each epoch.
        batch_size: samples in a batch of one process.
        num_workers: processes that make batches; 0 for this one.
        sampler: a ``DistributedSampler`` tells which of several processes this one is; its own order is not used.
        shuffle: there for configs that say it; the dataset decides.
        pin_memory: whether batches lie in page-locked memory, from which a GPU copies faster.
        seed: of the order of a dataset that does not mix itself.
        **kwargs: further arguments of ``torch.utils.data.DataLoader``.

    Raises:
        ValueError: for another sampler.
    """

    def __init__(
        self,
        dataset: SizedDataset,
        batch_size: int,
        num_workers: int = 0,
        sampler: Sampler[int] | None = None,
        shuffle: bool | None = None,
        pin_memory: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        rank, num_replicas = 0, 1
        if isinstance(sampler, DistributedSampler):
            rank, num_replicas = sampler.rank, sampler.num_replicas
            _tell(len(dataset), batch_size, num_replicas)
        elif sampler is not None:
            raise ValueError(f"sampler must be a DistributedSampler or None, but is a {type(sampler).__name__}.")
        order = None if getattr(dataset, "shuffle", False) else EpochOrder(len(dataset), seed)
        super().__init__(
            cast(Dataset[dict[str, Any]], dataset),
            batch_sampler=EndlessBatchSampler(len(dataset), batch_size, rank, num_replicas, order),
            num_workers=num_workers,
            pin_memory=pin_memory,
            **{"worker_init_fn": _leave_process_group, **kwargs},
        )


class ShareSampler(Sampler[int]):
    """A process's share of a dataset that several evaluate: each index is taken once.

    Where there are fewer samples than processes each of these takes all: a mean over them is the same.

    Args:
        dataset: one with a length.
        num_replicas: number of processes.
        rank: of this process, from 0.

    Example:
        >>> list(ShareSampler("abcde", 2, 1)), list(ShareSampler("ab", 3, 1))
        ([1, 3], [0, 1])
    """

    def __init__(self, dataset: Sized, num_replicas: int, rank: int) -> None:
        size = len(dataset)
        self.indices = range(rank, size, num_replicas) if size >= num_replicas else range(size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


def _tell(size: int, batch_size: int, num_replicas: int) -> None:
    """Say what a step sees, and what an epoch sees twice."""
    again = -size % num_replicas
    more = f"; the first {again} of an epoch's {size} come twice in it, to fill its last batch up" if again else ""
    logger.info(f"A batch has {num_replicas} × {batch_size} = {num_replicas * batch_size} images{more}.")


def _leave_process_group(worker: int) -> None:
    """Leave signals to the whole group, as ``timeout`` and terminals send them, to the main process.

    It needs its workers until it has written a checkpoint, and ends them itself.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()
