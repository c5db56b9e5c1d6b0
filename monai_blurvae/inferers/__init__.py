"""From a volume to patches and back: scans in and out of a training's space and intensities, volumes from patches."""

from monai_blurvae.inferers.prepared_scan import IntensityScaling, PreparedScan, prepare_scan, with_resampling
from monai_blurvae.inferers.slice_scores import SliceScoresInferer, VolumeScores
from monai_blurvae.inferers.volume_maps import CubeMapsInferer, PatchLatents, SliceMapsInferer, VolumeMaps

__all__ = [
    "CubeMapsInferer",
    "IntensityScaling",
    "PatchLatents",
    "PreparedScan",
    "SliceMapsInferer",
    "SliceScoresInferer",
    "VolumeMaps",
    "VolumeScores",
    "prepare_scan",
    "with_resampling",
]
