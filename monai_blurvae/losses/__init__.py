"""Reconstruction terms, one a file and all called alike, and the ELBO that joins them with the rest."""

from monai_blurvae.losses.base import ReconstructionTerm
from monai_blurvae.losses.elbo import ELBOLoss, ELBOTerms
from monai_blurvae.losses.kernel import KernelLoss
from monai_blurvae.losses.l2 import L2Loss
from monai_blurvae.losses.registry import LOSS_NAMES, make_reconstruction_term
from monai_blurvae.losses.wiener import WienerLoss

__all__ = [
    "LOSS_NAMES",
    "ELBOLoss",
    "ELBOTerms",
    "KernelLoss",
    "L2Loss",
    "ReconstructionTerm",
    "WienerLoss",
    "make_reconstruction_term",
]
