"""What the comparison trains itself: the mixture of EPLL, on the volumes that the other priors were trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRangePercentilesd,
)
from torch import Tensor
from torch.utils.data import default_collate

from monai_blurvae.data import VolumePatchDataset, VolumeReader
from monai_blurvae.functional import patches_of
from monai_blurvae.priors.gaussian_mixture_prior import GaussianMixturePrior
from monai_blurvae.transforms import CheckVolumed, NaNToBackgroundd, RandSlicePatchd

logger = logging.getLogger(__name__)

COMPONENTS = 64
PATCH_SIZE = 8
"""Of the mixture, in pixels; images are cut into these."""
CROP_SIZE = 64
"""Of the images that are drawn, at least a quarter of them foreground, as ``bundles/hcp`` draws them."""
BATCH = 64


def training_patches(
    items: Sequence[dict[str, str]],
    cache_dir: str | Path,
    slice_axis: int,
    count: int,
    crop_size: int = CROP_SIZE,
    seed: int = 0,
) -> Tensor:
    """Patches of training volumes, as ``bundles/patch_prior`` sees them: neighbours, cut out of random crops of slices.

    Args:
        items: with the path of a volume under ``image``, and its ``subject``.
        cache_dir: of the store of prepared volumes.
        slice_axis: 0, 1, 2 for sagittal, coronal, axial slices.
        count: number of patches, rounded up to whole crops of every volume.
        crop_size: side of the crops in pixels, a multiple of 8.
        seed: of the crops.

    Returns:
        ``(N, 8, 8)``, the 1st percentile of a volume at −1 and the 99th at 1.

    Raises:
        DataError: if a volume cannot be used, naming it.
    """
    prepare = Compose(
        [
            LoadImaged(keys="image", reader=VolumeReader()),
            EnsureChannelFirstd(keys="image", channel_dim="no_channel"),
            Orientationd(keys="image", axcodes="RAS", labels=None),
            NaNToBackgroundd(keys="image"),
            CheckVolumed(keys="image"),
            ScaleIntensityRangePercentilesd(keys="image", lower=1, upper=99, b_min=-1.0, b_max=1.0, clip=False),
        ]
    )
    cut = Compose([RandSlicePatchd(keys="image", patch_size=crop_size, slice_axis=slice_axis)])
    crops = -(-count // (len(items) * (crop_size // PATCH_SIZE) ** 2))
    dataset = VolumePatchDataset(items, prepare, cut, cache_dir, patches_per_volume=crops, seed=seed, shuffle=True)
    batches = (range(i, min(i + BATCH, len(dataset))) for i in range(0, len(dataset), BATCH))
    images = [default_collate(dataset.__getitems__(batch))["image"] for batch in batches]
    return patches_of(torch.cat(images), PATCH_SIZE, PATCH_SIZE).flatten(0, 1)


def fitted_mixture(
    path: Path,
    items: Sequence[dict[str, str]],
    cache_dir: str | Path,
    slice_axis: int,
    count: int,
    crop_size: int = CROP_SIZE,
    components: int = COMPONENTS,
    seed: int = 0,
    stride: int = 2,
) -> GaussianMixturePrior:
    """The mixture in a file, fitted and written where there is none.

    Args:
        path: ``.npz``.
        items: see :func:`training_patches`, as ``cache_dir``, ``slice_axis``, ``count``, ``crop_size`` and ``seed``.
        cache_dir: see there.
        slice_axis: see there.
        count: see there.
        crop_size: see there.
        components: of the mixture.
        seed: see there.
        stride: of the prior.

    Raises:
        DataError: as there.
        ImportError: where scikit-learn is not installed.
    """
    if not path.is_file():
        patches = training_patches(items, cache_dir, slice_axis, count, crop_size, seed)
        logger.info(f"Fitting a mixture of {components} Gaussians to {len(patches)} patches of {len(items)} volumes.")
        GaussianMixturePrior.fit(patches, components, seed=seed).save(path)
    return GaussianMixturePrior.load(path, stride=stride)
