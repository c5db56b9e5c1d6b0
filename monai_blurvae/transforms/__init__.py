"""What MONAI has no transform for."""

from monai_blurvae.transforms.check_volume import CheckVolumed
from monai_blurvae.transforms.nan_to_background import NaNToBackgroundd
from monai_blurvae.transforms.prepare_image import PrepareImaged, ToChannels
from monai_blurvae.transforms.rand_cube_patch import RandCubePatchd
from monai_blurvae.transforms.rand_patch import RandPatchd
from monai_blurvae.transforms.rand_slice_patch import RandSlicePatchd
from monai_blurvae.transforms.smooth_spacing import SmoothSpacingd, matching_sigma

__all__ = [
    "CheckVolumed",
    "NaNToBackgroundd",
    "PrepareImaged",
    "RandCubePatchd",
    "RandPatchd",
    "RandSlicePatchd",
    "SmoothSpacingd",
    "ToChannels",
    "matching_sigma",
]
