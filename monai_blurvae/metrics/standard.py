"""The metrics that every evaluation reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ignite.metrics import Average, Metric
from monai.handlers import IgniteMetricHandler
from torch import Tensor

from monai_blurvae.engines import BlurVAEKeys
from monai_blurvae.functional import kernel_width
from monai_blurvae.metrics.image_quality import CappedPSNRMetric, image_pair, make_ssim_metric
from monai_blurvae.metrics.latent import ActiveUnits


def key_metric() -> dict[str, Metric]:
    """PSNR, by which the best model is chosen on the validation subjects."""
    return {"psnr": IgniteMetricHandler(metric_fn=CappedPSNRMetric(), output_transform=image_pair)}


def additional_metrics() -> dict[str, Metric]:
    """SSIM, KL in nats, active latent units and kernel width in pixels."""
    return {
        "ssim": IgniteMetricHandler(metric_fn=make_ssim_metric(), output_transform=image_pair),
        "kl": Average(output_transform=_kl),
        "active_units": ActiveUnits(output_transform=_mu),
        "kernel_width": Average(output_transform=_kernel_width),
    }


def _kl(output: Mapping[str, Any]) -> Tensor:
    value: Tensor = output[BlurVAEKeys.KL]
    return value[:, None]


def _mu(output: Mapping[str, Any]) -> Tensor:
    value: Tensor = output[BlurVAEKeys.MU]
    return value


def _kernel_width(output: Mapping[str, Any]) -> Tensor:
    return kernel_width(output[BlurVAEKeys.KERNEL])[:, None]
