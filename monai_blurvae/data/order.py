"""The order of what a training sees, a function of (seed, epoch)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from monai_blurvae.seeding import numpy_rng


class EpochOrder:
    """The random order of a dataset in each epoch, a function of (seed, epoch).

    Args:
        size: of the dataset.
        seed: of the order.

    Example:
        >>> order = EpochOrder(3, seed=0)
        >>> sorted(order[index] for index in (3, 4, 5))
        [(1, 0), (1, 1), (1, 2)]
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self._newest: tuple[int, npt.NDArray[np.int64]] = (-1, np.zeros(0, np.int64))

    def __getitem__(self, index: int) -> tuple[int, int]:
        """The epoch of index n = epoch · size + i, which runs on over all epochs, and what is i-th in its order.

        Raises:
            IndexError: for a negative index, or if there is nothing to order.
        """
        if index < 0 or not self.size:
            raise IndexError(index)
        epoch, i = divmod(index, self.size)
        if self._newest[0] != epoch:
            self._newest = (epoch, numpy_rng(self.seed, "order", epoch).permutation(self.size))
        return epoch, int(self._newest[1][i])


def evenly_spread(size: int, most: int | None) -> list[int]:
    """Indices of ``most`` of ``size`` things, of all where there are fewer, evenly spread, from the first on.

    Args:
        size: how many there are.
        most: how many are wanted; None for all.
    """
    number = size if most is None else min(size, most)
    return [i * size // number for i in range(number)]
