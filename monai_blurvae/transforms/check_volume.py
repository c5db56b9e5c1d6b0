"""Refuse volumes that no training should see."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import TransformBackends

from monai_blurvae.errors import DataError


class CheckVolumed(MapTransform):
    """Refuse a volume with NaN or infinite values, a constant one, and one that is all but constant.

    All but constant is a volume whose lower and upper percentile are alike, so that scaling by them is impossible; an
    empty scan with one bright voxel is an example. The volume passes unchanged.

    Args:
        keys: of the volumes, of any shape.
        lower: lower percentile, 0 to 100.
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
            raise DataError(f"{name} holds NaN or infinite values; repair or remove the file.")
        if array.min() == array.max():
            raise DataError(f"{name} holds the single value {array.min():g} everywhere; remove the file.")
        low, high = np.percentile(array, [self.lower, self.upper])
        if not high > low:
            raise DataError(
                f"{name} is all but constant, its percentiles {self.lower:g} and {self.upper:g} are both {low:g}; "
                "remove the file."
            )


def file_of(volume: Any) -> str:
    """The file that a ``MetaTensor`` was read from, or words for a volume that does not know its file."""
    meta = getattr(volume, "meta", None) or {}
    return str(meta.get("filename_or_obj") or "the volume")
