"""What MONAI has no transform for."""

from monai_blurvae.transforms.check_volume import CheckVolumed
from monai_blurvae.transforms.nan_to_background import NaNToBackgroundd
from monai_blurvae.transforms.prepare_image import PrepareImaged, ToChannels
from monai_blurvae.transforms.rand_slice_patch import RandSlicePatchd

__all__ = ["CheckVolumed", "NaNToBackgroundd", "PrepareImaged", "RandSlicePatchd", "ToChannels"]
