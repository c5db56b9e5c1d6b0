"""The stationary Gaussian on the torus: one variance per spatial frequency."""

from __future__ import annotations

from collections.abc import Sequence

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
    _check_variance(variance, power.shape, "the residual")
    terms = power / variance + torch.log(variance)
    return -0.5 * spectral_sum(terms, residual.shape[2:]) - gaussian_log_normalizer(residual[0].numel())


def stationary_sample(noise: Tensor, variance: Tensor) -> Tensor:
    """Give white noise the covariance of a stationary Gaussian: Σ^½ e, which is N(0, Σ) for e ~ N(0, I).

    Σ^½ = F⁻¹ diag(√S) F with the ortho DFT F is the symmetric square root of the block-circulant covariance whose
    eigenvalues are the S_j, real since S_j is the same at j and −j. It is an exact draw of the density of
    :func:`stationary_log_prob`, and linear in the noise.

    Args:
        noise: e, standard normal, ``(B, C, *image_size)``.
        variance: S_j ≥ 0, see :func:`stationary_log_prob`.

    Returns:
        Like ``noise``, in the units of √S.

    Raises:
        ValueError: if the shape of the variance does not fit the noise.
    """
    spectrum = ortho_spectrum(noise)
    _check_variance(variance, spectrum.shape, "the noise")
    return _from_spectrum(spectrum * variance.sqrt(), noise.shape[2:])


def spectral_filter(images: Tensor, weight: Tensor) -> Tensor:
    """Multiply images by a real weight in Fourier space.

    Args:
        images: ``(B, C, *image_size)``.
        weight: half spectrum ``(1 or B, 1 or C, *half)``.

    Returns:
        Like ``images``.
    """
    return _from_spectrum(ortho_spectrum(images) * weight, images.shape[2:])


def _from_spectrum(spectrum: Tensor, image_size: Sequence[int]) -> Tensor:
    return torch.fft.irfftn(spectrum, s=image_size, dim=tuple(range(2, spectrum.ndim)), norm="ortho")


def _check_variance(variance: Tensor, half: Sequence[int], of: str) -> None:
    fits = variance.ndim == len(half) and variance.shape[2:] == tuple(half[2:])
    if not fits or variance.shape[0] not in (1, half[0]) or variance.shape[1] not in (1, half[1]):
        raise ValueError(
            f"the variance has shape {tuple(variance.shape)}, but the half spectrum of {of} has {tuple(half)}; give "
            "the variance that shape, or 1 in place of its first two numbers."
        )
