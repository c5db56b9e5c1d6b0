"""From a volume to patches and back: scans in and out of a training's space and intensities, volumes from patches."""

from monai_blurvae.inferers.scan import PreparedScan, inverted, prepare_scan, with_resampling
from monai_blurvae.inferers.slice_scores import SliceScoresInferer, VolumeScores
from monai_blurvae.inferers.volume_maps import CubeMapsInferer, PatchLatents, SliceMapsInferer, VolumeMaps

__all__ = [
    "CubeMapsInferer",
    "PatchLatents",
    "PreparedScan",
    "SliceMapsInferer",
    "SliceScoresInferer",
    "VolumeMaps",
    "VolumeScores",
    "inverted",
    "prepare_scan",
    "with_resampling",
]
