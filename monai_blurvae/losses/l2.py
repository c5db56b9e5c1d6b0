"""Squared error: a Gaussian likelihood with unit variance."""

from __future__ import annotations

from torch import Tensor

from monai_blurvae.functional import gaussian_log_normalizer
from monai_blurvae.losses.base import ReconstructionTerm


class L2Loss(ReconstructionTerm):
    """½ ‖x − x̂‖² of each image; −log N(x; x̂, I) without its constant."""

    is_likelihood = True

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """½ ‖x − x̂‖², ``(B,)``."""
        return 0.5 * (target - input).square().flatten(1).sum(1)

    def log_prob(self, input: Tensor, target: Tensor, kernel: Tensor | None = None) -> Tensor:
        """Log N(x; x̂, I) with all constants, ``(B,)``, in nats."""
        return -self.per_image(input, target, kernel) - gaussian_log_normalizer(target[0].numel())
