"""A scan as a training would have prepared it, and the way back to its own grid and intensities."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import EnsureChannelFirstd, InvertibleTransform, LoadImaged, Orientationd
from torch import Tensor

from monai_blurvae.data.store import data_error
from monai_blurvae.errors import SettingsError
from monai_blurvae.transforms import NaNToBackgroundd, SmoothSpacingd

logger = logging.getLogger(__name__)

ENOUGH = 1_000_000
"""Voxels that a straight line is fitted to, evenly spread over the volume."""

STRAIGHT = 1e-4
"""How far, in the range of the prepared intensities, a voxel may be off the line; rounding to float32 is far below."""

READING = (LoadImaged, EnsureChannelFirstd, Orientationd, NaNToBackgroundd)
"""Transforms that come before resampling."""


class IntensityScaling(NamedTuple):
    """prepared = slope · scan + offset, with ends cut off.

    Attributes:
        slope: in prepared intensity for each unit of the scan.
        offset: in prepared intensity.
        low: lowest intensity of the scan that was not cut off, in its units; −inf where none was.
        high: highest, likewise.
        below: voxels that were lower and were cut off.
        above: voxels that were higher.
    """

    slope: float = 1.0
    offset: float = 0.0
    low: float = -np.inf
    high: float = np.inf
    below: int = 0
    above: int = 0

    def inverse(self, prepared: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Intensities of the scan, in the memory of the prepared ones: there may be a billion of them."""
        prepared -= self.offset
        prepared /= self.slope
        return prepared


@dataclass
class PreparedScan:
    """A scan on the grid and in the intensities of a training.

    Attributes:
        scan: as it was read, ``(X, Y, Z)`` in the order of the file and in its units, with its affine.
        image: prepared, ``(1, X', Y', Z')`` in the order of the transforms.
        scaling: of the intensities.
        transforms: by which it was prepared.
    """

    scan: MetaTensor
    image: MetaTensor
    scaling: IntensityScaling
    transforms: Sequence[Any]

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """In mm, of the prepared image."""
        x, y, z = affine_to_spacing(self.image.affine, 3)
        return float(x), float(y), float(z)

    def to_scan(self, values: Tensor) -> npt.NDArray[np.float64]:
        """Bring what was made of the prepared image back to the grid of the scan.

        Args:
            values: ``(X', Y', Z')``.

        Returns:
            ``(X, Y, Z)``, NaN where the scan has NaN and where the preparation left voxels out.
        """
        back = self._inverse(values)
        if self.image.shape[1:].numel() != self.scan.numel():  # something was cut, padded or resampled
            back[self._inverse(torch.ones_like(values)) < 0.5] = np.nan
        return back

    def intensities(self, values: Tensor) -> npt.NDArray[np.float64]:
        """The same of prepared intensities, in the units of the scan."""
        return self.scaling.inverse(self.to_scan(values))

    def _inverse(self, values: Tensor) -> npt.NDArray[np.float64]:
        volume = MetaTensor(
            values[None].as_tensor() if isinstance(values, MetaTensor) else values[None],
            meta=dict(self.image.meta),
            applied_operations=deepcopy(self.image.applied_operations),  # inverses take their records out
        )
        data: dict[Any, Any] = {"image": volume}
        for transform in reversed(self.transforms):
            if isinstance(transform, InvertibleTransform):
                data = transform.inverse(data)
        return data["image"].as_tensor()[0].double().numpy()


def prepare_scan(path: str, transforms: Sequence[Any]) -> PreparedScan:
    """Read a scan and prepare it, noting what happens to its intensities.

    What a transform did to the intensities is found from the voxels, so that any that scales them by a straight line,
    cut off at the ends or not, can be taken back.

    Args:
        path: of the volume.
        transforms: dictionary transforms of ``image``, the first of which reads it.

    Raises:
        DataError: naming the file, if it cannot be used.
        SettingsError: if a transform changes intensities by something else than a straight line.
    """
    data: dict[Any, Any] = {"image": path}
    scan = None
    scaling = IntensityScaling()
    for transform in transforms:
        before = data["image"]
        try:
            data = dict(transform(data))
        except Exception as error:  # a damaged file can raise whatever the reader meets
            raise data_error(path, error) from error
        after = data["image"]
        if scan is None:
            scan = after
        elif _changes_intensities(transform, before, after):
            scaling = _joined(scaling, _line(before.as_tensor(), after.as_tensor(), type(transform).__name__))
    assert scan is not None
    return PreparedScan(scan, data["image"], scaling, transforms)


def with_resampling(transforms: Sequence[Any], voxel_size: Sequence[float], slice_axis: int | None) -> list[Any]:
    """Transforms that also bring volumes to the voxel size of a training; distances of slices are kept.

    Args:
        transforms: of the training.
        voxel_size: of the training, along the axes of a patch, in mm.
        slice_axis: 0, 1 or 2 for sagittal, coronal or axial slices, None for cubes.
    """
    pixdim = list(voxel_size)
    if slice_axis is not None:
        pixdim.insert(slice_axis, -1.0)  # the volume's own, to MONAI
    place = max((i + 1 for i, transform in enumerate(transforms) if isinstance(transform, READING)), default=0)
    resampling = SmoothSpacingd("image", pixdim, mode="bilinear", padding_mode="border")
    return [*transforms[:place], resampling, *transforms[place:]]


def _changes_intensities(transform: Any, before: MetaTensor, after: MetaTensor) -> bool:
    return (
        not isinstance(transform, InvertibleTransform)
        and before is not after
        and before.shape == after.shape
        and not torch.equal(before.as_tensor(), after.as_tensor())
    )


def _line(before: Tensor, after: Tensor, name: str) -> IntensityScaling:
    """The line that a transform drew through the intensities, and what it cut off."""
    low, high = float(after.min()), float(after.max())
    before, after = before.flatten(), after.flatten()
    slope, offset = _fitted(before[:: max(1, len(before) // ENOUGH)], after[:: max(1, len(after) // ENOUGH)], low, high)
    far = STRAIGHT * (high - low)
    below, above, distance = 0, 0, 0.0
    for x, y in zip(before.split(ENOUGH), after.split(ENOUGH), strict=True):
        line = slope * x.double() + offset
        below += int((line < low - far).sum())
        above += int((line > high + far).sum())
        distance = max(distance, float((line.clamp(low, high) - y).abs().max()))
    if not slope > 0 or not distance <= far:
        raise SettingsError(
            f"the training's transform {name} changes intensities by something else than a straight line, so that a "
            "reconstruction cannot be brought back into the units of a scan; take a run with "
            "ScaleIntensityRangePercentilesd."
        )
    return IntensityScaling(
        slope,
        offset,
        (low - offset) / slope if below else -np.inf,
        (high - offset) / slope if above else np.inf,
        below,
        above,
    )


def _fitted(x: Tensor, y: Tensor, low: float, high: float) -> tuple[float, float]:
    """Slope and offset by least squares, of the voxels that were not cut off if these tell them."""
    inside = (y > low) & (y < high)
    if inside.any() and float(x[inside].min()) < float(x[inside].max()):
        x, y = x[inside], y[inside]
    x, y = x.double(), y.double()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    return slope, float(y.mean()) - slope * float(x.mean())


def _joined(first: IntensityScaling, second: IntensityScaling) -> IntensityScaling:
    """Of two scalings one after the other."""
    low, high = ((end - first.offset) / first.slope for end in (second.low, second.high))
    return IntensityScaling(
        first.slope * second.slope,
        second.slope * first.offset + second.offset,
        max(first.low, low),
        min(first.high, high),
        first.below + second.below,
        first.above + second.above,
    )
