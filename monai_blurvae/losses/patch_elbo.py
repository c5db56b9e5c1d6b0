"""The negative evidence lower bound of patches with noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_blurvae.losses.elbo import ELBOTerms
from monai_blurvae.networks import PatchMixtureOutput, PatchVAEOutput


class PatchELBO(nn.Module):
    """−log p(y|z) + β · KL(q(z|y, σ) ‖ p(z)), mean over all patches, to be minimised over the whole model.

    Args:
        beta: weight β of the KL; at 1 the objective bounds −log p of the patches with noise.

    Raises:
        ValueError: for a negative β.
    """

    uses_kernel = False
    weight_needs_gradient = False
    warmup_epochs = 0
    auxiliary_weights = ()

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        if beta < 0:
            raise ValueError(f"beta must not be negative, but is {beta}.")
        self.beta = beta

    def forward(
        self,
        output: PatchVAEOutput | PatchMixtureOutput,
        target: Tensor,
        kernel: Tensor | None = None,
        epoch: int | None = None,
    ) -> ELBOTerms:
        """Evaluate the objective.

        Args:
            output: of a model of patches, which has their likelihood and KL.
            target: not used, as the next two, which :class:`~monai_blurvae.losses.ELBOLoss` has.
            kernel: none.
            epoch: there is no warm-up.

        Returns:
            :class:`~monai_blurvae.losses.ELBOTerms` in nats a patch on [−1, 1].
        """
        reconstruction, kl = -output.log_likelihood.mean(), output.kl.mean()
        zero = torch.zeros_like(kl)
        return ELBOTerms(reconstruction + self.beta * kl, reconstruction, zero, kl, zero)
