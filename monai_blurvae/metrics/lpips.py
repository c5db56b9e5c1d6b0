"""LPIPS on images in [0, 1]."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.metrics.regression import RegressionMetric
from torch import Tensor

from monai_blurvae.networks.perceptual import LearnedPerceptualDistance, require_pictures


class LPIPSMetric(RegressionMetric):
    """LPIPS of each image (Zhang et al., CVPR 2018), smaller is more alike; grey images are repeated to three channels.

    The same numbers as torchmetrics gives with ``normalize=True``, without needing torchmetrics or torchvision.

    Args:
        net: ``"alex"``, the usual one for evaluation, or ``"vgg"``.
        weights_dir: folder of ``lpips_{net}.pt``, see :func:`~monai_blurvae.networks.perceptual.load_lpips_weights`.

    Raises:
        ValueError: for an unknown network; when called, for images of different shapes, that are not grey or RGB in two
            dimensions, or that are smaller than the network bears (31×31 for ``"alex"``, 16×16 for ``"vgg"``).
        WeightsError: if there are no weights.
    """

    def __init__(self, net: str = "alex", weights_dir: str | Path | None = None) -> None:
        super().__init__(reduction="mean")
        self.distance = LearnedPerceptualDistance(net, weights_dir)

    def _compute_metric(self, y_pred: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            distance: Tensor = self.distance.to(y.device)(2 * y_pred - 1, 2 * y - 1)
        return distance[:, None]


def lpips_distance(pred: Tensor, target: Tensor, net: str = "alex", weights_dir: str | Path | None = None) -> Tensor:
    """LPIPS of each pair of images, ``(B,)``; reads the weights in each call, see :class:`LPIPSMetric` for many calls.

    Args:
        pred: ``(B, 1 or 3, H, W)`` in [0, 1].
        target: like ``pred``.
        net: ``"alex"`` or ``"vgg"``.
        weights_dir: folder of ``lpips_{net}.pt``.

    Raises:
        ValueError: as :class:`LPIPSMetric`.
        WeightsError: if there are no weights.
    """
    require_pictures(pred)
    return LPIPSMetric(net, weights_dir)._compute_metric(pred, target)[:, 0]
