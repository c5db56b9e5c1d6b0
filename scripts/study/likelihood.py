"""Which rows train a likelihood."""

from __future__ import annotations

import pydoc
from collections.abc import Mapping
from typing import Any

from monai.bundle import ConfigParser

from monai_blurvae.losses import WienerLoss

NORMALISING = ("exact", "fixed")
"""The determinants that belong to the Wiener term's Σ; that of ``epsilon`` is another matrix's."""


def is_likelihood(config: Mapping[str, Any]) -> bool:
    """Whether the objective without its KL is, up to constants, −log of a normalised density of the image.

    Args:
        config: merged. A term that is no class of this package counts as none unless it says ``is_likelihood``.
    """
    parser = ConfigParser(dict(config))
    term = pydoc.locate(str(parser.get("train#term#_target_")))
    added = parser.get("adversary") or parser.get("train#objective#auxiliary")
    if added or not isinstance(term, type) or not getattr(term, "is_likelihood", False):
        return False
    return not issubclass(term, WienerLoss) or parser.get("train#objective#determinant") in NORMALISING
