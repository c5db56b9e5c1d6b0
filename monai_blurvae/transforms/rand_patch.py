"""Random patches of volumes, squares and cubes: enough of each has to be foreground."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends
from torch import Tensor

from monai_blurvae.errors import DataError
from monai_blurvae.transforms.volume import file_of

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


TRIES = 16
"""Positions that are tried in the box around a layer's valid ones before all of them are enumerated."""

TABLE_KEY = "patch_table"
"""Where a dataset may hand over the :class:`PatchTable` of the first key's volume, to save measuring it each time."""

Position = tuple[int, int, int]


class RandPatchd(RandomizableTransform, MapTransform):
    """Cut a random patch out of a volume ``(C, X, Y, Z)``.

    The first slice is drawn first, uniform among those at which a valid patch begins, then the row and column, uniform
    among the valid ones there: those whose patch holds at least ``min_foreground`` of voxels above ``threshold``.

    Args:
        keys: of the volumes.
        rule: which positions are valid.
        slice_axis: spatial axis across which the slices lie.
        allow_missing_keys: do not complain about a key that is not there.

    Raises:
        ValueError: for an argument out of its range, and when called on something without three spatial dimensions.
        DataError: when called on a volume that is smaller than the patch, or that has no valid position.
    """

    backend = (TransformBackends.TORCH, TransformBackends.NUMPY)

    def __init__(self, keys: KeysCollection, rule: PatchRule, slice_axis: int, allow_missing_keys: bool) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob=1.0)
        if not isinstance(rule.patch_size, int) or rule.patch_size < 1:
            raise ValueError(f"patch_size must be a positive number of voxels, but is {rule.patch_size!r}.")
        if not 0 <= rule.min_foreground <= 1:
            raise ValueError(f"min_foreground must be a share between 0 and 1, but is {rule.min_foreground!r}.")
        self.slice_axis = slice_axis
        self.rule = rule

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same data with patches in place of volumes, and their ``position``."""
        cut = dict(data)
        table = cut.pop(TABLE_KEY, None)
        position: Position | None = None
        for key in self.key_iterator(cut):
            if position is None:
                slices = self.slices_of(cut[key])
                name = file_of(cut[key])
                self.require_size(tuple(cut[key].shape[1:]), name)
                position, _ = self.draw(slices, table or PatchTable.begin(slices, self.rule), name)
            cut[key] = self.cut(cut[key], position)
        cut["position"] = position
        return cut

    def slices_of(self, volume: Any) -> Array:
        """A view ``(slices, channels, rows, columns)`` of a volume ``(C, X, Y, Z)``."""
        array = volume.detach().cpu().numpy() if isinstance(volume, torch.Tensor) else np.asarray(volume)
        if array.ndim != 4:
            raise ValueError(
                f"{type(self).__name__} takes volumes (C, X, Y, Z), but got one of shape {tuple(array.shape)}."
            )
        return np.moveaxis(array, self.slice_axis + 1, 0)

    @abstractmethod
    def require_size(self, shape: tuple[int, ...], name: str) -> None:
        """Check that a volume holds a patch.

        Args:
            shape: its (X, Y, Z).
            name: of the file, for the message.

        Raises:
            DataError: if it does not.
        """

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
            sides = "×".join([str(self.rule.patch_size)] * self.rule.spatial_dims)
            raise DataError(
                f"{name} has no {sides} patch with {self.rule.min_foreground:.0%} foreground, the best has "
                f"{table.best_share(slices):.0%}; lower min_foreground or remove the file."
            )

    def draw(self, slices: Array, table: PatchTable, name: str = "the volume") -> tuple[Position, Array]:
        """Draw a patch from the transform's random state; the table's completeness does not change which.

        Args:
            slices: ``(slices, channels, rows, columns)``.
            table: of the volume.
            name: of the file, for the message.

        Returns:
            The position, and a copy of what is there, ``(channels, patch_size, …)``.

        Raises:
            DataError: if there is no valid position.
        """
        candidates = table.candidates
        while candidates:
            numbers = self.R.random_sample(1 + 2 * TRIES).tolist()
            place = int(numbers[0] * len(candidates))
            box = table.box(slices, candidates[place])
            if box is not None:
                layer = self.rule.layer(slices, candidates[place])
                row, column, patch = self._draw_in(layer, box, numbers)
                return (candidates[place], row, column), patch
            candidates = candidates[:place] + candidates[place + 1 :]
        self.require_position(slices, table, name)
        raise AssertionError("a valid position was overlooked")

    def _draw_in(self, layer: Array, box: Box, numbers: list[float]) -> tuple[int, int, Array]:
        """Row, column and patch in one layer: tries in the box around the valid ones, then one among them all."""
        rule, p, needed = self.rule, self.rule.patch_size, self.rule.needed
        top, left, height, width = box
        for i in range(1, len(numbers), 2):
            row, column = top + int(numbers[i] * height), left + int(numbers[i + 1] * width)
            patch = layer[..., row : row + p, column : column + p].copy()  # counted faster in one piece
            above = rule.above(patch)
            if np.count_nonzero(above if len(above) == 1 else above.any(0)) >= needed:
                return row, column, patch
        valid = rule.foreground_map(layer) >= needed
        positions = np.flatnonzero(valid)
        row, column = divmod(int(positions[int(self.R.random_sample() * len(positions))]), valid.shape[1])
        return row, column, layer[..., row : row + p, column : column + p].copy()

    def cut(self, volume: Any, position: Position) -> torch.Tensor:
        """The patch at a position, float32; a ``MetaTensor`` keeps its metadata and gets the patch's affine."""
        index, row, column = position
        p = self.rule.patch_size
        if not isinstance(volume, torch.Tensor):
            patch = self.rule.layer(self.slices_of(volume), index)[..., row : row + p, column : column + p]
            return torch.from_numpy(patch.astype(np.float32))
        slices = (volume.as_tensor() if isinstance(volume, MetaTensor) else volume).movedim(self.slice_axis + 1, 0)
        inside = self.rule.layer(slices, index)[..., row : row + p, column : column + p]
        tensor = inside.to(torch.float32, copy=True).contiguous()
        if not isinstance(volume, MetaTensor):
            return tensor
        meta = {name: value for name, value in volume.meta.items() if name != "affine"}
        return MetaTensor(tensor, affine=self._affine(volume.affine, position), meta=meta)

    def _affine(self, affine: torch.Tensor, position: Position) -> torch.Tensor:
        """From the patch, a square with 0 behind its row and column, to the space in which the volume lies."""
        across, *along = (self.slice_axis, *(axis for axis in range(3) if axis != self.slice_axis))
        start = torch.zeros(4, dtype=affine.dtype, device=affine.device)
        start[[across, *along]] = torch.tensor(position, dtype=affine.dtype, device=affine.device)
        start[3] = 1
        axes = [*along, across] if self.rule.spatial_dims == 2 else [0, 1, 2]
        return torch.stack([*(affine[:, axis] for axis in axes), affine @ start], dim=1)


