"""The transforms of a bundle of volumes, small."""

from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ResizeWithPadOrCropd,
)

from monai_blurvae.data import VolumePatchDataset, VolumeReader
from monai_blurvae.transforms import CheckVolumed, NaNToBackgroundd, RandSlicePatchd, ScalePercentilesd


def prepare(volume_size=None):
    """The deterministic transform."""
    crop = [] if volume_size is None else [CenterSpatialCropd("image", volume_size)]
    pad = [] if volume_size is None else [ResizeWithPadOrCropd("image", volume_size, value=-1.0)]
    return Compose(
        [
            LoadImaged("image", reader=VolumeReader()),
            EnsureChannelFirstd("image", channel_dim="no_channel"),
            Orientationd("image", axcodes="RAS", labels=None),
            *crop,
            NaNToBackgroundd("image"),
            CheckVolumed("image"),
            ScalePercentilesd("image", 1, 99, b_min=-1.0, b_max=1.0, clip=True),
            *pad,
        ]
    )


def patches(items, cache_dir, patch_size=32, slice_axis=1, min_foreground=0.25, volume_size=None, **arguments):
    """A dataset of patches."""
    cut = RandSlicePatchd("image", patch_size, slice_axis, min_foreground)
    return VolumePatchDataset(items, prepare(volume_size), Compose([cut]), cache_dir, **arguments)
