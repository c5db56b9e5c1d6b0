"""Metrics for evaluation, on images in [0, 1] and on the latent."""

from monai_blurvae.metrics.image_quality import CappedPSNRMetric, image_pair, make_ssim_metric, to_unit_range
from monai_blurvae.metrics.latent import ActiveUnits
from monai_blurvae.metrics.standard import additional_metrics, key_metric

__all__ = [
    "ActiveUnits",
    "CappedPSNRMetric",
    "additional_metrics",
    "image_pair",
    "key_metric",
    "make_ssim_metric",
    "to_unit_range",
]
