"""Random square patches out of the slices of a volume."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends

from monai_blurvae.errors import DataError
from monai_blurvae.transforms.check_volume import file_of

TRIES = 16
"""Positions that are tried in the box around a slice's valid ones before all of them are enumerated."""

TABLE_KEY = "slice_patch_table"
"""Where a dataset may hand over the :class:`PatchTable` of the first key's volume, to save measuring it each time."""

Array = npt.NDArray[Any]
Position = tuple[int, int, int]
Box = tuple[int, int, int, int]


class PatchRule(NamedTuple):
    """Which positions of a slice may be drawn.

    Attributes:
        patch_size: side of the square patches, in voxels.
        min_foreground: smallest share of foreground voxels in a patch, 0 to 1.
        threshold: voxels above it are foreground; of several channels, any may be above.
    """

    patch_size: int
    min_foreground: float
    threshold: float

    @property
    def needed(self) -> int:
        """Foreground voxels that a patch has to hold."""
        return math.ceil(self.min_foreground * self.patch_size**2 - 1e-9)

    def above(self, values: Array) -> npt.NDArray[np.bool_]:
        """Which values are foreground, of any shape.

        NumPy compares float16 one by one, but the integers with the same bits twenty times as fast.
        """
        if values.dtype != np.float16:
            return np.asarray(values > np.float32(self.threshold))
        view, limit = _half_limit(self.threshold)
        above: npt.NDArray[np.bool_] = values.view(view) > limit if view is np.int16 else values.view(view) < limit
        return above

    def foreground_map(self, slice_: Array) -> npt.NDArray[np.int32]:
        """Foreground voxels of the patch at every position of a slice, by a summed-area table.

        Args:
            slice_: (channels, rows, columns).

        Returns:
            (rows − patch_size + 1, columns − patch_size + 1) counts.
        """
        p = self.patch_size
        table = np.zeros((slice_.shape[1] + 1, slice_.shape[2] + 1), np.int32)
        np.cumsum(np.cumsum(self.above(slice_).any(0), axis=0, dtype=np.int32), axis=1, out=table[1:, 1:])
        counts: npt.NDArray[np.int32] = table[p:, p:] - table[:-p, p:] - table[p:, :-p] + table[:-p, :-p]
        return counts

    def box(self, slice_: Array) -> Box | None:
        """First row, first column, height and width of the box around a slice's valid positions, if it has any."""
        valid = self.foreground_map(slice_) >= self.needed
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
    """What is known of a volume's slices under a rule.

    Attributes:
        rule: the rule.
        candidates: slices with enough foreground in total.
        boxes: the box around the valid positions of a slice, by slice, as far as it is known.
    """

    rule: PatchRule
    candidates: list[int]
    boxes: dict[int, Box | None] = field(default_factory=dict)

    @classmethod
    def begin(cls, slices: Array, rule: PatchRule) -> PatchTable:
        """Count the foreground of ``(slices, channels, rows, columns)``; boxes are found when they are asked for."""
        above = rule.above(slices)
        above = above[:, 0] if above.shape[1] == 1 else np.asarray(above.any(1))
        return cls(rule, [i for i, slice_ in enumerate(above) if np.count_nonzero(slice_) >= rule.needed])

    @classmethod
    def complete(cls, slices: Array, rule: PatchRule) -> PatchTable:
        """Measure every slice of ``(slices, channels, rows, columns)``."""
        table = cls.begin(slices, rule)
        for index in table.candidates:
            table.box(slices, index)
        return table

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
        """The box of one slice."""
        if index not in self.boxes:
            self.boxes[index] = self.rule.box(slices[index])
        return self.boxes[index]

    def best_share(self, slices: Array) -> float:
        """Largest share of foreground in any patch of the volume."""
        return max(int(self.rule.foreground_map(slice_).max()) for slice_ in slices) / self.rule.patch_size**2


