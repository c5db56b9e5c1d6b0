"""Wiener weights and determinants of the convolutional covariance Σ, Σ⁻¹ = WᵀW."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from monai_blurvae.functional.spectral import spectral_sum

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
