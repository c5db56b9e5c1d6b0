"""Which rows train a likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_blurvae.losses import ReconstructionTerm, WienerLoss
from monai_blurvae.losses.registry import TERMS

ADDED_TERMS = ("spectrum_weight", "adversarial_weight")
NORMALISING = ("exact", "fixed")
"""The determinants that belong to the Wiener term's Σ; that of ``epsilon`` is another matrix's."""


def is_likelihood(settings: Mapping[str, Any]) -> bool:
    """Whether the objective without its KL is, up to constants, −log of a normalised density of the image.

    Args:
        settings: of a row.
    """
    if any(settings.get(name) for name in ADDED_TERMS):
        return False
    term = TERMS.get(settings["loss"], ReconstructionTerm)
    return term.is_likelihood and (term is not WienerLoss or settings.get("determinant") in NORMALISING)
