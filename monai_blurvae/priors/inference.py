"""Three ways to take the integral over the latent of a model of patches, with the gradient of each."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from monai_blurvae.functional import Scored, diagonal_log_prob, kl_standard_normal, weighted_score
from monai_blurvae.networks import PatchModel, PatchVAE


def bank_score(network: PatchModel, y: Tensor, sigma: float, noise: Tensor) -> Scored:
    """The density of the network in closed form: over its bank of latents, or over all of them where they are discrete.

    Args:
        network: of either kind.
        y: coefficients with noise, ``(N, D)``.
        sigma: standard deviation of the noise on [−1, 1].
        noise: not used.
    """
    return network.density(y, sigma)


def encoder_score(network: PatchVAE, y: Tensor, sigma: float, noise: Tensor) -> Scored:
    """The ELBO with S latents from q(z|y, σ), whose gradient holds q and the latents fixed.

    Args:
        network: both halves of it.
        y: coefficients with noise, ``(N, D)``.
        sigma: standard deviation of the noise on [−1, 1].
        noise: standard normal, ``(N, S, latent_size)``.
    """
    mu, log_var = network.encode(y, sigma)
    mean, variance = _decoded(network, _latents(mu, log_var, noise), sigma)
    likelihood = diagonal_log_prob(y[:, None], mean, variance)
    weight = torch.full_like(likelihood, 1 / noise.shape[1])
    return Scored(likelihood.mean(1) - kl_standard_normal(mu, log_var), weighted_score(y, mean, variance, weight))


def importance_score(network: PatchVAE, y: Tensor, sigma: float, noise: Tensor) -> Scored:
    """Log of the mean importance weight p(y|z) p(z) / q(z|y, σ) of S latents from q; arguments as of the encoder's.

    Its gradient holds q and the latents fixed, so that it is that of a mixture whose weights are p(z) / q(z|y, σ).
    """
    mu, log_var = network.encode(y, sigma)
    z = _latents(mu, log_var, noise)
    mean, variance = _decoded(network, z, sigma)
    log_ratio = 0.5 * (noise.square() - z.square() + log_var[:, None]).sum(2)
    log_weight = diagonal_log_prob(y[:, None], mean, variance) + log_ratio
    log_prob = torch.logsumexp(log_weight, 1) - math.log(noise.shape[1])
    return Scored(log_prob, weighted_score(y, mean, variance, torch.softmax(log_weight, 1)))


SCORES: dict[str, Callable[..., Scored]] = {
    "bank": bank_score,
    "encoder": encoder_score,
    "importance": importance_score,
}
"""By the name of the inference."""


def _latents(mu: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    return mu[:, None] + torch.exp(0.5 * log_var)[:, None] * noise


def _decoded(network: PatchVAE, z: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Mean and variance, that of the noise included, of latents ``(N, S, latent_size)``."""
    mean, variance = network.decode(z.flatten(0, 1))
    return mean.unflatten(0, z.shape[:2]), variance.unflatten(0, z.shape[:2]) + sigma**2
