"""Transforms of whole volumes: what no training should see, NaN for no tissue, larger voxels without aliasing."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import InvertibleTransform, MapTransform, Spacingd
from monai.utils import TraceKeys, TransformBackends, convert_to_tensor
from scipy.ndimage import gaussian_filter

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
            f"set upper of CheckVolumed and of ScalePercentilesd to {helping[0]:g}"
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


FWHM = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a Gaussian of standard deviation 1."""


def matching_sigma(size: float, target: float) -> float:
    """Width of the Gaussian that makes voxels of one size look like those of a larger one.

    Of both a Gaussian is taken for the point spread function, its full width at half maximum the voxel size (Cardoso et
    al., Scale factor point spread function matching, MICCAI 2015).

    Args:
        size: of a voxel along an axis, in mm.
        target: after resampling; not above 0 for the same.

    Returns:
        Standard deviation in mm, 0 where voxels do not become larger.

    Example:
        >>> round(matching_sigma(0.7, 1.0), 3)
        0.303
    """
    return math.sqrt(target**2 - size**2) / FWHM if target > size else 0.0


class SmoothSpacingd(Spacingd):
    """MONAI's ``Spacingd``, which first smooths along the axes whose voxels become larger (:func:`matching_sigma`).

    Without, what is finer than the new voxels comes back as patterns that are not in the image. The inverse is that of
    ``Spacingd``; what was smoothed stays so.

    Args:
        args: of ``Spacingd``.
        kwargs: of ``Spacingd``.

    Example:
        >>> from monai.data import MetaTensor
        >>> image = MetaTensor(torch.tensor([[0.0, 1.0] * 8])[..., None, None], affine=torch.eye(4))
        >>> found = SmoothSpacingd("image", (3.0, -1, -1))({"image": image})["image"]
        >>> bool((found - 0.5)[0, 1:-1].abs().max() < 0.01)
        True
    """

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """The same data, resampled."""
        smooth = dict(data)
        for key in self.key_iterator(smooth):
            smooth[key] = _smoothed(smooth[key], self.spacing_transform.pixdim)
        return dict(super().__call__(smooth, lazy))


def _smoothed(image: MetaTensor, targets: Sequence[float]) -> MetaTensor:
    sizes = [float(size) for size in affine_to_spacing(image.affine, len(targets))]
    sigma = [matching_sigma(size, float(target)) / size for size, target in zip(sizes, targets, strict=True)]
    if not any(sigma):
        return image
    filtered = np.stack([gaussian_filter(channel, sigma, mode="nearest") for channel in image.cpu().numpy()])
    smooth = image.clone()
    smooth.copy_(torch.as_tensor(filtered))
    return smooth
