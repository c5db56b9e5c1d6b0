"""The learned prior: log-density, gradient and denoiser of images of any size."""

from monai_blurvae.priors.blurvae_prior import BlurVAEPrior
from monai_blurvae.priors.patch_prior import PatchPrior, ScoredPatches
from monai_blurvae.priors.patch_vae_prior import PatchVAEPrior

__all__ = ["BlurVAEPrior", "PatchPrior", "PatchVAEPrior", "ScoredPatches"]
