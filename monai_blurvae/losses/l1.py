"""Absolute error: a Laplace likelihood with unit scale."""

from __future__ import annotations

import math

from torch import Tensor

from monai_blurvae.losses.base import ReconstructionTerm


class LaplaceLoss(ReconstructionTerm):
    """‖x − x̂‖₁ of each image; −log of the Laplace density with mean x̂ and scale 1, without its constant."""

    is_likelihood = True

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """‖x − x̂‖₁, ``(B,)``."""
        return (target - input).abs().flatten(1).sum(1)

    def log_prob(self, input: Tensor, target: Tensor, kernel: Tensor | None = None) -> Tensor:
        """Log-density of x under independent Laplace distributions around x̂, with all constants, ``(B,)``, in nats."""
        return -self.per_image(input, target, kernel) - target[0].numel() * math.log(2)
