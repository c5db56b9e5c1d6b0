"""Resampling to larger voxels without aliasing."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import Spacingd
from scipy.ndimage import gaussian_filter

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
