"""Reconstruction terms by the name that a config gives them."""

from __future__ import annotations

from monai_blurvae.losses.base import ReconstructionTerm
from monai_blurvae.losses.l2 import L2Loss
from monai_blurvae.losses.wiener import WienerLoss

LOSS_NAMES = ("l2", "wiener")


def make_reconstruction_term(
    loss: str,
    wiener_c: float = 0.025,
    weighting: str = "wiener",
    detach_weight: bool | None = None,
    determinant: str = "omit",
) -> ReconstructionTerm:
    """Build the reconstruction term of a config.

    Args:
        loss: one of ``LOSS_NAMES``.
        wiener_c: the Wiener constant C.
        weighting: ``"wiener"`` or ``"bounded_inverse"``.
        detach_weight: whether W is a constant of the gradient; None for what the determinant asks for, True when it is
            omitted or fixed and False otherwise.
        determinant: as in :class:`~monai_blurvae.losses.ELBOLoss`.

    Raises:
        ValueError: for an unknown loss, or an argument that the term refuses.
    """
    if loss == "l2":
        return L2Loss()
    if loss == "wiener":
        if detach_weight is None:
            detach_weight = determinant in ("omit", "fixed")
        return WienerLoss(c=wiener_c, weighting=weighting, detach_weight=detach_weight)
    raise ValueError(f"loss must be one of {LOSS_NAMES}, but is {loss!r}.")
