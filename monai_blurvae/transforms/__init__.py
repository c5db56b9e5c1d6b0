"""What MONAI has no transform for."""

from monai_blurvae.transforms.prepare_volume import PreparedVolume, PrepareVolume, VolumeHeader, read_header

__all__ = ["PrepareVolume", "PreparedVolume", "VolumeHeader", "read_header"]
