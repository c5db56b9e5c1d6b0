"""A variational autoencoder of small patches with noise, whose covariance depends on the latent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from monai_blurvae.functional import (
    Scored,
    diagonal_log_prob,
    image_of,
    kl_standard_normal,
    mixture_score,
    patches_of,
    without_autocast,
)
from monai_blurvae.networks.patch_model import VARIANCE_RANGE, PatchModel
from monai_blurvae.seeding import torch_rng

LOG_VAR_LIMIT = 10.0
"""Largest |log σ²| of the posterior."""


class PatchVAEOutput(NamedTuple):
    """One forward pass over the N patches of all images.

    Attributes:
        reconstruction: decoder means put together to images, ``(B, 1, H, W)``.
        mu: posterior mean, ``(N, latent_size)``.
        log_var: posterior log σ², ``(N, latent_size)``.
        z: the latent that was decoded, ``(N, latent_size)``.
        coefficients: DCT coefficients y of the patches with noise, ``(N, D)``.
        mean: of p(y|z), ``(N, D)``.
        variance: of p(y|z), that of the noise included, ``(N, D)``.
    """

    reconstruction: Tensor
    mu: Tensor
    log_var: Tensor
    z: Tensor
    coefficients: Tensor
    mean: Tensor
    variance: Tensor

    @property
    def log_likelihood(self) -> Tensor:
        """Log p(y|z), ``(N,)``, in nats."""
        return diagonal_log_prob(self.coefficients, self.mean, self.variance)

    @property
    def kl(self) -> Tensor:
        """KL(q(z|y, σ) ‖ N(0, I)), ``(N,)``, in nats."""
        return kl_standard_normal(self.mu, self.log_var)


class PatchVAE(PatchModel):
    """VAE of patches y = x + σ n with noise of known σ: p(y|z) = N(m(z), diag v(z) + σ²) in the orthonormal DCT.

    The decoder gives a mean and a variance to each of the D = p² DCT coefficients of a patch, both functions of z,
    and knows nothing of the noise; so one model has the density of the patches under every noise. The encoder sees the
    coefficients with noise and σ.

    Args:
        patch_size: side p of the patches.
        latent_size: size of the latent.
        hidden_size: width of the two hidden layers of encoder and decoder.
        sigma_range: of a training, see :class:`~monai_blurvae.networks.patch_model.PatchModel`.
        bank_size: number K of latents in the buffer ``bank``, drawn once from N(0, I).

    Attributes:
        bank: ``(K, latent_size)``; the equal mixture of p(y|z) over it stands for p(y).

    Raises:
        ValueError: naming the argument that does not fit.

    Example:
        >>> PatchVAE()(torch.zeros(2, 1, 64, 64)).mean.shape
        torch.Size([128, 64])
    """

    bank: Tensor

    def __init__(
        self,
        patch_size: int = 8,
        latent_size: int = 12,
        hidden_size: int = 256,
        sigma_range: Sequence[float] = (0.01, 0.3),
        bank_size: int = 256,
    ) -> None:
        super().__init__(patch_size, sigma_range)
        for name, value in (("latent_size", latent_size), ("hidden_size", hidden_size), ("bank_size", bank_size)):
            if value < 1:
                raise ValueError(f"{name} must be positive, but is {value}.")
        self.latent_size = latent_size
        dimensions = patch_size**2
        self.encoder = _mlp(2 * dimensions + 1, hidden_size, 2 * latent_size)
        self.decoder = _mlp(latent_size, hidden_size, 2 * dimensions)
        self.register_buffer("bank", torch.randn(bank_size, latent_size, generator=torch_rng(0, "bank")))

    @property
    def latent_noise(self) -> int:
        """The size of the latent."""
        return self.latent_size

    def forward(self, x: Tensor, noise: Tensor | None = None) -> PatchVAEOutput:
        """Cut images into patches side by side, add noise, encode, draw a latent, decode.

        Args:
            x: images in [−1, 1], ``(B, 1, H, W)``, both sides multiples of ``patch_size``.
            noise: standard normal numbers of :meth:`noise_shape`: of the pixels, the latents and the levels σ. Without
                them a module in training mode draws its own, and a module in evaluation mode takes zeros: no noise
                under the σ in the middle of the range, and z = μ.

        Returns:
            :class:`PatchVAEOutput`.

        Raises:
            ValueError: for images of another shape.
        """
        p, noise = self.patch_size, self._noise(x, noise)
        pixels, latents, levels = noise.split([p**2, self.latent_size, 1], 1)
        with without_autocast(x.device):  # half precision would be a noise of its own, as large as the smallest σ
            sigma = self._sigma(levels)
            y = self.coefficients(patches_of(x, p, p).flatten(0, 1)) + sigma * pixels
            mu, log_var = self.encode(y, sigma)
            z = mu + torch.exp(0.5 * log_var) * latents
            mean, variance = self.decode(z)
            decoded = image_of(self.patches(mean).unflatten(0, (len(x), -1)), x.shape[2:], p)
        return PatchVAEOutput(decoded, mu, log_var, z, y, mean, variance + sigma.square())

    @property
    def latents(self) -> int:
        """The size of the bank."""
        return len(self.bank)

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Decode draws from N(0, I)."""
        white, z, _ = noise.split([self.patch_size**2, self.latent_size, 1], 1)
        mean, variance = self.decode(z)
        return mean, mean + variance.sqrt() * white

    def density(self, y: Tensor, sigma: float) -> Scored:
        """The mean of p(y|z) over the bank of latents, a mixture of Gaussians."""
        mean, variance = self.decode(self.bank)
        equal = y.new_full((len(mean),), -math.log(len(mean)))
        return mixture_score(y, mean, variance + sigma**2, equal)

    def bound(self, y: Tensor, sigma: float, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The bound and the KL of the encoder, with one latent for each patch."""
        mu, log_var = self.encode(y, sigma)
        mean, variance = self.decode(mu + torch.exp(0.5 * log_var) * noise)
        kl = kl_standard_normal(mu, log_var)
        return diagonal_log_prob(y, mean, variance + sigma**2) - kl, kl

    def encode(self, y: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """Posterior mean and log σ² (within ±10), ``(N, latent_size)`` each.

        Args:
            y: coefficients with noise, ``(N, D)``.
            sigma: standard deviation of the noise on [−1, 1], a number or ``(N, 1)``.
        """
        sigma = torch.as_tensor(sigma, dtype=y.dtype, device=y.device).expand(len(y), 1)
        signal = y / (self.scale + sigma)
        contrast = torch.asinh(y / sigma.clamp_min(self.sigma_range[0]))
        features = torch.cat([signal, contrast, sigma.clamp_min(self.sigma_range[0]).log()], 1)
        mu, log_var = self.encoder(features).chunk(2, 1)
        return mu, log_var.clamp(-LOG_VAR_LIMIT, LOG_VAR_LIMIT)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the coefficients without noise, ``(N, D)`` each, of latents ``(N, latent_size)``."""
        mean, log_var = self.decoder(z).chunk(2, 1)
        return mean * self.scale, (log_var.exp() * self.scale.square()).clamp(*VARIANCE_RANGE)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, outputs)
    )
