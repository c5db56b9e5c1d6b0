"""The variational autoencoder and its kernel generator, one module, and the models of small patches."""

from monai_blurvae.networks.autoencoder_kl import BlurAutoencoderKL, SpatialKernelGenerator
from monai_blurvae.networks.blurvae import Architecture, BlurVAE, BlurVAEReconstructor, architecture_of
from monai_blurvae.networks.latent_model import (
    KernelGenerator,
    LatentImageModel,
    VAEOutput,
    as_reconstructor,
    require_image_shape,
    unwrapped,
)
from monai_blurvae.networks.patch_models import PatchMixture, PatchMixtureOutput, PatchModel, PatchVAE, PatchVAEOutput
from monai_blurvae.networks.perceptual import LearnedPerceptualDistance, PerceptualFeatures

__all__ = [
    "Architecture",
    "BlurAutoencoderKL",
    "BlurVAE",
    "BlurVAEReconstructor",
    "KernelGenerator",
    "LatentImageModel",
    "LearnedPerceptualDistance",
    "PatchMixture",
    "PatchMixtureOutput",
    "PatchModel",
    "PatchVAE",
    "PatchVAEOutput",
    "PerceptualFeatures",
    "SpatialKernelGenerator",
    "VAEOutput",
    "architecture_of",
    "as_reconstructor",
    "require_image_shape",
    "unwrapped",
]
