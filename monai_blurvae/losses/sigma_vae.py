"""Gaussian with an optimal variance."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from monai_blurvae.functional import spectral_sum
from monai_blurvae.losses.fitted import FittedGaussianLoss
from monai_blurvae.losses.wiener import WienerLoss


class SigmaVAELoss(FittedGaussianLoss):
    """Gaussian with one variance for all pixels, channels and images, at its maximum-likelihood value.

    Rybkin, Daniilidis and Levine, Simple and Effective VAE Training with Calibrated Decoders, ICML 2021. With
    ``whitening`` the covariance is s² (WᵀW)⁻¹ and s² is fitted.

    Args:
        whitening: see :class:`~monai_blurvae.losses.fitted.FittedGaussianLoss`.
        decay: of the running variance.
        reduction: as in :class:`~monai_blurvae.losses.base.ReconstructionTerm`.

    Raises:
        ValueError: for a decay out of range.
    """

    def __init__(self, whitening: WienerLoss | None = None, decay: float = 0.99, reduction: str = "mean") -> None:
        super().__init__((), whitening, decay, reduction)

    def _mean_power(self, power: Tensor, image_size: Sequence[int]) -> Tensor:
        dimensions = power.shape[0] * power.shape[1] * math.prod(image_size)
        return spectral_sum(power, image_size).sum() / dimensions
