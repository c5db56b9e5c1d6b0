"""Deep density prior reconstruction, the published use of a patch VAE in MR reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_blurvae.priors.patch_prior import ImagePrior
from monai_blurvae.priors.reconstruction.operator import CartesianMRI, check_units
from monai_blurvae.priors.reconstruction.splitting import Watcher, random_offset, unit_phase
from monai_blurvae.seeding import numpy_rng


class DeepDensityPrior:
    """Gradient steps on log p(|x|) that keep the phase of x, the measured k-space put back after every block (POCS).

    Tezcan et al. 2019, "MR image reconstruction using deep density priors". The gradient is that of the prior for the
    magnitude, x ← x + step_size · ∇ log p_σ(|x|) · x / |x|, then x ← x + Aᴴ(y − A x), which for one coil keeps the
    samples.

    Args:
        prior: the density.
        blocks: how often the measured samples are put back.
        steps_per_block: gradient steps before each.
        sigma: at which the prior is asked; it smooths the density.
        step_size: of the gradient; σ²/2 by default, half the way to the denoised image.
        seed: of the random offsets of the prior's grid of patches.

    Raises:
        ValueError: unless there is a step and a block, and σ > 0.
    """

    phase_from = "the iterate"

    def __init__(
        self,
        prior: ImagePrior,
        blocks: int = 30,
        steps_per_block: int = 10,
        sigma: float = 0.02,
        step_size: float | None = None,
        seed: int = 0,
    ) -> None:
        if blocks < 1 or steps_per_block < 1 or not sigma > 0:
            raise ValueError(
                f"blocks is {blocks}, steps_per_block {steps_per_block} and sigma {sigma:g}; give at least 1 of "
                "both and sigma > 0."
            )
        self.prior = prior
        self.blocks = blocks
        self.steps_per_block = steps_per_block
        self.sigma = sigma
        self.step_size = sigma**2 / 2 if step_size is None else step_size
        self.seed = seed

    @torch.no_grad()
    def __call__(
        self,
        kspace: Tensor,
        operator: CartesianMRI,
        noise_std: float = 0.0,
        phase: Tensor | None = None,
        watcher: Watcher | None = None,
    ) -> Tensor:
        """Reconstruct slices.

        Args:
            kspace: y, complex ``(B, N, H, W)``, divided by :func:`kspace_scale`.
            operator: A.
            noise_std: is not used: the published method puts the samples back as they are.
            phase: is not used: the phase is that of the iterate.
            watcher: called after every block.

        Returns:
            Complex, ``(B, 1, H, W)``.

        Raises:
            DataError: if k-space does not fit the operator, holds NaN, or is in other units.
        """
        check_units(kspace, operator)
        rng = numpy_rng(self.seed, "offsets")
        image = operator.adjoint(kspace)
        for block in range(1, self.blocks + 1):
            for _ in range(self.steps_per_block):
                gradient = self.prior.grad(image.abs(), self.sigma, offset=random_offset(rng))
                image = image + self.step_size * gradient * unit_phase(image)
            image = image + operator.adjoint(kspace - operator.forward(image))
            if watcher is not None:
                watcher(block, image)
        return image
