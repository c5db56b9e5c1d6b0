"""Terms of the pixels and their neighbourhoods: L2, L1, cross-entropy, SSIM and LPIPS with VGG16 features."""

from __future__ import annotations

import math
from pathlib import Path

from monai.metrics.regression import compute_ssim_and_cs
from torch import Tensor

from monai_blurvae.functional import SSIM_WINDOW_SIGMA, SSIM_WINDOW_SIZE, gaussian_log_normalizer
from monai_blurvae.losses.base import ReconstructionTerm
from monai_blurvae.networks.perceptual import LearnedPerceptualDistance


class L2Loss(ReconstructionTerm):
    """½ ‖x − x̂‖² of each image; −log N(x; x̂, I) without its constant."""

    is_likelihood = True

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """½ ‖x − x̂‖², ``(B,)``."""
        return 0.5 * (target - input).square().flatten(1).sum(1)

    def log_prob(self, input: Tensor, target: Tensor, kernel: Tensor | None = None) -> Tensor:
        """Log N(x; x̂, I) with all constants, ``(B,)``, in nats."""
        return -self.per_image(input, target, kernel) - gaussian_log_normalizer(target[0].numel())


class LaplaceLoss(ReconstructionTerm):
    """‖x − x̂‖₁ of each image; −log of the Laplace density with mean x̂ and scale 1, without its constant."""

    is_likelihood = True

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """‖x − x̂‖₁, ``(B,)``."""
        return (target - input).abs().flatten(1).sum(1)

    def log_prob(self, input: Tensor, target: Tensor, kernel: Tensor | None = None) -> Tensor:
        """Log-density of x under independent Laplace distributions around x̂, with all constants, ``(B,)``, in nats."""
        return -self.per_image(input, target, kernel) - target[0].numel() * math.log(2)


class BernoulliLoss(ReconstructionTerm):
    """−Σ [t log p + (1 − t) log(1 − p)] of each image, with t = (x + 1)/2 and p = (x̂ + 1)/2.

    Each channel of each pixel is a variable of its own. For gray values between black and white this is no density:
    exp(−term) does not integrate to 1 over [0, 1], and its integral depends on p. It is smallest at x̂ = x, where it is
    not zero but the entropy of the pixels, Σ H(t).

    Args:
        epsilon: p is clamped to [ε, 1 − ε], so a pixel costs at most −log ε (13.8 nats for 1e-6), and a pixel beyond
            that has no gradient. In float32 the spacing of x̂ near ±1 is 6e-8, so ε should be well above it.
        reduction: as in :class:`ReconstructionTerm`.

    Raises:
        ValueError: if ``epsilon`` is not between 0 and 0.5, or for an unknown reduction.
    """

    is_likelihood = False

    def __init__(self, epsilon: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(reduction)
        if not 0 < epsilon < 0.5:
            raise ValueError(f"epsilon must lie between 0 and 0.5, but is {epsilon!r}.")
        self.epsilon = epsilon

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """Σ H(t, p), ``(B,)``, in nats; ``target`` must lie in [−1, 1]."""
        bound = 1 - 2 * self.epsilon
        mean = input.clamp(-bound, bound)
        # log p = log(1 + x̂) − log 2 and log(1 − p) = log(1 − x̂) − log 2; log1p keeps the digits near gray, x̂ = 0
        cross_entropy = math.log(2) - 0.5 * ((1 + target) * mean.log1p() + (1 - target) * (-mean).log1p())
        return cross_entropy.flatten(1).sum(1)


class StructuralSimilarityLoss(ReconstructionTerm):
    """D · (1 − SSIM(x, x̂)) of each image, D = pixels · channels; no density of the image.

    The images are mapped from [−1, 1] to [0, 1] (data range 1); SSIM has an 11×11 Gaussian window with σ = 1.5 pixels,
    K₁ = 0.01, K₂ = 0.03, and is averaged over the channels and the positions where the window lies inside the image.
    It is computed by MONAI, in float32 whatever the images' type.
    """

    is_likelihood = False

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """D · (1 − SSIM), ``(B,)``, between 0 and 2 D.

        Raises:
            ValueError: if the images are neither 2-D nor 3-D or smaller than the window.
        """
        spatial_dims = target.ndim - 2
        if spatial_dims not in (2, 3) or min(target.shape[2:]) < SSIM_WINDOW_SIZE:
            raise ValueError(
                f"SSIM needs 2-D or 3-D images of at least {SSIM_WINDOW_SIZE} pixels along each axis, "
                f"but target has shape {tuple(target.shape)}."
            )
        ssim, _ = compute_ssim_and_cs(
            (input + 1) / 2,
            (target + 1) / 2,
            spatial_dims=spatial_dims,
            kernel_size=[SSIM_WINDOW_SIZE] * spatial_dims,
            kernel_sigma=[SSIM_WINDOW_SIGMA] * spatial_dims,
            data_range=1.0,
        )
        return target[0].numel() * (1 - ssim.flatten(1).mean(1))


class VGGFeatureLoss(ReconstructionTerm):
    """LPIPS-VGG distance of each image (Zhang et al., CVPR 2018) times its number of pixels.

    LPIPS is a mean over positions; times height · width it is a sum over pixels like the other terms, so that β means
    the same for all of them on grey images. RGB goes in as it is and grey is repeated to three channels: a grey image
    costs the same either way, while the terms that sum over channels grow threefold. The features are frozen and no
    part of the ``state_dict``. The paper takes the heads that Czolbe et al. (NeurIPS 2020) fitted; these are LPIPS's
    own, version 0.1. No likelihood: exp(−term) has no known normaliser.

    Args:
        weights_dir: folder of ``lpips_vgg.pt``, see :func:`~monai_blurvae.networks.perceptual.load_lpips_weights`.
        reduction: as in :class:`ReconstructionTerm`.

    Raises:
        ValueError: for an unknown reduction; when called, for images that are not grey or RGB in two dimensions, or
            smaller than 16×16 pixels.
        WeightsError: if there are no weights.
    """

    def __init__(self, weights_dir: str | Path | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.distance = LearnedPerceptualDistance("vgg", weights_dir)

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """Height · width · LPIPS(x̂, x), ``(B,)``."""
        # MONAI's own engines move networks and images to a device, not losses.
        distance: Tensor = self.distance.to(target.device)(input, target)
        return target.shape[2:].numel() * distance
