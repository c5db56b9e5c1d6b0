"""Stationary Gaussian with one variance for each spatial frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from monai_blurvae.functional import spectral_sum
from monai_blurvae.losses.base import as_size
from monai_blurvae.losses.fitted import SMALLEST_VARIANCE, FittedGaussianLoss
from monai_blurvae.losses.wiener import WienerLoss


class SpectralGaussianLoss(FittedGaussianLoss):
    """Stationary Gaussian whose variances are the power spectrum of the residuals: σ-VAE with a variance per frequency.

    The channels of an image share the spectrum, a mean over them; the density that is fitted after the training,
    :class:`~monai_blurvae.metrics.likelihood.SpectrumLikelihood`, has one for each channel.

    The covariance is circulant, so that its determinant is exact and needs no kernel. Fitted freely it gives up the
    few low frequencies that make the picture, where the residual has most of its power: an error there costs no more
    than one anywhere else. ``tempering`` a < 1 pulls the variances towards their mean: V_j ∝ S_j^a, scaled so that the
    likelihood has its maximum over the scale, mean_j S_j / V_j = 1. It is a normalised density for every a; a = 0 is
    :class:`~monai_blurvae.losses.sigma_vae.SigmaVAELoss`, a = 1 the maximum-likelihood spectrum.

    Args:
        image_size: spatial size of the images; one number for squares.
        tempering: a, 0 to 1.
        whitening: see :class:`~monai_blurvae.losses.fitted.FittedGaussianLoss`.
        decay: of the running spectrum.
        reduction: as in :class:`~monai_blurvae.losses.base.ReconstructionTerm`.

    Raises:
        ValueError: for a tempering or decay out of range; when called, for images of another size.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        tempering: float = 1.0,
        whitening: WienerLoss | None = None,
        decay: float = 0.99,
        reduction: str = "mean",
    ) -> None:
        if not 0 <= tempering <= 1:
            raise ValueError(f"tempering must be from 0 to 1, but is {tempering!r}.")
        size = as_size(image_size)
        *rest, last = size
        super().__init__((*rest, last // 2 + 1), whitening, decay, reduction)
        self.image_size = size
        self.tempering = tempering

    def _power(self, input: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        if tuple(target.shape[2:]) != self.image_size:
            raise ValueError(
                f"the images have size {tuple(target.shape[2:])}, but image_size of {type(self).__name__} says "
                f"{self.image_size}; make the term for the size of the images."
            )
        return super()._power(input, target, weight)

    def _mean_power(self, power: Tensor, image_size: Sequence[int]) -> Tensor:
        return power.mean((0, 1))

    def variance(self) -> Tensor:
        """V of every frequency, of the shape of a half spectrum, in squared units of the images in [−1, 1]."""
        spectrum = super().variance()
        if self.tempering == 1:
            return spectrum
        shape = spectrum**self.tempering
        scale = spectral_sum((spectrum / shape)[None, None], self.image_size) / math.prod(self.image_size)
        return (scale * shape).clamp_min(SMALLEST_VARIANCE)
