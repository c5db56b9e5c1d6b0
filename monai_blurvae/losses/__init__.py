"""Reconstruction terms, all called alike, and the ELBO that joins them with the rest."""

from monai_blurvae.losses.adversary import Adversary
from monai_blurvae.losses.base import PlainTerm, ReconstructionTerm
from monai_blurvae.losses.elbo import ELBOLoss, ELBOTerms, PatchELBO
from monai_blurvae.losses.pixelwise import BernoulliLoss, L2Loss, LaplaceLoss, StructuralSimilarityLoss, VGGFeatureLoss
from monai_blurvae.losses.robust import RobustLoss
from monai_blurvae.losses.spectral import FocalFrequencyTerm, SigmaVAELoss, SpectralGaussianLoss, SpectrumLoss
from monai_blurvae.losses.watson import WatsonLoss
from monai_blurvae.losses.wiener import KernelLoss, WienerLoss

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
