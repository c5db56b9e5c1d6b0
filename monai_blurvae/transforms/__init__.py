"""What MONAI has no transform for."""

from monai_blurvae.transforms.prepare_image import PrepareImaged, ToChannels
from monai_blurvae.transforms.rand_patch import RandCubePatchd, RandPatchd, RandSlicePatchd
from monai_blurvae.transforms.scale_percentiles import ScalePercentilesd
from monai_blurvae.transforms.volume import CheckVolumed, NaNToBackgroundd, SmoothSpacingd, matching_sigma

__all__ = [
    "CheckVolumed",
    "NaNToBackgroundd",
    "PrepareImaged",
    "RandCubePatchd",
    "RandPatchd",
    "RandSlicePatchd",
    "ScalePercentilesd",
    "SmoothSpacingd",
    "ToChannels",
    "matching_sigma",
]
