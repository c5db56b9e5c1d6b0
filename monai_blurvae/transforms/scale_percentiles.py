"""Intensities from percentiles of a volume to the network's range, and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, ScaleIntensityRange
from monai.transforms.utils_pytorch_numpy_unification import percentile
from monai.utils import TraceKeys, TransformBackends, convert_to_dst_type, convert_to_tensor
from torch import Tensor

from monai_blurvae.errors import DataError
from monai_blurvae.transforms.volume import file_of


class IntensityScaling(NamedTuple):
    """scaled = slope · image + offset, with ends cut off.

    Attributes:
        slope: in scaled intensity for each unit of the image.
        offset: in scaled intensity.
        low: lowest intensity of the image that was not cut off, in its units; −inf where none was.
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

    @classmethod
    def of(
        cls, image: Tensor, limits: tuple[float, float], target: tuple[float, float], clip: bool
    ) -> IntensityScaling:
        """The line that brings intensities of an image from two limits to two targets.

        Raises:
            DataError: unless the limits are two finite numbers, the smaller first.
        """
        low, high = limits
        if not (np.isfinite(high - low) and low < high):
            raise DataError(
                f"{file_of(image)} cannot be scaled, since the intensities {low:g} and {high:g} cannot become "
                f"{target[0]:g} and {target[1]:g}; give an image that is not blank."
            )
        slope = (target[1] - target[0]) / (high - low)
        below, above = (int((image < low).sum()), int((image > high).sum())) if clip else (0, 0)
        ends = (low if below else -np.inf, high if above else np.inf)
        return cls(slope, target[0] - slope * low, *ends, below, above)

    def inverse(self, scaled: Tensor) -> Tensor:
        """Intensities of the image, in float64."""
        return (scaled.double() - self.offset) / self.slope

    def then(self, other: IntensityScaling) -> IntensityScaling:
        """Of this scaling and another one after it."""
        low, high = ((end - self.offset) / self.slope for end in (other.low, other.high))
        return IntensityScaling(
            self.slope * other.slope,
            other.slope * self.offset + other.offset,
            max(self.low, low),
            min(self.high, high),
            self.below + other.below,
            self.above + other.above,
        )


class ScalePercentilesd(MapTransform, InvertibleTransform):
    """MONAI's ``ScaleIntensityRangePercentilesd``, which can be inverted.

    The values are MONAI's, bit by bit. A ``MetaTensor`` keeps the :class:`IntensityScaling`; the inverse, which MONAI's
    ``Invertd`` calls, brings intensities back to the image's units, but for what was cut off.

    Args:
        keys: of the images, of any shape.
        lower: percentile of the whole image, 0 to 100, that becomes ``b_min``.
        upper: percentile that becomes ``b_max``.
        b_min: lower end of the new range.
        b_max: upper end.
        clip: cut off what lies outside of the new range.
        allow_missing_keys: do not complain about a key that is not there.

    Raises:
        ValueError: unless 0 ≤ ``lower`` < ``upper`` ≤ 100.
        DataError: when called on an image whose percentiles are alike.

    Example:
        >>> ScalePercentilesd("image", 0, 100)({"image": torch.tensor([0.0, 5.0, 10.0])})["image"].tolist()
        [-1.0, 0.0, 1.0]
    """

    backend = (TransformBackends.TORCH, TransformBackends.NUMPY)

    def __init__(
        self,
        keys: KeysCollection,
        lower: float,
        upper: float,
        b_min: float = -1.0,
        b_max: float = 1.0,
        clip: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= lower < upper <= 100:
            raise ValueError(
                f"lower and upper must be percentiles with lower < upper, but are {lower!r} and {upper!r}."
            )
        self.lower = lower
        self.upper = upper
        self.b_min = b_min
        self.b_max = b_max
        self.clip = clip

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same data, scaled."""
        scaled = dict(data)
        for key in self.key_iterator(scaled):
            scaled[key] = self._scale(scaled[key])
        return scaled

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same data in the units of the image, float64."""
        restored = dict(data)
        for key in self.key_iterator(restored):
            record = self.pop_transform(restored[key])[TraceKeys.EXTRA_INFO]
            restored[key] = IntensityScaling(**record["scaling"]).inverse(restored[key])
        return restored

    def _scale(self, image: Any) -> Any:
        tensor = convert_to_tensor(image, track_meta=isinstance(image, MetaTensor))
        values = convert_to_tensor(tensor, track_meta=False)
        low, high = (percentile(values, q) for q in (self.lower, self.upper))
        target = (self.b_min, self.b_max)
        scaling = IntensityScaling.of(tensor, (float(low), float(high)), target, self.clip)
        scaler: Any = ScaleIntensityRange(low, high, *target, clip=self.clip)
        scaled = convert_to_dst_type(convert_to_tensor(scaler(values), track_meta=False), tensor, dtype=torch.float32)[
            0
        ]
        if isinstance(scaled, MetaTensor):
            self.push_transform(scaled, extra_info={"scaling": scaling._asdict()})
        return scaled
