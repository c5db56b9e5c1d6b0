"""The variational autoencoder and its kernel generator, one module, and the models of small patches."""

from monai_blurvae.networks.architecture import Architecture, architecture_of
from monai_blurvae.networks.autoencoder_kl import BlurAutoencoderKL, SpatialKernelGenerator
from monai_blurvae.networks.blurvae import BlurVAE, BlurVAEReconstructor
from monai_blurvae.networks.kernel_generator import KernelGenerator
from monai_blurvae.networks.latent_model import LatentImageModel, VAEOutput, as_reconstructor, require_image_shape
from monai_blurvae.networks.patch_mixture import PatchMixture, PatchMixtureOutput
from monai_blurvae.networks.patch_model import PatchModel
from monai_blurvae.networks.patch_vae import PatchVAE, PatchVAEOutput
from monai_blurvae.networks.perceptual import LearnedPerceptualDistance, PerceptualFeatures
from monai_blurvae.networks.wrapping import unwrapped

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
