"""What MONAI has no transform for."""

from monai_blurvae.transforms.prepare_image import PrepareImage, PrepareImaged, ToChannels
from monai_blurvae.transforms.prepare_volume import PreparedVolume, PrepareVolume, VolumeHeader, read_header

__all__ = [
    "PrepareImage",
    "PrepareImaged",
    "PrepareVolume",
    "PreparedVolume",
    "ToChannels",
    "VolumeHeader",
    "read_header",
]
