"""What is compared, and among which values of its free parameters it is tuned."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from monai_blurvae.priors.patch_prior import ImagePrior
from monai_blurvae.priors.reconstruction.baselines import RealLeastSquares, TotalVariation, WaveletSparsity, ZeroFilled
from monai_blurvae.priors.reconstruction.ddp import DeepDensityPrior
from monai_blurvae.priors.reconstruction.splitting import PHASE_CYCLES, HalfQuadraticSplitting, Reconstruction

Parameters = Mapping[str, float]
"""Values of the free parameters by name."""

TRIALS = 8
"""Values of the parameters that every method with some is tuned among."""

TV_REAL, EPLL = "tv_real", "epll_gmm"
"""The methods that all others are held against."""

NOT_COMPARED = {
    "DRUNet and other pretrained denoisers": "their weights have to be downloaded, and were trained on photographs",
}
"""Methods that are missing, and why."""


@dataclass(frozen=True)
class Method:
    """A way to reconstruct.

    Attributes:
        name: of its folder, and by which it is asked for.
        label: in tables.
        make: takes the parameters by name.
        grid: values that are tried on the validation subjects; one, without parameters, where there are none.
    """

    name: str
    label: str
    make: Callable[..., Reconstruction]
    grid: tuple[Parameters, ...] = ({},)


def classical_methods() -> list[Method]:
    """Zero filling, least squares, total variation and wavelets."""
    weights = _grid(weight=np.geomspace(5e-4, 6.4e-2, TRIALS))
    return [
        Method("zero_filled", "zero-filled", ZeroFilled),
        Method(
            "least_squares",
            "least squares, real",
            RealLeastSquares,
            _grid(iterations=np.array([1, 2, 3, 5, 8, 12, 20, 40])),
        ),
        Method("tv_complex", "TV, complex", partial(TotalVariation, real=False), weights),
        Method(TV_REAL, "TV, real", partial(TotalVariation, real=True), weights),
        Method("wavelets_complex", "wavelets, complex", partial(WaveletSparsity, real=False), weights),
        Method("wavelets_real", "wavelets, real", partial(WaveletSparsity, real=True), weights),
    ]


def prior_methods(priors: Mapping[str, ImagePrior], steps: int = 120) -> list[Method]:
    """Half-quadratic splitting with each prior, then deep density priors with each, ``NAME_ddp``.

    Args:
        priors: by name.
        steps: of the splitting.
    """
    splitting = _grid(phase_cycles=(0.0, PHASE_CYCLES), imaginary_std=(0.005, 0.02, 0.05, 0.15))
    published = _grid(sigma=(0.01, 0.02, 0.04, 0.08), share=(0.25, 0.5))
    return [
        *(
            Method(name, f"HQS, {name}", partial(_splitting, prior, steps=steps), splitting)
            for name, prior in priors.items()
        ),
        *(
            Method(f"{name}_ddp", f"DDP, {name}", partial(_deep_density, prior), published)
            for name, prior in priors.items()
        ),
    ]


def _splitting(prior: ImagePrior, phase_cycles: float, imaginary_std: float, steps: int) -> HalfQuadraticSplitting:
    """The splitting with a prior whose imaginary part has another deviation; 0 cycles keep the phase of the centre."""
    own: Any = copy.copy(prior)
    own.imaginary_std = imaginary_std
    return HalfQuadraticSplitting(own, steps, phase_cycles=phase_cycles or None)


def _deep_density(prior: ImagePrior, sigma: float, share: float) -> DeepDensityPrior:
    """DDP whose gradient step goes a share of the way to the denoised image."""
    return DeepDensityPrior(prior, sigma=sigma, step_size=share * sigma**2)


def _grid(**values: Any) -> tuple[Parameters, ...]:
    """All combinations of the values of parameters."""
    plain = {name: [x.item() if isinstance(x, np.generic) else x for x in given] for name, given in values.items()}
    return tuple(dict(zip(plain, combination, strict=True)) for combination in itertools.product(*plain.values()))
