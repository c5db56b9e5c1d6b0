"""The metrics that every evaluation reports."""

from __future__ import annotations

from ignite.metrics import Average, Metric
from monai.handlers import IgniteMetricHandler
from torch import Tensor

from monai_blurvae.engines import BlurVAEKeys
from monai_blurvae.functional import kernel_width
from monai_blurvae.metrics.image_quality import CappedPSNRMetric, Output, as_batch, image_pair, make_ssim_metric
from monai_blurvae.metrics.latent import ActiveUnits


def key_metric() -> dict[str, Metric]:
    """PSNR, by which the best model is chosen on the validation subjects."""
    return {"psnr": IgniteMetricHandler(metric_fn=CappedPSNRMetric(), output_transform=image_pair)}


def additional_metrics(spatial_dims: int = 2) -> dict[str, Metric]:
    """SSIM, KL in nats, active latent units and kernel width in pixels.

    Args:
        spatial_dims: of the images, 2 or 3.
    """
    return {
        "ssim": IgniteMetricHandler(metric_fn=make_ssim_metric(spatial_dims), output_transform=image_pair),
        "kl": Average(output_transform=_kl),
        "active_units": ActiveUnits(output_transform=_mu),
        "kernel_width": Average(output_transform=_kernel_width),
    }


def _kl(output: Output) -> Tensor:
    return as_batch(output, BlurVAEKeys.KL)[0][:, None]


def _mu(output: Output) -> Tensor:
    return as_batch(output, BlurVAEKeys.MU)[0]


def _kernel_width(output: Output) -> Tensor:
    return kernel_width(as_batch(output, BlurVAEKeys.KERNEL)[0])[:, None]
