"""The negative evidence lower bound: a reconstruction term, a determinant, β and the warm-up; and that of patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from monai_blurvae.functional import at_least_float32, gaussian_kernel, kl_standard_normal, without_autocast
from monai_blurvae.losses.base import ReconstructionTerm, as_term
from monai_blurvae.losses.pixelwise import L2Loss
from monai_blurvae.losses.wiener import WienerLoss
from monai_blurvae.networks import PatchMixtureOutput, PatchVAEOutput, VAEOutput

DETERMINANTS = ("omit", "epsilon", "exact", "fixed")


class ELBOTerms(NamedTuple):
    """The objective and its parts, means over the batch in nats, each without dimensions.

    Attributes:
        loss: reconstruction + half_log_det + auxiliary + β · kl.
        reconstruction: the reconstruction term.
        half_log_det: ½ log|Σ|; zero when it is omitted or the term has no kernel.
        kl: KL(q(z|x) ‖ N(0, I)), without β.
        auxiliary: sum of the auxiliary terms, each times its weight.
    """

    loss: Tensor
    reconstruction: Tensor
    half_log_det: Tensor
    kl: Tensor
    auxiliary: Tensor


class ELBOLoss(nn.Module):
    """½ ‖W(x − x̂)‖² + ½ log|Σ| + β · KL(q(z|x) ‖ N(0, I)), to be minimised over θ and φ.

    Args:
        term: a reconstruction term, whose reduction is ignored, or any other module that is called with (input,
            target), see :class:`~monai_blurvae.losses.PlainTerm`.
        determinant: ½ log|Σ| of :class:`WienerLoss`: ``"omit"``, zero; ``"exact"``, see
            :func:`~monai_blurvae.functional.half_log_det`; ``"epsilon"``, see
            :func:`~monai_blurvae.functional.epsilon_half_log_det`; ``"fixed"``, exact for a Gaussian kernel that
            replaces the predicted one. No other term has one to choose, so it has to be ``"omit"`` for them.
            ``"exact"`` and ``"epsilon"`` go with ``detach_weight=False`` of the term.
        epsilon: ε of the mode ``"epsilon"``.
        beta: weight β of the KL.
        warmup_epochs: number of first epochs with Σ = I, where the objective is that of :class:`L2Loss`.
        fixed_variance: variance in pixels² of the Gaussian kernel of ``"fixed"`` (2 and 4 in the paper's Table 1).
        kernel_size: its odd size.
        spatial_dims: 2 or 3, of it.
        auxiliary: pairs (weight, term) of terms without a kernel that are added, also in the warm-up: with one of them
            the objective is no bound on the evidence, whatever the first term is.

    In training mode a term with running estimates takes each batch before it is evaluated on it. Autocast is off
    inside, and half precision is lifted to float32, as in :class:`ReconstructionTerm`.

    Raises:
        ValueError: for an unknown determinant, a negative β, a determinant that is not the term's or that the term's
            weight is detached from, or an argument that is no term.
    """

    fixed_kernel: Tensor

    def __init__(
        self,
        term: nn.Module,
        determinant: str = "omit",
        epsilon: float = 0.5,
        beta: float = 1.0,
        warmup_epochs: int = 0,
        fixed_variance: float = 2.0,
        kernel_size: int = 11,
        spatial_dims: int = 2,
        auxiliary: Sequence[Sequence[Any]] = (),
    ) -> None:
        super().__init__()
        _check_determinant(determinant, term)
        if beta < 0:
            raise ValueError(f"beta must not be negative, but is {beta}.")
        self.term = as_term(term)
        self.auxiliary_weights, extras = _split(auxiliary)
        self.auxiliary_terms = nn.ModuleList(extras)
        self.determinant = determinant
        self.epsilon = epsilon
        self.beta = beta
        self.warmup_epochs = warmup_epochs
        self.fixed_variance = fixed_variance
        self.warmup_term = L2Loss()
        fixed_kernel = gaussian_kernel(kernel_size, fixed_variance, spatial_dims)
        self.register_buffer("fixed_kernel", fixed_kernel, persistent=False)

    @property
    def uses_kernel(self) -> bool:
        """Whether the predicted kernel plays a part, so that the kernel generator has to be trained."""
        return self.term.uses_kernel and self.determinant != "fixed"

    @property
    def weight_needs_gradient(self) -> bool:
        """Whether a gradient flows through the predicted kernel into the encoder."""
        return self.uses_kernel and not getattr(self.term, "detach_weight", True)

    def forward(
        self, output: VAEOutput, target: Tensor, kernel: Tensor | None = None, epoch: int | None = None
    ) -> ELBOTerms:
        """Evaluate the objective.

        Args:
            output: of the network.
            target: images x in [−1, 1].
            kernel: predicted blur kernels, for the terms that use one; not needed in the warm-up.
            epoch: the current epoch, from 1; without it there is no warm-up.

        Returns:
            :class:`ELBOTerms`.
        """
        with without_autocast(target.device):
            kernel = None if kernel is None else at_least_float32(kernel)
            output = VAEOutput(*(at_least_float32(value) for value in output))
            return self._terms(output, at_least_float32(target), kernel, epoch)

    def _terms(self, output: VAEOutput, target: Tensor, kernel: Tensor | None, epoch: int | None) -> ELBOTerms:
        kl = kl_standard_normal(output.mu, output.log_var).mean()
        reconstruction, log_det = self._likelihood(output.reconstruction, target, kernel, epoch)
        auxiliary = torch.zeros_like(kl)
        for weight, extra in zip(self.auxiliary_weights, self.auxiliary_terms, strict=True):
            assert isinstance(extra, ReconstructionTerm)
            auxiliary = auxiliary + weight * extra.per_image(output.reconstruction, target, None).mean()
        loss = reconstruction + log_det + auxiliary + self.beta * kl
        return ELBOTerms(loss, reconstruction, log_det, kl, auxiliary)

    def _likelihood(
        self, reconstruction: Tensor, target: Tensor, kernel: Tensor | None, epoch: int | None
    ) -> tuple[Tensor, Tensor]:
        """The reconstruction term and ½ log|Σ|, means over the batch."""
        if self.determinant == "fixed":
            kernel = self.fixed_kernel.to(target.device).expand(target.shape[0], *self.fixed_kernel.shape[1:])
        if self.training:
            self.term.update(reconstruction.detach(), target, kernel)
        zero = torch.zeros((), device=target.device)
        if epoch is not None and epoch <= self.warmup_epochs:
            return self.warmup_term(reconstruction, target), zero
        if self.term.uses_kernel and kernel is None:
            raise ValueError(f"{type(self.term).__name__} needs the blur kernel of each image.")
        value = self.term.per_image(reconstruction, target, kernel).mean()
        if self.determinant == "omit":
            return value, zero
        assert isinstance(self.term, WienerLoss)
        assert kernel is not None
        epsilon = self.epsilon if self.determinant == "epsilon" else None
        return value, self.term.half_log_det(target, kernel, epsilon).mean()


def _check_determinant(determinant: str, term: nn.Module) -> None:
    if determinant not in DETERMINANTS:
        raise ValueError(f"determinant must be one of {DETERMINANTS}, but is {determinant!r}.")
    if determinant == "omit":
        return
    if not isinstance(term, WienerLoss):
        raise ValueError(
            f"determinant is {determinant!r}, but {type(term).__name__} has none to choose; set it to 'omit', or take "
            "WienerLoss."
        )
    if determinant != "fixed" and term.detach_weight:
        raise ValueError(
            f"determinant is {determinant!r}, but detach_weight of the term is true, so that the gradient of the "
            "determinant alone would drive the kernel; set detach_weight to false, or determinant to 'omit'."
        )


def _split(auxiliary: Sequence[Sequence[Any]]) -> tuple[list[float], list[ReconstructionTerm]]:
    """Weights and terms of the pairs."""
    if any(not isinstance(pair, Sequence) or len(pair) != 2 for pair in auxiliary):
        raise ValueError(f"auxiliary must be pairs [weight, term], but is {auxiliary!r}.")
    terms = [as_term(extra) for _, extra in auxiliary]
    if any(extra.uses_kernel for extra in terms):
        raise ValueError("an auxiliary term must not use the kernel; make it the first term.")
    return [float(weight) for weight, _ in auxiliary], terms


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
