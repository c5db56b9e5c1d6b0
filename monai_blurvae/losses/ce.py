"""Pixel-wise Bernoulli cross-entropy of images mapped to [0, 1]."""

from __future__ import annotations

import math

from torch import Tensor

from monai_blurvae.losses.base import ReconstructionTerm


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
