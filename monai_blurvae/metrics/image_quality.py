"""PSNR and SSIM as the tables report them: images in [0, 1], data range 1, one value for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.metrics import PSNRMetric, SSIMMetric
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_blurvae.functional import SSIM_WINDOW_SIGMA, SSIM_WINDOW_SIZE

Output = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""Of an engine: a dictionary with the batch first, or a list with one for each image."""

PSNR_CAP = 100.0
"""PSNR in dB of an image that is reproduced exactly; the formula gives infinity, which no mean survives."""


class CappedPSNRMetric(PSNRMetric):
    """MONAI's PSNR of each image in dB, at most :data:`PSNR_CAP`.

    The squared error is averaged over pixels and channels together, as by
    ``skimage.metrics.peak_signal_noise_ratio``: not the mean of the channels' PSNR.

    Args:
        max_val: data range.
    """

    def __init__(self, max_val: float = 1.0) -> None:
        super().__init__(max_val=max_val, reduction="mean")

    def _compute_metric(self, y_pred: Tensor, y: Tensor) -> Tensor:
        values: Tensor = super()._compute_metric(y_pred, y)
        return values.clamp_max(PSNR_CAP)


def make_ssim_metric(spatial_dims: int = 2) -> SSIMMetric:
    """MONAI's SSIM with an 11×11 Gaussian window of σ = 1.5 and data range 1, the mean of the channels' SSIM.

    That of ``skimage.metrics.structural_similarity`` with ``channel_axis``, ``gaussian_weights``, ``sigma=1.5`` and
    ``use_sample_covariance=False``: neither counts the border of 5 pixels, where the window would leave the image.
    MONAI computes variances as differences of float32 numbers: on images that are bright and nearly flat the two differ
    by up to 1e-3, on photographs by about 1e-5.
    """
    return SSIMMetric(
        spatial_dims=spatial_dims,
        data_range=1.0,
        kernel_type="gaussian",
        win_size=SSIM_WINDOW_SIZE,
        kernel_sigma=SSIM_WINDOW_SIGMA,
    )


def to_unit_range(images: Tensor) -> Tensor:
    """From the network's [−1, 1] to the metrics' [0, 1], clipped."""
    return ((images.float() + 1.0) / 2.0).clamp(0.0, 1.0)


def as_batch(output: Output, *keys: str) -> tuple[Tensor, ...]:
    """Values of an engine's output with the batch first, also of one that MONAI has decollated into a list.

    Args:
        output: a dictionary, or one for each image.
        keys: of the values.
    """
    if isinstance(output, Mapping):
        return tuple(output[key] for key in keys)
    return tuple(torch.stack([torch.as_tensor(item[key]) for item in output]) for key in keys)


def image_pair(output: Output) -> tuple[Tensor, Tensor]:
    """Reconstructions and images of an engine's output in [0, 1], for a metric's ``output_transform``."""
    reconstructions, images = as_batch(output, CommonKeys.PRED, CommonKeys.IMAGE)
    return to_unit_range(reconstructions), to_unit_range(images)


def loss_of(output: Output) -> Tensor:
    """The loss in a trainer's output, for the ``output_transform`` of MONAI's handlers, decollated or not."""
    loss: Tensor = (output if isinstance(output, Mapping) else output[0])[CommonKeys.LOSS]
    return loss