class RandSlicePatchd(RandPatchd):
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
        >>> import torch
        >>> cut = RandSlicePatchd("image", patch_size=8, slice_axis=2).set_random_state(0)
        >>> cut({"image": torch.ones(1, 16, 16, 4)})["image"].shape
        torch.Size([1, 8, 8])
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch_size: int = 64,
        slice_axis: int = 1,
        min_foreground: float = 0.25,
        threshold: float = -0.9,
        allow_missing_keys: bool = False,
    ) -> None:
        if slice_axis not in (0, 1, 2):
            raise ValueError(f"slice_axis must be 0 (sagittal), 1 (coronal) or 2 (axial), but is {slice_axis!r}.")
        rule = PatchRule(patch_size, float(min_foreground), float(threshold))
        super().__init__(keys, rule, slice_axis, allow_missing_keys)

    def require_size(self, shape: tuple[int, ...], name: str) -> None:
        """Check that a slice holds a patch, see :meth:`RandPatchd.require_size`."""
        rows, columns = (n for axis, n in enumerate(shape) if axis != self.slice_axis)
        if min(rows, columns) < self.rule.patch_size:
            raise DataError(
                f"{name} has slices of {rows}×{columns} voxels along slice_axis {self.slice_axis}, smaller than the "
                f"patch_size {self.rule.patch_size}; choose another slice_axis or patch_size, or pad the volumes with "
                "ResizeWithPadOrCropd."
            )


class RandCubePatchd(RandPatchd):
    """Cut a random cube out of a volume.

    Its first plane along X is drawn first, uniform among those at which a valid cube begins, then Y and Z, uniform
    among the valid ones there: those whose cube holds at least ``min_foreground`` of voxels above ``threshold``.
    Several keys are cut alike; the first that is there decides what is foreground.

    Volumes are channel-first ``(C, X, Y, Z)`` arrays or tensors of any real type. Each becomes a float32 tensor
    ``(C, patch_size, patch_size, patch_size)``, a ``MetaTensor`` with the cube's own affine if it was one; ``position``
    gets (x, y, z) of the cube's first voxel.

    Args:
        keys: of the volumes.
        patch_size: side of the cube, in voxels.
        min_foreground: smallest share of foreground voxels in a cube, 0 to 1.
        threshold: voxels above it are foreground; −0.9 leaves air and zeroed background of volumes in [−1, 1] below.
        allow_missing_keys: do not complain about a key that is not there.

    Raises:
        ValueError: for an argument out of its range, and when called on something without three spatial dimensions.
        DataError: when called on a volume that is smaller than the cube, or that has no valid position.

    Example:
        >>> import torch
        >>> cut = RandCubePatchd("image", patch_size=8).set_random_state(0)
        >>> cut({"image": torch.ones(1, 16, 16, 12)})["image"].shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch_size: int = 64,
        min_foreground: float = 0.25,
        threshold: float = -0.9,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, PatchRule(patch_size, float(min_foreground), float(threshold), 3), 0, allow_missing_keys)

    def require_size(self, shape: tuple[int, ...], name: str) -> None:
        """Check that a volume holds a cube, see :meth:`RandPatchd.require_size`."""
        if min(shape) < self.rule.patch_size:
            size = "×".join(str(n) for n in shape)
            raise DataError(
                f"{name} has {size} voxels, less than the patch_size {self.rule.patch_size} along an axis; choose a "
                "smaller patch_size, or pad the volumes with ResizeWithPadOrCropd."
            )
