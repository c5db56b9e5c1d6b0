"""What a prior has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_blurvae.priors.reconstruction.operator import CartesianMRI, conjugate_gradients
from monai_blurvae.priors.reconstruction.phase import centre_phase
from monai_blurvae.priors.reconstruction.splitting import CENTRE_PHASE, as_complex


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


class TotalVariation:
    """½ ‖A x − y‖² + weight · TV(x), minimised by deepinv's FISTA, whose isotropic TV has forward differences.

    Needs the extra ``recon``. FISTA's inner solver of the TV's proximal step begins where it stopped before.

    Args:
        weight: of the total variation, where k-space is scaled so that the zero-filled 99th percentile is 1.
        real: take the phase out and let the image be real, the stronger baseline; else real and imaginary part have a
            total variation each.
        iterations: of FISTA.
        inner_iterations: of its proximal step.
    """

    def __init__(
        self, weight: float = 2e-3, real: bool = True, iterations: int = 100, inner_iterations: int = 20
    ) -> None:
        self.weight = weight
        self.real = real
        self.iterations = iterations
        self.inner_iterations = inner_iterations

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

    def _minimise(self, measurements: Tensor, physics: object) -> Tensor:
        from deepinv.optim import FISTA
        from deepinv.optim.data_fidelity import L2
        from deepinv.optim.prior import TVPrior

        prior = TVPrior(def_crit=1e-6, n_it_max=self.inner_iterations)
        solver = FISTA(L2(), prior, lambda_reg=self.weight, stepsize=1.0, max_iter=self.iterations)
        image: Tensor = solver(measurements, physics)
        return image
