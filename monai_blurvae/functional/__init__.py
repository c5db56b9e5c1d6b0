"""The mathematics as pure functions on tensors; imports nothing but torch."""

from monai_blurvae.functional.cosine import dct_matrix
from monai_blurvae.functional.divergence import kl_standard_normal
from monai_blurvae.functional.kernels import gaussian_kernel, kernel_width
from monai_blurvae.functional.likelihood import (
    OTF_FLOOR,
    epsilon_half_log_det,
    floored_magnitude,
    gaussian_log_normalizer,
    half_log_det,
    wiener_weight,
)
from monai_blurvae.functional.precision import at_least_float32, without_autocast
from monai_blurvae.functional.radial import annuli, annulus_mean, radial_power
from monai_blurvae.functional.spectral import (
    blur,
    kernel_otf,
    ortho_spectrum,
    spectral_sum,
    weighted_spectral_sum,
)
from monai_blurvae.functional.stationary import residual_power, stationary_log_prob, stationary_sample
from monai_blurvae.functional.window import SSIM_WINDOW_SIGMA, SSIM_WINDOW_SIZE, hann_window

__all__ = [
    "OTF_FLOOR",
    "SSIM_WINDOW_SIGMA",
    "SSIM_WINDOW_SIZE",
    "annuli",
    "annulus_mean",
    "at_least_float32",
    "blur",
    "dct_matrix",
    "epsilon_half_log_det",
    "floored_magnitude",
    "gaussian_kernel",
    "gaussian_log_normalizer",
    "half_log_det",
    "hann_window",
    "kernel_otf",
    "kernel_width",
    "kl_standard_normal",
    "ortho_spectrum",
    "radial_power",
    "residual_power",
    "spectral_sum",
    "stationary_log_prob",
    "stationary_sample",
    "weighted_spectral_sum",
    "wiener_weight",
    "without_autocast",
]
