"""Metrics for evaluation, on images in [0, 1] and on the latent."""

from monai_blurvae.metrics.copying import data_copying, nearest_images
from monai_blurvae.metrics.evaluated import Evaluated
from monai_blurvae.metrics.image_quality import (
    CappedPSNRMetric,
    as_batch,
    image_pair,
    loss_of,
    make_ssim_metric,
    to_unit_range,
)
from monai_blurvae.metrics.latent import ActiveUnits
from monai_blurvae.metrics.likelihood import Bounds, Densities, evidence_bounds, fit_likelihoods
from monai_blurvae.metrics.linear import LinearVAE, at_rate, fit_linear_vae, linear_yardstick, measure_linear_vae
from monai_blurvae.metrics.lpips import LPIPSMetric, lpips_distance
from monai_blurvae.metrics.measures import MEASURES, Description
from monai_blurvae.metrics.spectra import (
    fourier_ring_correlation,
    log_spectrum_distance,
    relative_sharpness,
    ring_resolution,
)
from monai_blurvae.metrics.standard import additional_metrics, key_metric
from monai_blurvae.metrics.suite import Measure, measure_model

__all__ = [
    "MEASURES",
    "ActiveUnits",
    "Bounds",
    "CappedPSNRMetric",
    "Densities",
    "Description",
    "Evaluated",
    "LPIPSMetric",
    "LinearVAE",
    "Measure",
    "additional_metrics",
    "as_batch",
    "at_rate",
    "data_copying",
    "evidence_bounds",
    "fit_likelihoods",
    "fit_linear_vae",
    "fourier_ring_correlation",
    "image_pair",
    "key_metric",
    "linear_yardstick",
    "log_spectrum_distance",
    "loss_of",
    "lpips_distance",
    "make_ssim_metric",
    "measure_linear_vae",
    "measure_model",
    "nearest_images",
    "relative_sharpness",
    "ring_resolution",
    "to_unit_range",
]
