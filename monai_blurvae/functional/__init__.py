"""The mathematics as pure functions on tensors; imports nothing but torch."""

from monai_blurvae.functional.cosine import dct_matrix
from monai_blurvae.functional.divergence import kl_standard_normal
from monai_blurvae.functional.gaussians import Gaussians, fit_gaussians
from monai_blurvae.functional.kernels import gaussian_kernel, kernel_width
from monai_blurvae.functional.likelihood import (
    OTF_FLOOR,
    epsilon_half_log_det,
    floored_magnitude,
    gaussian_log_normalizer,
    half_log_det,
    wiener_weight,
)
from monai_blurvae.functional.mixture import RotatedMixture, Scored, diagonal_log_prob, mixture_score, weighted_score
from monai_blurvae.functional.patches import covering_steps, image_of, patches_of
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
    "Gaussians",
    "RotatedMixture",
    "Scored",
    "annuli",
    "annulus_mean",
    "at_least_float32",
    "blur",
    "covering_steps",
    "dct_matrix",
    "diagonal_log_prob",
    "epsilon_half_log_det",
    "fit_gaussians",
    "floored_magnitude",
    "gaussian_kernel",
    "gaussian_log_normalizer",
    "half_log_det",
    "hann_window",
    "image_of",
    "kernel_otf",
    "kernel_width",
    "kl_standard_normal",
    "mixture_score",
    "ortho_spectrum",
    "patches_of",
    "radial_power",
    "residual_power",
    "spectral_sum",
    "stationary_log_prob",
    "stationary_sample",
    "weighted_score",
    "weighted_spectral_sum",
    "wiener_weight",
    "without_autocast",
]
