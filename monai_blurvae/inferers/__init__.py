"""From a volume to patches and back: scans in and out of a training's space and intensities, slices from patches."""

from monai_blurvae.inferers.prepared_scan import IntensityScaling, PreparedScan, prepare_scan, with_resampling
from monai_blurvae.inferers.slice_maps import PatchLatents, SliceMapsInferer, VolumeMaps
from monai_blurvae.inferers.slice_scores import SliceScoresInferer, VolumeScores

__all__ = [
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
