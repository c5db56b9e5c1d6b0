"""Reconstruction terms by the name that a config gives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai_blurvae.losses.base import ReconstructionTerm
from monai_blurvae.losses.ce import BernoulliLoss
from monai_blurvae.losses.ffl import FocalFrequencyTerm
from monai_blurvae.losses.l1 import LaplaceLoss
from monai_blurvae.losses.l2 import L2Loss
from monai_blurvae.losses.robust import RobustLoss
from monai_blurvae.losses.sigma_vae import SigmaVAELoss
from monai_blurvae.losses.spectral_gaussian import SpectralGaussianLoss
from monai_blurvae.losses.spectrum import SpectrumLoss
from monai_blurvae.losses.ssim import StructuralSimilarityLoss
from monai_blurvae.losses.vgg import VGGFeatureLoss
from monai_blurvae.losses.watson import WatsonLoss
from monai_blurvae.losses.wiener import WienerLoss

PLAIN_TERMS: dict[str, type[ReconstructionTerm]] = {
    "l2": L2Loss,
    "l1": LaplaceLoss,
    "ssim": StructuralSimilarityLoss,
    "ce": BernoulliLoss,
    "ffl": FocalFrequencyTerm,
}
"""The terms without settings."""

TERMS: dict[str, type[ReconstructionTerm]] = {
    **PLAIN_TERMS,
    "vgg": VGGFeatureLoss,
    "watson": WatsonLoss,
    "robust": RobustLoss,
    "sigma_vae": SigmaVAELoss,
    "spectral_gaussian": SpectralGaussianLoss,
    "wiener": WienerLoss,
}
"""The class of each loss; unlike an instance it needs no pretrained features."""

LOSS_NAMES = tuple(TERMS)

WHITENED_LOSSES = ("sigma_vae", "spectral_gaussian")
"""The losses that can be of the residual that W has whitened."""


def check_combination(loss: str, determinant: str = "omit", whitening: bool = False) -> None:
    """Check that a determinant and a whitening are the loss's to have.

    Args:
        loss: one of ``LOSS_NAMES``.
        determinant: as in :class:`~monai_blurvae.losses.ELBOLoss`.
        whitening: as in :func:`make_reconstruction_term`.

    Raises:
        ValueError: beginning with the name of the argument that is not.
    """
    if determinant != "omit" and loss != "wiener":
        raise ValueError(
            f"determinant is {determinant!r}, but loss {loss!r} has none to choose; set determinant to 'omit', or loss "
            "to 'wiener'."
        )
    if whitening and loss not in WHITENED_LOSSES:
        raise ValueError(
            f"whitening is {whitening!r}, but loss {loss!r} fits no covariance to residuals; set whitening to false, "
            f"or loss to {' or '.join(map(repr, WHITENED_LOSSES))}."
        )


def make_reconstruction_term(
    loss: str,
    wiener_c: float = 0.025,
    weighting: str = "wiener",
    detach_weight: bool | None = None,
    determinant: str = "omit",
    image_size: Sequence[int] = (64, 64),
    channels: int = 1,
    tempering: float = 1.0,
    whitening: bool = False,
    robust_representation: str = "pixel",
    weights_dir: str | Path | None = None,
    watson_weights: str | Path | None = None,
) -> ReconstructionTerm:
    """Build the reconstruction term of a config; each loss reads the settings that are its own.

    Args:
        loss: one of ``LOSS_NAMES``.
        wiener_c: the Wiener constant C.
        weighting: ``"wiener"``, ``"bounded_inverse"`` or ``"flat"``, see :class:`~monai_blurvae.losses.WienerLoss`.
        detach_weight: whether W is a constant of the gradient, also of the W that whitens; None for what the
            determinant asks for, True when it is omitted or fixed and False otherwise.
        determinant: as in :class:`~monai_blurvae.losses.ELBOLoss`.
        image_size: spatial size of the images.
        channels: of the images.
        tempering: of ``"spectral_gaussian"``.
        whitening: whether ``"sigma_vae"`` and ``"spectral_gaussian"`` fit the residuals that W has whitened.
        robust_representation: ``"pixel"`` or ``"dct"`` for ``"robust"``.
        weights_dir: folder of the features of ``"vgg"``.
        watson_weights: file of learned sensitivities for ``"watson"``.

    Raises:
        ValueError: for an unknown loss, an argument that the term refuses, or a determinant or whitening that is not
            the loss's.
        WeightsError: if the features of ``"vgg"`` are not there.
    """
    if loss not in LOSS_NAMES:
        raise ValueError(f"loss must be one of {LOSS_NAMES}, but is {loss!r}.")
    check_combination(loss, determinant, whitening)
    if loss in PLAIN_TERMS:
        return PLAIN_TERMS[loss]()
    if loss == "vgg":
        return VGGFeatureLoss(weights_dir)
    if loss == "watson":
        return WatsonLoss(watson_weights)
    if loss == "robust":
        return RobustLoss(robust_representation, image_size, channels)
    if detach_weight is None:
        detach_weight = determinant in ("omit", "fixed")
    wiener = WienerLoss(c=wiener_c, weighting=weighting, detach_weight=detach_weight)
    if loss == "wiener":
        return wiener
    whitener = wiener if whitening else None
    if loss == "sigma_vae":
        return SigmaVAELoss(whitener)
    return SpectralGaussianLoss(image_size, tempering, whitener)


def make_auxiliary_terms(spectrum_weight: float = 0.0) -> list[tuple[float, ReconstructionTerm]]:
    """The terms that a config adds to its loss, each with its weight; those of weight 0 are left out.

    Args:
        spectrum_weight: of :class:`~monai_blurvae.losses.SpectrumLoss`.
    """
    return [(spectrum_weight, SpectrumLoss())] if spectrum_weight else []
