"""MR reconstruction from undersampled Cartesian k-space: the operator, a learned prior's use, and its competitors.

Images are complex ``(B, 1, H, W)``, k-space is complex ``(B, coils, H, W)`` with its centre at index n // 2 of both
axes and lines along H, and a unitary DFT between them.
"""

from monai_blurvae.priors.reconstruction.baselines import RealLeastSquares, TotalVariation, WaveletSparsity, ZeroFilled
from monai_blurvae.priors.reconstruction.ddp import DeepDensityPrior
from monai_blurvae.priors.reconstruction.operator import (
    CartesianMRI,
    centred_fft,
    centred_ifft,
    estimate_coil_maps,
    estimate_noise_std,
    gaussian_line_mask,
    kspace_scale,
)
from monai_blurvae.priors.reconstruction.reconstructor import ScanReconstructor
from monai_blurvae.priors.reconstruction.scan import simulate_coil_maps, simulate_kspace, simulate_phase
from monai_blurvae.priors.reconstruction.splitting import (
    CONVERGENCE,
    MEASURES,
    PHASE_CYCLES,
    AnnealedLangevin,
    ConvergenceWatcher,
    HalfQuadraticSplitting,
    Reconstruction,
    centre_phase,
    magnitude_psnr,
    reconstruction_measures,
    smooth_phase,
)

__all__ = [
    "CONVERGENCE",
    "MEASURES",
    "PHASE_CYCLES",
    "AnnealedLangevin",
    "CartesianMRI",
    "ConvergenceWatcher",
    "DeepDensityPrior",
    "HalfQuadraticSplitting",
    "RealLeastSquares",
    "Reconstruction",
    "ScanReconstructor",
    "TotalVariation",
    "WaveletSparsity",
    "ZeroFilled",
    "centre_phase",
    "centred_fft",
    "centred_ifft",
    "estimate_coil_maps",
    "estimate_noise_std",
    "gaussian_line_mask",
    "kspace_scale",
    "magnitude_psnr",
    "reconstruction_measures",
    "simulate_coil_maps",
    "simulate_kspace",
    "simulate_phase",
    "smooth_phase",
]
