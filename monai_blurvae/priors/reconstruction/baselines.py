"""What a prior has to beat."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from monai_blurvae.priors.reconstruction.operator import CartesianMRI, conjugate_gradients
from monai_blurvae.priors.reconstruction.splitting import CENTRE_PHASE, as_complex, centre_phase


class ZeroFilled:
    """The adjoint: samples that were not taken are 0."""

    def __call__(
        self, kspace: Tensor, operator: CartesianMRI, noise_std: float = 0.0, phase: Tensor | None = None
    ) -> Tensor:
        """Aᴴ y, complex ``(B, 1, H, W)``; noise and phase are not used."""
        operator.check_kspace(kspace)
        return operator.adjoint(kspace)


class RealLeastSquares:
    """The image of a given phase and real values that fits best: conjugate symmetry fills in what was not sampled.

    Args:
        iterations: of conjugate gradients from 0, which regularise by being few.
    """

    phase_from = CENTRE_PHASE

    def __init__(self, iterations: int = 20) -> None:
        self.iterations = iterations

    @torch.no_grad()
    def __call__(
        self, kspace: Tensor, operator: CartesianMRI, noise_std: float = 0.0, phase: Tensor | None = None
    ) -> Tensor:
        """Complex ``(B, 1, H, W)``; ``phase`` is that of the centre of k-space by default, the noise is not used."""
        operator.check_kspace(kspace)
        phase = centre_phase(kspace, operator) if phase is None else phase
        turned = operator.with_phase(phase)
        right = turned.adjoint(kspace).real
        real = conjugate_gradients(lambda r: turned.normal(r.to(kspace.dtype)).real, right, self.iterations, 1e-6)
        return phase * real


class RegularisedLeastSquares(ABC):
    """½ ‖A x − y‖² + weight · g(x), minimised by deepinv's FISTA. Needs the extra ``recon``.

    Args:
        weight: of the regulariser g, where k-space is scaled so that the zero-filled 99th percentile is 1.
        real: take the phase out and let the image be real, the stronger baseline; else it is complex.
        iterations: of FISTA.
    """

    def __init__(self, weight: float, real: bool, iterations: int) -> None:
        self.weight = weight
        self.real = real
        self.iterations = iterations

    def __call__(
        self, kspace: Tensor, operator: CartesianMRI, noise_std: float = 0.0, phase: Tensor | None = None
    ) -> Tensor:
        """Complex ``(B, 1, H, W)``; ``phase`` is that of the centre of k-space by default, the noise is not used."""
        from monai_blurvae.priors import deepinv_adapter as adapter

        operator.check_kspace(kspace)
        if not self.real:
            return as_complex(self._minimise(adapter.to_measurements(kspace, operator), adapter.to_physics(operator)))
        phase = centre_phase(kspace, operator) if phase is None else phase
        physics = adapter.RealMRI(operator, phase)
        return phase * self._minimise(physics.to_measurements(kspace), physics)

    @abstractmethod
    def _regulariser(self) -> Any:
        """The g of one minimisation, deepinv's ``Prior``, over images ``(B, 1, H, W)`` or ``(B, 2, H, W)``."""

    def _minimise(self, measurements: Tensor, physics: object) -> Tensor:
        from deepinv.optim import FISTA
        from deepinv.optim.data_fidelity import L2

        solver = FISTA(L2(), self._regulariser(), lambda_reg=self.weight, stepsize=1.0, max_iter=self.iterations)
        image: Tensor = solver(measurements, physics)
        return image


class TotalVariation(RegularisedLeastSquares):
    """The total variation as regulariser: deepinv's, isotropic with forward differences.

    FISTA's inner solver of the TV's proximal step begins where it stopped before.

    Args:
        weight: of the total variation, see :class:`RegularisedLeastSquares`.
        real: see there; of complex images real and imaginary part have a total variation each.
        iterations: of FISTA.
        inner_iterations: of its proximal step.
    """

    def __init__(
        self, weight: float = 2e-3, real: bool = True, iterations: int = 100, inner_iterations: int = 20
    ) -> None:
        super().__init__(weight, real, iterations)
        self.inner_iterations = inner_iterations

    def _regulariser(self) -> Any:
        from deepinv.optim.prior import TVPrior

        return TVPrior(def_crit=1e-6, n_it_max=self.inner_iterations)


class WaveletSparsity(RegularisedLeastSquares):
    """The sum of the moduli of the wavelet coefficients as regulariser, that of Lustig et al. 2007.

    The grid of the wavelets is shifted at random from step to step (cycle spinning), without which edges have ripples.
    PyWavelets does the transform.

    Args:
        weight: of the regulariser, see :class:`RegularisedLeastSquares`.
        real: see there; of complex images real and imaginary part are shrunk together.
        iterations: of FISTA.
        wavelet: PyWavelets' name of an orthogonal one.
        levels: of the decomposition.
        seed: of the shifts.
    """

    def __init__(
        self,
        weight: float = 5e-3,
        real: bool = True,
        iterations: int = 100,
        wavelet: str = "db4",
        levels: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(weight, real, iterations)
        self.wavelet = wavelet
        self.levels = levels
        self.seed = seed

    def _regulariser(self) -> Any:
        from monai_blurvae.priors.reconstruction.wavelets import WaveletPrior

        return WaveletPrior(self.wavelet, self.levels, self.seed)
