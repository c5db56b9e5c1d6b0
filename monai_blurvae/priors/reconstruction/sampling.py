"""Draws from the posterior, for maps of uncertainty."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_blurvae.priors.protocol import ImagePrior
from monai_blurvae.priors.reconstruction.operator import CartesianMRI
from monai_blurvae.priors.reconstruction.phase import centre_phase
from monai_blurvae.priors.reconstruction.scaling import check_units
from monai_blurvae.priors.reconstruction.splitting import as_channels, as_complex, noise_levels, random_offset
from monai_blurvae.seeding import numpy_rng, torch_rng


class AnnealedLangevin:
    """Images drawn from the posterior by Langevin steps at less and less noise σ (Jalal et al. 2021).

    x ← x + α (∇ log p_σ(x) + Aᴴ(y − A x) / (s² + σ²)) + √(2α) n with α = ``step_size`` · σ². The last image is denoised
    at the last σ. Their spread is that of the model's posterior, blurred by the likelihood's approximation while σ > 0,
    and no bound on the error of a reconstruction.

    Args:
        prior: the density.
        steps: number of σ.
        steps_per_sigma: Langevin steps at each.
        sigma_start: the first σ, where k-space is scaled so that the zero-filled 99th percentile is 1.
        sigma_end: the last; those between are a geometric sequence.
        step_size: in units of σ², below 1.
        seed: of all random numbers.

    Raises:
        ValueError: naming the argument that is out of its range.
    """

    def __init__(
        self,
        prior: ImagePrior,
        steps: int = 30,
        steps_per_sigma: int = 3,
        sigma_start: float = 0.3,
        sigma_end: float = 0.01,
        step_size: float = 0.3,
        seed: int = 0,
    ) -> None:
        if steps < 1 or steps_per_sigma < 1 or not sigma_start >= sigma_end > 0 or not 0 < step_size < 1:
            raise ValueError(
                f"steps is {steps}, steps_per_sigma {steps_per_sigma}, sigma_start {sigma_start:g}, sigma_end "
                f"{sigma_end:g} and step_size {step_size:g}; give at least one step, sigma_start ≥ sigma_end > 0 and a "
                "step_size between 0 and 1."
            )
        self.prior = prior
        self.sigmas = noise_levels(sigma_start, sigma_end, steps)
        self.steps_per_sigma = steps_per_sigma
        self.step_size = step_size
        self.seed = seed

    @torch.no_grad()
    def __call__(
        self,
        kspace: Tensor,
        operator: CartesianMRI,
        noise_std: float = 0.0,
        phase: Tensor | None = None,
        samples: int = 8,
    ) -> Tensor:
        """Draw images.

        Args:
            kspace: y, complex ``(B, N, H, W)``, divided by :func:`kspace_scale`.
            operator: A.
            noise_std: s, of the real and the imaginary part of y, each.
            phase: of the image, ``(B, 1, H, W)``; by default that of the centre of k-space.
            samples: images drawn for each slice.

        Returns:
            Complex, ``(samples, B, 1, H, W)``.

        Raises:
            DataError: if k-space does not fit the operator, holds NaN, or is in other units.
        """
        check_units(kspace, operator)
        phase = centre_phase(kspace, operator) if phase is None else phase
        return torch.stack([self._sample(kspace, operator, noise_std, phase, number) for number in range(samples)])

    def _sample(self, kspace: Tensor, operator: CartesianMRI, noise_std: float, phase: Tensor, number: int) -> Tensor:
        rng, offsets = torch_rng(self.seed, "sample", number), numpy_rng(self.seed, "sample", number)
        image = operator.adjoint(kspace)
        for sigma in self.sigmas:
            step = self.step_size * sigma**2
            for _ in range(self.steps_per_sigma):
                offset = random_offset(offsets)
                score = as_complex(self.prior.grad(as_channels(image), sigma, phase=phase, offset=offset))
                fit = operator.adjoint(kspace - operator.forward(image)) / (noise_std**2 + sigma**2)
                noise = torch.randn(2, *image.shape, generator=rng).to(image.device, image.real.dtype)
                image = image + step * (score + fit) + (2 * step) ** 0.5 * torch.complex(noise[0], noise[1])
        return as_complex(self.prior.denoise(as_channels(image), self.sigmas[-1], phase=phase))
