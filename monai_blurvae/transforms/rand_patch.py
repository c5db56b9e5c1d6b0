"""What random patches of volumes have in common, squares and cubes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends

from monai_blurvae.errors import DataError
from monai_blurvae.transforms.check_volume import file_of
from monai_blurvae.transforms.patch_table import Array, Box, PatchRule, PatchTable

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
