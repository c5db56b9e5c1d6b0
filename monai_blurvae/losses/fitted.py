"""What the Gaussians with a fitted covariance have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from monai_blurvae.functional import gaussian_log_normalizer, residual_power, spectral_sum
from monai_blurvae.losses.base import ReconstructionTerm
from monai_blurvae.losses.wiener import WienerLoss

SMALLEST_VARIANCE = 1e-8
"""Floor of a fitted variance, below the rounding error of 8-bit images (5e-6 for images in [−1, 1])."""


class FittedGaussianLoss(ReconstructionTerm):
    """A Gaussian whose covariance is the running maximum-likelihood estimate from the residuals of the training.

    The spectrum R of the residual, optionally whitened by the Wiener weight W of the predicted kernel, has at frequency
    j the variance V_j that a subclass fits. The term is ½ Σ_j |W_j R_j|² / V_j + ½ Σ_j log V_j − Σ_j log|W_j|, with the
    sums also over the channels: −log p(x|z) but for its constant (D/2) log 2π. V is a constant of the gradient. It is a
    mean over the batches, with weights that decay exponentially and are normalised from the first batch on; before
    that batch it is 1. In training mode each call takes its batch into V first, see
    :class:`~monai_blurvae.losses.base.ReconstructionTerm`.

    Args:
        shape: of the running estimate.
        whitening: the Wiener term whose W whitens the residual; None for the residual itself.
        decay: of the running mean, 0 ≤ decay < 1; 0.99 remembers about a hundred batches.
        reduction: as in :class:`~monai_blurvae.losses.base.ReconstructionTerm`.

    Raises:
        ValueError: for a decay out of range.
    """

    is_likelihood = True
    power: Tensor
    total_weight: Tensor

    def __init__(
        self, shape: Sequence[int], whitening: WienerLoss | None = None, decay: float = 0.99, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, but is {decay!r}.")
        self.whitening = whitening
        self.uses_kernel = whitening is not None
        self.decay = decay
        self.register_buffer("power", torch.zeros(tuple(shape)))
        self.register_buffer("total_weight", torch.zeros(()))

    @property
    def detach_weight(self) -> bool:
        """Whether W is a constant of the gradient, as ``whitening`` says; true without it.

        The term has the determinant of W in it, so that small weights are no way to a lower loss.
        """
        return self.whitening is None or self.whitening.detach_weight

    @abstractmethod
    def _mean_power(self, power: Tensor, image_size: Sequence[int]) -> Tensor:
        """The batch's maximum-likelihood variance from |W R|² ``(B, C, *half)``, of the shape of the estimate."""

    def variance(self) -> Tensor:
        """V, broadcastable to the half spectrum of an image, in squared units of the images in [−1, 1]."""
        # not by an if, for which the device would have to be waited for
        mean = torch.where(self.total_weight > 0, self.power / self.total_weight, torch.ones_like(self.power))
        return mean.clamp_min(SMALLEST_VARIANCE)

    @torch.no_grad()
    def update(self, input: Tensor, target: Tensor, kernel: Tensor | None = None) -> None:
        """Take a training batch into V."""
        if self.uses_kernel and kernel is None:
            return
        estimate = self._mean_power(self._power(input, target, self._weight(target, kernel)), target.shape[2:])
        self.power.lerp_(estimate.to(self.power), 1 - self.decay)
        self.total_weight.lerp_(torch.ones_like(self.total_weight), 1 - self.decay)

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """−log p(x|z) without (D/2) log 2π, ``(B,)``, in nats."""
        weight, variance, image_size = self._weight(target, kernel), self.variance(), target.shape[2:]
        power = self._power(input, target, weight)
        half_log_det = 0.5 * variance.to(power.dtype).log()
        if weight is not None:
            half_log_det = half_log_det - weight.log()
        return spectral_sum(0.5 * power / variance + half_log_det.expand_as(power), image_size)

    def log_prob(self, input: Tensor, target: Tensor, kernel: Tensor | None = None) -> Tensor:
        """Log p(x|z) with all constants, ``(B,)``, in nats."""
        return -self.per_image(input, target, kernel) - gaussian_log_normalizer(target[0].numel())

    def _weight(self, target: Tensor, kernel: Tensor | None) -> Tensor | None:
        if self.whitening is None:
            return None
        assert kernel is not None
        return self.whitening.weight(target, kernel)

    def _power(self, input: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        power = residual_power(target - input)
        return power if weight is None else power * weight.square()
