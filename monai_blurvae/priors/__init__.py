"""The learned prior: a density over images of any size with its gradient and denoiser, and what is done with it."""

from monai_blurvae.priors.blurvae_prior import BlurVAEPrior
from monai_blurvae.priors.evaluation import (
    CalibrationHandler,
    InitialMixtureHandler,
    PatchVAEEvaluator,
    PriorReportHandler,
)
from monai_blurvae.priors.gaussian_mixture_prior import GaussianMixturePrior
from monai_blurvae.priors.patch_prior import ImagePrior, PatchPrior, ScoredPatches
from monai_blurvae.priors.patch_vae_prior import PatchVAEPrior

__all__ = [
    "BlurVAEPrior",
    "CalibrationHandler",
    "GaussianMixturePrior",
    "ImagePrior",
    "InitialMixtureHandler",
    "PatchPrior",
    "PatchVAEEvaluator",
    "PatchVAEPrior",
    "PriorReportHandler",
    "ScoredPatches",
]
