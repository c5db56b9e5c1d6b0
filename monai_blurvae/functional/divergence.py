"""Divergences between the posterior and the prior."""

from __future__ import annotations

from torch import Tensor


def kl_standard_normal(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(μ, diag σ²) ‖ N(0, I)) of each image.

    Args:
        mu: means μ, ``(B, latent_size)``.
        log_var: log σ², ``(B, latent_size)``.

    Returns:
        ``(B,)``, in nats.
    """
    return 0.5 * (mu.square() + log_var.exp() - 1.0 - log_var).sum(1)
