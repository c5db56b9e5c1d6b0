"""A prior in deepinv's optimisers, samplers and physics. Needs the extra ``recon``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_blurvae.errors import SettingsError
from monai_blurvae.priors.patch_prior import ImagePrior, Sigma
from monai_blurvae.priors.reconstruction.operator import CartesianMRI
from monai_blurvae.priors.reconstruction.splitting import as_channels

try:
    from deepinv.models import Denoiser
    from deepinv.optim import Prior
    from deepinv.physics import MRI, LinearPhysics, MultiCoilMRI
except ImportError as error:
    raise ImportError("deepinv is not installed; run pip install 'monai-blurvae[recon]'.") from error


class DeepinvPrior(Prior):
    """g_σ(x) = −log p_σ(x) as an explicit prior of deepinv, whose ``g_param`` (``sigma_denoiser``) is σ.

    ``prox`` is the posterior mean E[image | x] at σ, whatever ``gamma`` is, as deepinv's own plug-and-play priors have
    it: not the minimiser of γ g(u) + ‖u − x‖²/2. HQS, PGD, ADMM and the like are then plug-and-play methods, and the
    cost that they record, which is explicit, need not fall; gradient descent does descend on it.

    Args:
        prior: the density.
        sigma: σ where an optimiser gives none.
        phase: taken out of complex images, ``(B, 1, H, W)`` of modulus 1; images are ``(B, 2, H, W)``, or without it
            ``(B, 1, H, W)``.

    Raises:
        SettingsError: when called, where there is no σ.
    """

    def __init__(self, prior: ImagePrior, sigma: float | None = None, phase: Tensor | None = None) -> None:
        super().__init__()
        self.explicit_prior = True
        self.prior = prior
        self.sigma = sigma
        self.phase = phase

    def fn(self, x: Tensor, sigma: Sigma | None = None, *args: Any, **kwargs: Any) -> Tensor:
        """−log p_σ(x) in nats, ``(B,)``."""
        return -self.prior.log_prob(x, self._sigma(sigma, x), phase=self.phase)

    def grad(self, x: Tensor, sigma: Sigma | None = None, *args: Any, **kwargs: Any) -> Tensor:
        """−∇ log p_σ(x) = (x − denoise(x, σ)) / σ²."""
        return -self.prior.grad(x, self._sigma(sigma, x), phase=self.phase)

    def prox(self, x: Tensor, sigma: Sigma | None = None, *args: Any, **kwargs: Any) -> Tensor:
        """E[image | x] where x has white noise σ; ``gamma`` is not used."""
        return self.prior.denoise(x, self._sigma(sigma, x), phase=self.phase)

    def _sigma(self, sigma: Sigma | None, x: Tensor) -> Sigma:
        sigma = self.sigma if sigma is None else sigma
        if sigma is None:
            raise SettingsError("the prior needs a noise level; give the optimiser a g_param, or DeepinvPrior a sigma.")
        return _one_for_each(sigma, x)


class DeepinvDenoiser(Denoiser):
    """E[image | x] as a denoiser of deepinv, for its plug-and-play methods and diffusion samplers.

    Args:
        prior: the density, whose images are in the units that deepinv's are in, mostly [0, 1].
        phase: as of :class:`DeepinvPrior`.
    """

    def __init__(self, prior: ImagePrior, phase: Tensor | None = None) -> None:
        super().__init__()
        self.prior = prior
        self.phase = phase

    def forward(self, x: Tensor, sigma: Sigma, **kwargs: Any) -> Tensor:
        """The posterior mean, like ``x``; σ is a number, or one for each image."""
        return self.prior.denoise(x, _one_for_each(sigma, x), phase=self.phase)


class RealMRI(LinearPhysics):
    """deepinv's physics r ↦ A (phase · r) for real images r, ``(B, 1, H, W)``, once the phase is known.

    Measurements are as of deepinv's ``MultiCoilMRI``, ``(B, 2, N, H, W)``.

    Args:
        operator: A.
        phase: complex of modulus 1, ``(B, 1, H, W)``.
    """

    def __init__(self, operator: CartesianMRI, phase: Tensor) -> None:
        super().__init__()
        self.operator = operator.with_phase(phase)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Samples of a real image."""
        return self.to_measurements(self.operator.forward(torch.complex(x, torch.zeros_like(x))))

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """The real part of the zero-filled image."""
        return self.operator.adjoint(torch.view_as_complex(y.movedim(1, -1).contiguous())).real

    def to_measurements(self, kspace: Tensor) -> Tensor:
        """``(B, 2, N, H, W)`` of complex ``(B, N, H, W)``."""
        return torch.view_as_real(kspace).movedim(-1, 1)


def to_physics(operator: CartesianMRI) -> MRI | MultiCoilMRI:
    """Make deepinv's ``MRI`` of an operator, or its ``MultiCoilMRI`` where there are coil maps.

    Their images are ``(B, 2, H, W)``.
    """
    if operator.coil_maps is None:
        return MRI(mask=operator.mask)
    return MultiCoilMRI(mask=operator.mask, coil_maps=operator.coil_maps, device=operator.coil_maps.device)


def to_measurements(kspace: Tensor, operator: CartesianMRI) -> Tensor:
    """k-space ``(B, N, H, W)`` as the measurements of :func:`to_physics`: ``(B, 2, H, W)``, or ``(B, 2, N, H, W)``."""
    return as_channels(kspace) if operator.coil_maps is None else torch.view_as_real(kspace).movedim(-1, 1)


def _one_for_each(sigma: Sigma, x: Tensor) -> Sigma:
    """The σ of deepinv, which may have any number of axes of length 1, as ``(B,)``."""
    if not isinstance(sigma, Tensor):
        return sigma
    return sigma.to(x).flatten().expand(len(x)) if sigma.numel() == 1 else sigma.to(x).flatten()
