"""Terms of the spectrum: Gaussians with a fitted covariance, focal frequencies and the radial power."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from monai_blurvae.functional import gaussian_log_normalizer, ortho_spectrum, radial_power, residual_power, spectral_sum
from monai_blurvae.losses.base import ReconstructionTerm, as_size
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
    :class:`~monai_blurvae.losses.ReconstructionTerm`.

    Args:
        shape: of the running estimate.
        whitening: the Wiener term whose W whitens the residual; None for the residual itself.
        decay: of the running mean, 0 ≤ decay < 1; 0.99 remembers about a hundred batches.
        reduction: as in :class:`~monai_blurvae.losses.ReconstructionTerm`.

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


class SigmaVAELoss(FittedGaussianLoss):
    """Gaussian with one variance for all pixels, channels and images, at its maximum-likelihood value.

    Rybkin, Daniilidis and Levine, Simple and Effective VAE Training with Calibrated Decoders, ICML 2021. With
    ``whitening`` the covariance is s² (WᵀW)⁻¹ and s² is fitted.

    Args:
        whitening: see :class:`~monai_blurvae.losses.FittedGaussianLoss`.
        decay: of the running variance.
        reduction: as in :class:`~monai_blurvae.losses.ReconstructionTerm`.

    Raises:
        ValueError: for a decay out of range.
    """

    def __init__(self, whitening: WienerLoss | None = None, decay: float = 0.99, reduction: str = "mean") -> None:
        super().__init__((), whitening, decay, reduction)

    def _mean_power(self, power: Tensor, image_size: Sequence[int]) -> Tensor:
        dimensions = power.shape[0] * power.shape[1] * math.prod(image_size)
        return spectral_sum(power, image_size).sum() / dimensions


class SpectralGaussianLoss(FittedGaussianLoss):
    """Stationary Gaussian whose variances are the power spectrum of the residuals: σ-VAE with a variance per frequency.

    The channels of an image share the spectrum, a mean over them; the density that is fitted after the training,
    :class:`~monai_blurvae.metrics.likelihood.SpectrumLikelihood`, has one for each channel.

    The covariance is circulant, so that its determinant is exact and needs no kernel. Fitted freely it gives up the
    few low frequencies that make the picture, where the residual has most of its power: an error there costs no more
    than one anywhere else. ``tempering`` a < 1 pulls the variances towards their mean: V_j ∝ S_j^a, scaled so that the
    likelihood has its maximum over the scale, mean_j S_j / V_j = 1. It is a normalised density for every a; a = 0 is
    :class:`~monai_blurvae.losses.SigmaVAELoss`, a = 1 the maximum-likelihood spectrum.

    Args:
        image_size: spatial size of the images; one number for squares.
        tempering: a, 0 to 1.
        whitening: see :class:`~monai_blurvae.losses.FittedGaussianLoss`.
        decay: of the running spectrum.
        reduction: as in :class:`~monai_blurvae.losses.ReconstructionTerm`.

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


class FocalFrequencyTerm(ReconstructionTerm):
    """Σ_j w_j |X_j − X̂_j|² of each image, with the weight of a frequency growing with its own error.

    w_j = |X_j − X̂_j|^α, divided by its maximum over the frequencies of one channel of one image, and a constant of the
    gradient. The paper's mean over the frequencies, and over the channels, is a sum here; each channel has weights of
    its own, as in the authors' code. No density: the weights depend on the image.

    The images are taken as they are. Their scale enters squared, so the term of images in [−1, 1] is four times that of
    the same images in [0, 1]; the weights do not depend on the scale unless ``log_matrix`` is set.

    Args:
        alpha: the exponent α ≥ 0; with 0 all weights are 1 and the term is ‖x − x̂‖².
        log_matrix: whether the weights are log(1 + |X_j − X̂_j|^α) before they are divided by their maximum.
        reduction: as in :class:`ReconstructionTerm`.

    Raises:
        ValueError: if ``alpha`` is negative, or for an unknown reduction.
    """

    is_likelihood = False

    def __init__(self, alpha: float = 1.0, log_matrix: bool = False, reduction: str = "mean") -> None:
        super().__init__(reduction)
        if not alpha >= 0:
            raise ValueError(f"alpha must not be negative, but is {alpha!r}.")
        self.alpha = alpha
        self.log_matrix = log_matrix

    def weight(self, power: Tensor) -> Tensor:
        """The weights w in [0, 1] for the power |X − X̂|² of a half spectrum, ``(B, C, *half)``; without gradient."""
        weight = power.detach() ** (self.alpha / 2)
        if self.log_matrix:
            weight = weight.log1p()
        largest = weight.amax(dim=tuple(range(2, weight.ndim)), keepdim=True)
        return weight / largest.clamp_min(torch.finfo(weight.dtype).tiny)  # a perfect channel has weights 0, not NaN

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """Σ_j w_j |X_j − X̂_j|², ``(B,)``."""
        residual = ortho_spectrum(target - input)
        power = residual.real.square() + residual.imag.square()
        return spectral_sum(self.weight(power) * power, target.shape[2:])


class SpectrumLoss(ReconstructionTerm):
    """N · mean over r of (log₁₀ P_x(r) − log₁₀ P_x̂(r))², summed over the channels of each image, N its pixels.

    P(r) is the mean power in the annulus of integer radius r = 1 … min(H, W) // 2, see
    :func:`~monai_blurvae.functional.radial_power`, plus a floor. The mean of plausible images lacks the power
    that each of them has at high frequencies; the term rewards that power whatever its phase, which no pixel-wise error
    does. Images of unlike phase cost nothing, so it belongs beside another term; it is no density. Nothing tells it
    where in the patch the power is: trained with it, the decoder puts a star into the middle, where the window opens
    (``docs/findings.md``). It is a tool of study, not a way to sharper images.

    Args:
        floor: power per pixel that is added to P(r), in the squared units of the images. Without it log P has no
            bound and an endless gradient where an image is flat. The default is a fifth of the quantisation noise of
            8-bit images in [−1, 1], (2/255)²/12 = 5.1e-6: what lies below it cannot be seen.
        window: whether a Hann window is applied to both images first, since a patch does not go on across its edge.
        reduction: as in :class:`ReconstructionTerm`.

    Raises:
        ValueError: if ``floor`` is not positive, or for an unknown reduction.
    """

    is_likelihood = False

    def __init__(self, floor: float = 1e-6, window: bool = True, reduction: str = "mean") -> None:
        super().__init__(reduction)
        if not floor > 0:
            raise ValueError(f"floor must be positive, but is {floor!r}.")
        self.floor = floor
        self.window = window

    def _log_power(self, images: Tensor) -> Tensor:
        return (radial_power(images, self.window) + self.floor).log10()

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """N · Σ_c mean_r (log₁₀ P_x(r) − log₁₀ P_x̂(r))², ``(B,)``.

        Raises:
            ValueError: if the images are not ``(B, C, H, W)`` with H, W ≥ 2.
        """
        distance = (self._log_power(target) - self._log_power(input)).square().mean(2)
        return target[0, 0].numel() * distance.sum(1)
