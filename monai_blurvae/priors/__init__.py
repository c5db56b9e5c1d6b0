"""The learned prior: log-density, gradient and denoiser of images of any size, and the evaluation of its model."""

from monai_blurvae.priors.blurvae_prior import BlurVAEPrior
from monai_blurvae.priors.evaluation import CalibrationHandler, PatchVAEEvaluator, PriorReportHandler
from monai_blurvae.priors.patch_prior import PatchPrior, ScoredPatches
from monai_blurvae.priors.patch_vae_prior import PatchVAEPrior

__all__ = [
    "BlurVAEPrior",
    "CalibrationHandler",
    "PatchPrior",
    "PatchVAEEvaluator",
    "PatchVAEPrior",
    "PriorReportHandler",
    "ScoredPatches",
]