class RandSlicePatchd(RandomizableTransform, MapTransform):
    """Cut a random square patch out of a random slice.

    The slice is drawn first, uniform among those that have a valid position, then the position, uniform among the valid
    ones of that slice: those whose patch holds at least ``min_foreground`` of voxels above ``threshold``. Several keys
    are cut alike; the first that is there decides what is foreground.

    Volumes are channel-first ``(C, X, Y, Z)`` arrays or tensors of any real type. Each becomes a float32 tensor
    ``(C, patch_size, patch_size)`` in the order of the axes that are left, a ``MetaTensor`` with the patch's own affine
    if it was one; ``position`` gets (slice, row, column) of the patch's first voxel.

    Args:
        keys: of the volumes.
        patch_size: side of the square patch, in voxels.
        slice_axis: spatial axis across which the slices lie: in RAS order 0 for sagittal, 1 for coronal, 2 for axial.
        min_foreground: smallest share of foreground voxels in a patch, 0 to 1.
        threshold: voxels above it are foreground; −0.9 leaves air and zeroed background of volumes in [−1, 1] below.
        allow_missing_keys: do not complain about a key that is not there.

    Raises:
        ValueError: for an argument out of its range, and when called on something without three spatial dimensions.
        DataError: when called on a volume whose slices are smaller than the patch, or that has no valid position.

    Example:
        >>> cut = RandSlicePatchd("image", patch_size=8, slice_axis=2).set_random_state(0)
        >>> cut({"image": torch.ones(1, 16, 16, 4)})["image"].shape
        torch.Size([1, 8, 8])
    """

    backend = (TransformBackends.TORCH, TransformBackends.NUMPY)

    def __init__(
        self,
        keys: KeysCollection,
        patch_size: int = 64,
        slice_axis: int = 1,
        min_foreground: float = 0.25,
        threshold: float = -0.9,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob=1.0)
        if not isinstance(patch_size, int) or patch_size < 1:
            raise ValueError(f"patch_size must be a positive number of voxels, but is {patch_size!r}.")
        if slice_axis not in (0, 1, 2):
            raise ValueError(f"slice_axis must be 0 (sagittal), 1 (coronal) or 2 (axial), but is {slice_axis!r}.")
        if not 0 <= min_foreground <= 1:
            raise ValueError(f"min_foreground must be a share between 0 and 1, but is {min_foreground!r}.")
        self.slice_axis = slice_axis
        self.rule = PatchRule(patch_size, float(min_foreground), float(threshold))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same data with patches in place of volumes, and their ``position``."""
        cut = dict(data)
        table = cut.pop(TABLE_KEY, None)
        position: Position | None = None
        for key in self.key_iterator(cut):
            if position is None:
                slices = self.slices_of(cut[key])
                name = file_of(cut[key])
                self.require_size(slices.shape[2:], name)
                position, _ = self.draw(slices, table or PatchTable.begin(slices, self.rule), name)
            cut[key] = self.cut(cut[key], position)
        cut["position"] = position
        return cut

    def slices_of(self, volume: Any) -> Array:
        """A view ``(slices, channels, rows, columns)`` of a volume ``(C, X, Y, Z)``."""
        array = volume.detach().cpu().numpy() if isinstance(volume, torch.Tensor) else np.asarray(volume)
        if array.ndim != 4:
            raise ValueError(f"RandSlicePatchd takes volumes (C, X, Y, Z), but got one of shape {tuple(array.shape)}.")
        return np.moveaxis(array, self.slice_axis + 1, 0)

    def require_size(self, size: tuple[int, ...], name: str) -> None:
        """Check that a slice holds a patch.

        Args:
            size: (rows, columns) of the slices.
            name: of the file, for the message.

        Raises:
            DataError: if it does not.
        """
        if min(size) < self.rule.patch_size:
            raise DataError(
                f"{name} has slices of {size[0]}×{size[1]} voxels along slice_axis {self.slice_axis}, smaller than the "
                f"patch_size {self.rule.patch_size}; choose another slice_axis or patch_size, or pad the volumes with "
                "ResizeWithPadOrCropd."
            )

    def require_position(self, slices: Array, table: PatchTable, name: str) -> None:
        """Check that a volume has a valid position.

        Args:
            slices: ``(slices, channels, rows, columns)``.
            table: of the volume.
            name: of the file, for the message.

        Raises:
            DataError: if it has none, with the best share of foreground that was found.
        """
        if not any(table.box(slices, index) for index in table.candidates):
            p = self.rule.patch_size
            raise DataError(
                f"{name} has no {p}×{p} patch with {self.rule.min_foreground:.0%} foreground, the best has "
                f"{table.best_share(slices):.0%}; lower min_foreground or remove the file."
            )

    def draw(self, slices: Array, table: PatchTable, name: str = "the volume") -> tuple[Position, Array]:
        """Draw a patch from the transform's random state; the table's completeness does not change which.

        Args:
            slices: ``(slices, channels, rows, columns)``.
            table: of the volume.
            name: of the file, for the message.

        Returns:
            The position, and a copy of what is there, ``(channels, patch_size, patch_size)``.

        Raises:
            DataError: if there is no valid position.
        """
        candidates = table.candidates
        while candidates:
            numbers = self.R.random_sample(1 + 2 * TRIES).tolist()
            place = int(numbers[0] * len(candidates))
            box = table.box(slices, candidates[place])
            if box is not None:
                row, column, patch = self._draw_in(slices[candidates[place]], box, numbers)
                return (candidates[place], row, column), patch
            candidates = candidates[:place] + candidates[place + 1 :]
        self.require_position(slices, table, name)
        raise AssertionError("a valid position was overlooked")

    def _draw_in(self, slice_: Array, box: Box, numbers: list[float]) -> tuple[int, int, Array]:
        """Row, column and patch in one slice: tries in the box around the valid ones, then one among them all."""
        rule, p, needed = self.rule, self.rule.patch_size, self.rule.needed
        top, left, height, width = box
        for i in range(1, len(numbers), 2):
            row, column = top + int(numbers[i] * height), left + int(numbers[i + 1] * width)
            patch = slice_[:, row : row + p, column : column + p].copy()  # counted faster in one piece
            above = rule.above(patch)
            if np.count_nonzero(above if len(above) == 1 else above.any(0)) >= needed:
                return row, column, patch
        valid = rule.foreground_map(slice_) >= needed
        positions = np.flatnonzero(valid)
        row, column = divmod(int(positions[int(self.R.random_sample() * len(positions))]), valid.shape[1])
        return row, column, slice_[:, row : row + p, column : column + p].copy()

    def cut(self, volume: Any, position: Position) -> torch.Tensor:
        """The patch at a position, float32; a ``MetaTensor`` keeps its metadata and gets the patch's affine."""
        index, row, column = position
        p = self.rule.patch_size
        if not isinstance(volume, torch.Tensor):
            patch = self.slices_of(volume)[index, :, row : row + p, column : column + p]
            return torch.from_numpy(patch.astype(np.float32))
        slices = (volume.as_tensor() if isinstance(volume, MetaTensor) else volume).movedim(self.slice_axis + 1, 0)
        tensor = slices[index, :, row : row + p, column : column + p].to(torch.float32, copy=True).contiguous()
        if not isinstance(volume, MetaTensor):
            return tensor
        meta = {name: value for name, value in volume.meta.items() if name != "affine"}
        return MetaTensor(tensor, affine=self._affine(volume.affine, position), meta=meta)

    def _affine(self, affine: torch.Tensor, position: Position) -> torch.Tensor:
        """From (row, column, 0) of the patch to the space in which the volume lies."""
        across, *along = (self.slice_axis, *(axis for axis in range(3) if axis != self.slice_axis))
        start = torch.zeros(4, dtype=affine.dtype, device=affine.device)
        start[[across, *along]] = torch.tensor(position, dtype=affine.dtype, device=affine.device)
        start[3] = 1
        return torch.stack([affine[:, along[0]], affine[:, along[1]], affine[:, across], affine @ start], dim=1)
