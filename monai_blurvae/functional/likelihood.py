"""Gaussians: Wiener weights and determinants of Σ, Σ⁻¹ = WᵀW; stationary ones; the KL of the latent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from monai_blurvae.functional.spectral import ortho_spectrum, spectral_sum

OTF_FLOOR = 1e-3
"""|F| is replaced by max(|F|, OTF_FLOOR) in W and in log|Σ| alike, so that the density stays normalised."""


def floored_magnitude(otf: Tensor) -> Tensor:
    """max(|F|, OTF_FLOOR) of a complex half spectrum, real, with the same shape."""
    return otf.abs().clamp_min(OTF_FLOOR)


def _check_c(c: float) -> None:
    if not (c > 0 and math.isfinite(c)):
        raise ValueError(f"C must be a positive number, but is {c!r}.")


def wiener_weight(otf: Tensor, c: float, weighting: str = "wiener") -> Tensor:
    """|W| per frequency.

    Args:
        otf: complex half spectrum F of the kernel.
        c: the Wiener constant C > 0.
        weighting: ``"wiener"`` for |W| = |F| / (|F|² + C), eq. 7 of the paper, or ``"bounded_inverse"`` for
            |W| = (|F|² + C)^-½, which is monotone in |F| and weighs most what the blur removed altogether.

    Returns:
        Real, positive, of the shape of ``otf``.

    Raises:
        ValueError: if ``c`` is not positive or ``weighting`` is not one of the two.
    """
    _check_c(c)
    magnitude = floored_magnitude(otf)
    if weighting == "wiener":
        return magnitude / (magnitude.square() + c)
    if weighting == "bounded_inverse":
        return (magnitude.square() + c).rsqrt()
    raise ValueError(f"weighting must be 'wiener' or 'bounded_inverse', but is {weighting!r}.")


def _check_shared(spectrum: Tensor) -> None:
    if spectrum.shape[1] != 1:
        raise ValueError(
            f"the half spectrum has shape {tuple(spectrum.shape)}, but n_c channels that share a kernel have one, "
            "(B, 1, *half); of kernels for each channel, sum the determinants of the channels."
        )


def half_log_det(weight: Tensor, image_size: Sequence[int], channels: int = 1) -> Tensor:
    """½ log|Σ| = −n_c Σ_j log|W_j| of one image, Σ⁻¹ = I ⊗ WᵀW: the exact determinant.

    Args:
        weight: |W| > 0, half spectrum ``(B, 1, *half)``.
        image_size: spatial size of the images.
        channels: number of channels n_c that share the kernel.

    Returns:
        ``(B,)``, in nats.

    Raises:
        ValueError: if the weight is not one for all channels.
    """
    _check_shared(weight)
    return -channels * spectral_sum(weight.log(), image_size)


def epsilon_half_log_det(otf: Tensor, image_size: Sequence[int], epsilon: float, channels: int = 1) -> Tensor:
    """n_c Σ_j log|F_j + ε|, half the log-determinant of the paper's Σ ≈ K(ε)K(ε)ᵀ.

    It is not the determinant of the Σ in the quadratic form. |F_j + ε| has the floor of |F| too, since K + εI is
    singular where F_j = −ε.

    Args:
        otf: complex half spectrum F of the kernel, ``(B, 1, *half)``.
        image_size: spatial size of the images.
        epsilon: ε.
        channels: number of channels n_c that share the kernel.

    Returns:
        ``(B,)``, in nats.

    Raises:
        ValueError: if the OTF is not one for all channels.
    """
    _check_shared(otf)
    return channels * spectral_sum(floored_magnitude(otf + epsilon).log(), image_size)


def gaussian_log_normalizer(dimensions: int) -> float:
    """(D/2) log 2π, the constant of a Gaussian log-density of ``dimensions`` = N · n_c variables, in nats."""
    return 0.5 * dimensions * math.log(2 * math.pi)


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


def kl_standard_normal(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(μ, diag σ²) ‖ N(0, I)) of each image.

    Args:
        mu: means μ, ``(B, latent_size)``.
        log_var: log σ², ``(B, latent_size)``.

    Returns:
        ``(B,)``, in nats.
    """
    return 0.5 * (mu.square() + log_var.exp() - 1.0 - log_var).sum(1)
