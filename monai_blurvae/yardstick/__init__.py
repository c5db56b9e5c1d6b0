"""A trained network beside the exact optimum of a linear VAE: one that is behind it is not trained."""

from monai_blurvae.yardstick.comparison import (
    FIGURES,
    Standard,
    compare,
    is_behind,
    measure_network,
    standard_of,
    verdict,
)
from monai_blurvae.yardstick.handler import YardstickHandler
from monai_blurvae.yardstick.models import LinearModels

__all__ = [
    "FIGURES",
    "LinearModels",
    "Standard",
    "YardstickHandler",
    "compare",
    "is_behind",
    "measure_network",
    "standard_of",
    "verdict",
]
