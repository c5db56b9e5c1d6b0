"""A scan as a training would have prepared it, and the way back to its own grid and intensities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import (
    EnsureChannelFirstd,
    InvertibleTransform,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
)
from monai.utils import TraceKeys
from torch import Tensor

from monai_blurvae.data.store import data_error
from monai_blurvae.errors import SettingsError
from monai_blurvae.transforms import NaNToBackgroundd, PrepareImaged, ScalePercentilesd, SmoothSpacingd
from monai_blurvae.transforms.scale_percentiles import IntensityScaling

LOADING = (LoadImaged, EnsureChannelFirstd, PrepareImaged)
"""Transforms that make an array, channel first, of a file."""
READING = (*LOADING, Orientationd, NaNToBackgroundd)
"""Transforms that come before resampling."""
SCALING = (ScalePercentilesd, ScaleIntensityRanged)
"""Transforms of intensities that are taken back: by what the first recorded, and what the second was built with."""


@dataclass
class PreparedScan:
    """A scan on the grid and in the intensities of a training.

    Attributes:
        scan: as it was read, ``(X, Y, Z)`` in the order of the file and in its units, with its affine; or as given.
        image: prepared, ``(C, X', Y', Z')`` or ``(C, H, W)``, in the order of the transforms.
        scaling: of the intensities, all transforms together.
        transforms: by which it was prepared.
        refused: name of a transform of intensities that cannot be taken back; None for none.
    """

    scan: MetaTensor
    image: MetaTensor
    scaling: IntensityScaling
    transforms: Sequence[Any]
    refused: str | None = None

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """In mm, of the prepared image."""
        x, y, z = affine_to_spacing(self.image.affine, 3)
        return float(x), float(y), float(z)

    def require_way_back(self) -> None:
        """Refuse a scan whose intensities cannot be taken back.

        Raises:
            SettingsError: naming the transform.
        """
        if self.refused is not None:
            raise SettingsError(
                f"the training's transform {self.refused} changes intensities and has no inverse, so that a "
                "reconstruction cannot be brought back into the units of a scan; take a run with "
                "monai_blurvae.transforms.ScalePercentilesd."
            )

    def to_scan(self, values: Tensor) -> MetaTensor:
        """Bring what was made of the prepared image back to the grid of the scan.

        Args:
            values: like ``image``.

        Returns:
            ``(C, X, Y, Z)``, float64, NaN where the scan has NaN and where the preparation left voxels out.
        """
        return self._back(values, False)

    def intensities(self, values: Tensor) -> MetaTensor:
        """The same of prepared intensities, in the units of the scan.

        Raises:
            SettingsError: as of :meth:`require_way_back`.
        """
        self.require_way_back()
        return self._back(values, True)

    def _back(self, values: Tensor, intensities: bool) -> MetaTensor:
        back = inverted(values, self.image, self.transforms, intensities).double()
        if self.image.shape[1:].numel() != math.prod(self.scan.shape[1 - self.image.ndim :]):  # cut, padded, resampled
            back[inverted(torch.ones_like(values), self.image, self.transforms, False) < 0.5] = torch.nan
        return back


def inverted(values: Tensor, image: MetaTensor, transforms: Sequence[Any], intensities: bool = True) -> MetaTensor:
    """What was made of a prepared image, back where the transforms took that from.

    Args:
        values: like ``image``.
        image: prepared, which knows what was done to it.
        transforms: by which it was prepared, these very objects.
        intensities: whether values are prepared intensities, and become those of the scan.
    """
    plain = values.as_tensor() if isinstance(values, MetaTensor) else values
    # copies, since inverses take their records out
    found = MetaTensor(plain, meta=deepcopy(image.meta), applied_operations=deepcopy(image.applied_operations))
    data: dict[Any, Any] = {"image": found}
    for step in reversed(transforms):
        if isinstance(step, ScalePercentilesd) and not intensities:
            step.pop_transform(data["image"])
        elif isinstance(step, InvertibleTransform):
            data = step.inverse(data)
        elif isinstance(step, ScaleIntensityRanged) and intensities:
            data["image"] = _range_scaling(step, data["image"]).inverse(data["image"])
    back: MetaTensor = data["image"]
    return back


def prepare_scan(source: str | MetaTensor, transforms: Sequence[Any]) -> PreparedScan:
    """Read a scan and prepare it, noting what happens to its intensities.

    Args:
        source: path of the volume, or a tensor ``(C, …)`` for which loading transforms are left out.
        transforms: dictionary transforms of ``image``, the first of which reads it.

    Raises:
        DataError: naming the file, if it cannot be used.
    """
    scan = source if isinstance(source, MetaTensor) else None
    steps = [step for step in transforms if scan is None or not isinstance(step, LOADING)]
    data: dict[Any, Any] = {"image": source}
    scaling, refused = IntensityScaling(), None
    for step in steps:
        before = data["image"]
        try:
            data = dict(step(data))
        except Exception as error:  # a damaged file can raise whatever the reader meets
            name = source if isinstance(source, str) else source.meta.get("filename_or_obj") or "the image"
            raise data_error(str(name), error) from error
        after = data["image"]
        if scan is None:
            scan = after
        elif isinstance(step, ScalePercentilesd):
            scaling = scaling.then(IntensityScaling(**after.applied_operations[-1][TraceKeys.EXTRA_INFO]["scaling"]))
        elif isinstance(step, ScaleIntensityRanged):
            scaling = scaling.then(_range_scaling(step, before))
        elif not isinstance(step, InvertibleTransform) and _changes_intensities(before, after):
            refused = type(step).__name__
    assert scan is not None
    return PreparedScan(scan, data["image"], scaling, steps, refused)


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


def _changes_intensities(before: MetaTensor, after: MetaTensor) -> bool:
    return (
        before is not after and before.shape == after.shape and not torch.equal(before.as_tensor(), after.as_tensor())
    )


def _range_scaling(step: ScaleIntensityRanged, image: Tensor) -> IntensityScaling:
    scaler = step.scaler
    kept = scaler.b_min is None or scaler.b_max is None
    target = (0.0, 1.0) if kept else (float(scaler.b_min), float(scaler.b_max))
    return IntensityScaling.of(image, (float(scaler.a_min), float(scaler.a_max)), target, scaler.clip)
