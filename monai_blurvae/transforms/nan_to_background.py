"""NaN is how SPM, FSL and nilearn write that there is no tissue."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, TransformBackends, convert_to_tensor

from monai_blurvae.errors import DataError
from monai_blurvae.transforms.check_volume import file_of

logger = logging.getLogger(__name__)


class NaNToBackgroundd(MapTransform, InvertibleTransform):
    """Take NaN for background: give it the smallest finite value of the volume, and count it in the log.

    The smallest value, not zero, is what percentiles scale to the lower end of the range also where the volume is
    z-scored. The inverse, which MONAI's ``Invertd`` calls, puts NaN where the volume had it.

    Args:
        keys: of the volumes, of any shape.
        allow_missing_keys: do not complain about a key that is not there.

    Raises:
        DataError: when called on a volume without a finite value, naming its file if it knows it.

    Example:
        >>> NaNToBackgroundd("image")({"image": torch.tensor([float("nan"), -2.0, 3.0])})["image"].tolist()
        [-2.0, -2.0, 3.0]
    """

    backend = (TransformBackends.TORCH, TransformBackends.NUMPY)

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same data without NaN."""
        filled = dict(data)
        for key in self.key_iterator(filled):
            filled[key] = self._fill(filled[key])
        return filled

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same data with NaN where the volume had it."""
        restored = dict(data)
        for key in self.key_iterator(restored):
            volume = restored[key]
            mask = self.pop_transform(volume)[TraceKeys.EXTRA_INFO]["nan"]
            restored[key] = volume if mask is None else volume.masked_fill(mask.to(volume.device), float("nan"))
        return restored

    def _fill(self, volume: Any) -> Any:
        tensor = convert_to_tensor(volume, track_meta=isinstance(volume, MetaTensor))
        mask = torch.isnan(convert_to_tensor(tensor, track_meta=False))
        count = int(mask.sum())
        if count == mask.numel():
            raise DataError(f"{file_of(volume)} holds NaN alone; remove the file.")
        if count:
            values = tensor[~mask]
            finite = values[torch.isfinite(values)]
            background = float(finite.min()) if len(finite) else 0.0
            logger.info(
                f"{file_of(volume)} holds NaN in {count} of {mask.numel()} voxels ({count / mask.numel():.1%}), which "
                "are taken for background."
            )
            tensor = tensor.masked_fill(mask, background)
        if isinstance(tensor, MetaTensor):
            self.push_transform(tensor, extra_info={"nan": mask if count else None})
        return tensor
