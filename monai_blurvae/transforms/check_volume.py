"""Refuse volumes that no training should see."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import TransformBackends

from monai_blurvae.errors import DataError

logger = logging.getLogger(__name__)

SQUEEZED_SHARE, SQUEEZED_RANGE = 90, 0.1
"""A volume is squeezed when 90 % of its foreground lie in the lowest tenth of the range that is scaled."""
ENOUGH = 1_000_000
"""Voxels that are looked at for it, evenly spread over the volume."""
OTHER_UPPER = (99.0, 98.0, 97.0, 95.0, 90.0)
"""Upper percentiles to propose for such a volume, the largest that helps."""


class CheckVolumed(MapTransform):
    """Refuse a volume with NaN or infinite values, a constant one, and one that is all but constant.

    All but constant is a volume whose lower and upper percentile are alike, so that scaling by them is impossible; an
    empty scan with one bright voxel is an example. A volume whose foreground, what is above the lower percentile, a
    few very bright voxels squeeze into a small part of the range between the percentiles is warned of. The volume
    passes unchanged.

    Args:
        keys: of the volumes, of any shape.
        lower: lower percentile, 0 to 100, that the volume will be scaled by.
        upper: upper percentile, larger than ``lower``.
        allow_missing_keys: do not complain about a key that is not there.

    Raises:
        ValueError: unless 0 ≤ ``lower`` < ``upper`` ≤ 100.
        DataError: when called on such a volume, naming its file if it is a ``MetaTensor`` that knows it.

    Example:
        >>> CheckVolumed("image")({"image": torch.arange(8.0)})["image"].shape
        torch.Size([8])
    """

    backend = (TransformBackends.TORCH, TransformBackends.NUMPY)

    def __init__(
        self, keys: KeysCollection, lower: float = 1.0, upper: float = 99.0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= lower < upper <= 100:
            raise ValueError(
                f"lower and upper must be percentiles with lower < upper, but are {lower!r} and {upper!r}."
            )
        self.lower = lower
        self.upper = upper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same data, checked."""
        checked = dict(data)
        for key in self.key_iterator(checked):
            self._check(checked[key])
        return checked

    def _check(self, volume: Any) -> None:
        name = file_of(volume)
        array = volume.detach().cpu().numpy() if isinstance(volume, torch.Tensor) else np.asarray(volume)
        if not np.isfinite(array).all():
            nan, infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
            found = " and ".join(f"{n} {what}" for n, what in ((nan, "NaN"), (infinite, "infinite")) if n)
            raise DataError(f"{name} holds {found} value(s) among {array.size}; repair or remove the file.")
        if array.min() == array.max():
            raise DataError(f"{name} holds the single value {array.min():g} everywhere; remove the file.")
        low, high = np.percentile(array, [self.lower, self.upper])
        if not high > low:
            raise DataError(
                f"{name} is all but constant, its percentiles {self.lower:g} and {self.upper:g} are both {low:g}; "
                "remove the file."
            )
        self._warn_of_squeezing(name, array, float(low), float(high))

    def _warn_of_squeezing(self, name: str, array: npt.NDArray[Any], low: float, high: float) -> None:
        array = array.reshape(-1)[:: max(1, array.size // ENOUGH)]
        foreground = array[array > low]
        if not len(foreground):
            return
        most = float(np.percentile(foreground, SQUEEZED_SHARE))
        part = (most - low) / (high - low)
        if part >= SQUEEZED_RANGE:
            return
        candidates = [percentile for percentile in OTHER_UPPER if self.lower < percentile < self.upper]
        ends = [float(end) for end in np.percentile(array, candidates)]
        helping = [p for p, end in zip(candidates, ends, strict=True) if low < end and most - low >= (end - low) / 2]
        advice = (
            f"set upper of CheckVolumed and of ScaleIntensityRangePercentilesd to {helping[0]:g}"
            if helping
            else "remove them from the file"
        )
        logger.warning(
            f"{name} has a few very bright voxels: {SQUEEZED_SHARE} % of its foreground lie in the lowest {part:.2%} "
            f"of the range between its percentiles {self.lower:g} and {self.upper:g}; {advice}."
        )


def file_of(volume: Any) -> str:
    """The file that a ``MetaTensor`` was read from, or words for a volume that does not know its file."""
    meta = getattr(volume, "meta", None) or {}
    return str(meta.get("filename_or_obj") or "the volume")
