"""Reconstruction terms, one a file and all called alike, and the ELBO that joins them with the rest."""

from monai_blurvae.losses.adversary import Adversary
from monai_blurvae.losses.base import ReconstructionTerm
from monai_blurvae.losses.ce import BernoulliLoss
from monai_blurvae.losses.elbo import ELBOLoss, ELBOTerms
from monai_blurvae.losses.ffl import FocalFrequencyTerm
from monai_blurvae.losses.kernel import KernelLoss
from monai_blurvae.losses.l1 import LaplaceLoss
from monai_blurvae.losses.l2 import L2Loss
from monai_blurvae.losses.patch_elbo import PatchELBO
from monai_blurvae.losses.plain import PlainTerm
from monai_blurvae.losses.robust import RobustLoss
from monai_blurvae.losses.sigma_vae import SigmaVAELoss
from monai_blurvae.losses.spectral_gaussian import SpectralGaussianLoss
from monai_blurvae.losses.spectrum import SpectrumLoss
from monai_blurvae.losses.ssim import StructuralSimilarityLoss
from monai_blurvae.losses.vgg import VGGFeatureLoss
from monai_blurvae.losses.watson import WatsonLoss
from monai_blurvae.losses.wiener import WienerLoss

__all__ = [
    "Adversary",
    "BernoulliLoss",
    "ELBOLoss",
    "ELBOTerms",
    "FocalFrequencyTerm",
    "KernelLoss",
    "L2Loss",
    "LaplaceLoss",
    "PatchELBO",
    "PlainTerm",
    "ReconstructionTerm",
    "RobustLoss",
    "SigmaVAELoss",
    "SpectralGaussianLoss",
    "SpectrumLoss",
    "StructuralSimilarityLoss",
    "VGGFeatureLoss",
    "WatsonLoss",
    "WienerLoss",
]
