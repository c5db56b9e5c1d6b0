"""The learned prior: a density over images with its gradient and denoiser, and what is done with it."""

from monai_blurvae.priors.protocol import ImagePrior

__all__ = ["ImagePrior"]
