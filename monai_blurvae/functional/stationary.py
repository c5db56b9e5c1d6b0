"""The stationary Gaussian on the torus: one variance per spatial frequency."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_blurvae.functional.likelihood import gaussian_log_normalizer
from monai_blurvae.functional.spectral import ortho_spectrum, spectral_sum


def residual_power(residual: Tensor) -> Tensor:
    """|R_j|² of each image, R the ortho DFT of the residual.

    Its mean over residuals is the maximum-likelihood estimate of the variances S_j of a stationary Gaussian.

    Args:
        residual: x − x̂, ``(B, C, *image_size)``.

    Returns:
        Half spectrum ``(B, C, *image_size[:-1], image_size[-1] // 2 + 1)``, real.
    """
    spectrum = ortho_spectrum(residual)
    return spectrum.real.square() + spectrum.imag.square()


def stationary_log_prob(residual: Tensor, variance: Tensor) -> Tensor:
    """Log-density of a stationary Gaussian with mean zero, whose covariance is block-circulant.

    −½ Σ_j [|R_j|² / S_j + log S_j] − (D/2) log 2π over all frequencies and channels; the S_j are the eigenvalues of the
    covariance, so that Σ_j log S_j is its exact log-determinant. Channels are independent.

    Args:
        residual: x − x̂, ``(B, C, *image_size)``.
        variance: S_j > 0 as a half spectrum, ``(1 or B, 1 or C, *image_size[:-1], image_size[-1] // 2 + 1)``. As the
            power of a real field it is the same at j and −j, which the first column, and the last for even widths, hold
            both.

    Returns:
        ``(B,)``, in nats.

    Raises:
        ValueError: if the shape of the variance does not fit the residual.
    """
    power = residual_power(residual)
    fits = variance.ndim == power.ndim and variance.shape[2:] == power.shape[2:]
    if not fits or variance.shape[0] not in (1, power.shape[0]) or variance.shape[1] not in (1, power.shape[1]):
        raise ValueError(
            f"the variance has shape {tuple(variance.shape)}, but the half spectrum of the residual has "
            f"{tuple(power.shape)}; give the variance that shape, or 1 in place of its first two numbers."
        )
    terms = power / variance + torch.log(variance)
    return -0.5 * spectral_sum(terms, residual.shape[2:]) - gaussian_log_normalizer(residual[0].numel())
