"""Where in a volume a patch may lie: enough of it has to be foreground."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

Array = npt.NDArray[Any]
Slices = TypeVar("Slices", Array, Tensor)
Box = tuple[int, int, int, int]


class PatchRule(NamedTuple):
    """Which positions of a volume may be drawn.

    A volume is ``(slices, channels, rows, columns)``. All patches that begin at one slice lie in a *layer*: that slice,
    ``(channels, rows, columns)``, or, of cubes, it and those behind it, ``(channels, patch_size, rows, columns)``.

    Attributes:
        patch_size: side of the patches, in voxels.
        min_foreground: smallest share of foreground voxels in a patch, 0 to 1.
        threshold: voxels above it are foreground; of several channels, any may be above.
        spatial_dims: 2 for squares in a slice, 3 for cubes.
    """

    patch_size: int
    min_foreground: float
    threshold: float
    spatial_dims: int = 2

    @property
    def voxels(self) -> int:
        """Of a patch."""
        return int(self.patch_size**self.spatial_dims)

    @property
    def needed(self) -> int:
        """Foreground voxels that a patch has to hold."""
        return math.ceil(self.min_foreground * self.voxels - 1e-9)

    @property
    def depth(self) -> int:
        """Slices that a patch goes through."""
        return 1 if self.spatial_dims == 2 else self.patch_size

    def layer(self, slices: Slices, index: int) -> Slices:
        """A view of what the patches that begin at a slice lie in."""
        return slices[index] if self.spatial_dims == 2 else slices[index : index + self.depth].swapaxes(0, 1)

    def above(self, values: Array) -> npt.NDArray[np.bool_]:
        """Which values are foreground, of any shape.

        NumPy compares float16 one by one, but the integers with the same bits twenty times as fast.
        """
        if values.dtype != np.float16:
            return np.asarray(values > np.float32(self.threshold))
        view, limit = _half_limit(self.threshold)
        above: npt.NDArray[np.bool_] = values.view(view) > limit if view is np.int16 else values.view(view) < limit
        return above

    def foreground_map(self, layer: Array) -> npt.NDArray[np.int32]:
        """Foreground voxels of the patch at every position of a layer, ``(rows − p + 1, columns − p + 1)``."""
        above: Array = self.above(layer).any(0)  # type: ignore[assignment]
        return self._map_of(above if self.spatial_dims == 2 else above.sum(0, dtype=np.int32))

    def box(self, layer: Array) -> Box | None:
        """First row, first column, height and width of the box around a layer's valid positions, if it has any."""
        return self._box_of(self.foreground_map(layer))

    def boxes(self, slices: Array, candidates: list[int]) -> dict[int, Box | None]:
        """:meth:`box` of the layers that begin at some slices, faster than one by one where layers overlap."""
        before = np.zeros((len(slices) + 1, *slices.shape[2:]), np.int32)
        np.cumsum(self.above(slices).any(1), axis=0, dtype=np.int32, out=before[1:])
        return {index: self._box_of(self._map_of(before[index + self.depth] - before[index])) for index in candidates}

    def _map_of(self, columns: Array) -> npt.NDArray[np.int32]:
        """:meth:`foreground_map` by a summed-area table of the foreground that is behind each row and column."""
        p = self.patch_size
        table = np.zeros((columns.shape[0] + 1, columns.shape[1] + 1), np.int32)
        np.cumsum(np.cumsum(columns, axis=0, dtype=np.int32), axis=1, out=table[1:, 1:])
        counts: npt.NDArray[np.int32] = table[p:, p:] - table[:-p, p:] - table[p:, :-p] + table[:-p, :-p]
        return counts

    def _box_of(self, counts: npt.NDArray[np.int32]) -> Box | None:
        valid = counts >= self.needed
        rows, columns = np.flatnonzero(valid.any(1)), np.flatnonzero(valid.any(0))
        if not len(rows):
            return None
        return int(rows[0]), int(columns[0]), int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1


@lru_cache(maxsize=16)
def _half_limit(threshold: float) -> tuple[type[np.int16] | type[np.uint16], np.int16 | np.uint16]:
    """The integers by whose order x > float32(threshold) is decided for float16 x, and the limit among them."""
    half = np.float16(threshold)
    if np.float32(half) > np.float32(threshold):
        half = np.nextafter(half, np.float16(-np.inf))
    if half < 0:  # the bits of negative numbers grow downwards, above those of all positive ones
        return np.uint16, half.view(np.uint16)
    return np.int16, np.float16(abs(half)).view(np.int16)


@dataclass
class PatchTable:
    """What is known of a volume's layers under a rule.

    Attributes:
        rule: the rule.
        candidates: first slices of the layers with enough foreground in total.
        boxes: the box around the valid positions of a layer, by its first slice, as far as it is known.
    """

    rule: PatchRule
    candidates: list[int]
    boxes: dict[int, Box | None] = field(default_factory=dict)

    @classmethod
    def begin(cls, slices: Array, rule: PatchRule) -> PatchTable:
        """Count the foreground of ``(slices, channels, rows, columns)``; boxes are found when they are asked for."""
        above = rule.above(slices)
        above = above[:, 0] if above.shape[1] == 1 else np.asarray(above.any(1))
        before = np.cumsum([0, *(np.count_nonzero(slice_) for slice_ in above)])
        return cls(rule, np.flatnonzero(before[rule.depth :] - before[: -rule.depth] >= rule.needed).tolist())

    @classmethod
    def complete(cls, slices: Array, rule: PatchRule) -> PatchTable:
        """Measure every layer of ``(slices, channels, rows, columns)``."""
        candidates = cls.begin(slices, rule).candidates
        return cls(rule, candidates, rule.boxes(slices, candidates))

    @classmethod
    def of(cls, array: npt.NDArray[np.int32], rule: PatchRule) -> PatchTable:
        """A complete table, back from :meth:`to_array`."""
        boxes = {row[0]: (row[1], row[2], row[3], row[4]) if row[3] else None for row in array.tolist()}
        return cls(rule, list(boxes), dict(boxes))

    def to_array(self) -> npt.NDArray[np.int32]:
        """A row for each candidate of a complete table: slice, first row, first column, height and width, or zeros."""
        rows = [(index, *(self.boxes[index] or (0, 0, 0, 0))) for index in self.candidates]
        return np.array(rows, np.int32).reshape(-1, 5)

    def box(self, slices: Array, index: int) -> Box | None:
        """The box of the layer that begins at a slice."""
        if index not in self.boxes:
            self.boxes[index] = self.rule.box(self.rule.layer(slices, index))
        return self.boxes[index]

    def best_share(self, slices: Array) -> float:
        """Largest share of foreground in any patch of the volume."""
        rule = self.rule
        starts = range(len(slices) - rule.depth + 1)
        return max(int(rule.foreground_map(rule.layer(slices, index)).max()) for index in starts) / rule.voxels
