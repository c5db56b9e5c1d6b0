"""The density of a trained model of patches over images of any size, and the ways to take the integral of it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_blurvae.errors import RunFolderError
from monai_blurvae.functional import Scored, diagonal_log_prob, kl_standard_normal, weighted_score
from monai_blurvae.handlers.checkpoint import load_safely
from monai_blurvae.networks import PatchMixture, PatchModel, PatchVAE
from monai_blurvae.priors.patch_prior import PatchPrior, ScoredPatches
from monai_blurvae.run_files import MODEL, PACKED, is_packed_zip, unpack


def bank_score(network: PatchModel, y: Tensor, sigma: float, noise: Tensor) -> Scored:
    """The density of the network in closed form: over its bank of latents, or over all of them where they are discrete.

    Args:
        network: of either kind.
        y: coefficients with noise, ``(N, D)``.
        sigma: standard deviation of the noise on [−1, 1].
        noise: not used.
    """
    return network.density(y, sigma)


def encoder_score(network: PatchVAE, y: Tensor, sigma: float, noise: Tensor) -> Scored:
    """The ELBO with S latents from q(z|y, σ), whose gradient holds q and the latents fixed.

    Args:
        network: both halves of it.
        y: coefficients with noise, ``(N, D)``.
        sigma: standard deviation of the noise on [−1, 1].
        noise: standard normal, ``(N, S, latent_size)``.
    """
    mu, log_var = network.encode(y, sigma)
    mean, variance = _decoded(network, _latents(mu, log_var, noise), sigma)
    likelihood = diagonal_log_prob(y[:, None], mean, variance)
    weight = torch.full_like(likelihood, 1 / noise.shape[1])
    return Scored(likelihood.mean(1) - kl_standard_normal(mu, log_var), weighted_score(y, mean, variance, weight))


def importance_score(network: PatchVAE, y: Tensor, sigma: float, noise: Tensor) -> Scored:
    """Log of the mean importance weight p(y|z) p(z) / q(z|y, σ) of S latents from q; arguments as of the encoder's.

    Its gradient holds q and the latents fixed, so that it is that of a mixture whose weights are p(z) / q(z|y, σ).
    """
    mu, log_var = network.encode(y, sigma)
    z = _latents(mu, log_var, noise)
    mean, variance = _decoded(network, z, sigma)
    log_ratio = 0.5 * (noise.square() - z.square() + log_var[:, None]).sum(2)
    log_weight = diagonal_log_prob(y[:, None], mean, variance) + log_ratio
    log_prob = torch.logsumexp(log_weight, 1) - math.log(noise.shape[1])
    return Scored(log_prob, weighted_score(y, mean, variance, torch.softmax(log_weight, 1)))


SCORES: dict[str, Callable[..., Scored]] = {
    "bank": bank_score,
    "encoder": encoder_score,
    "importance": importance_score,
}
"""By the name of the inference."""


def _latents(mu: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    return mu[:, None] + torch.exp(0.5 * log_var)[:, None] * noise


def _decoded(network: PatchVAE, z: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Mean and variance, that of the noise included, of latents ``(N, S, latent_size)``."""
    mean, variance = network.decode(z.flatten(0, 1))
    return mean.unflatten(0, z.shape[:2]), variance.unflatten(0, z.shape[:2]) + sigma**2


class PatchVAEPrior(PatchPrior):
    """Log-density, gradient and denoiser of images under a :class:`~monai_blurvae.networks.PatchModel`.

    The integral over the latent, p_σ(y) = ∫ p_σ(y|z) N(z; 0, I) dz, is taken in one of three ways, of which
    a :class:`~monai_blurvae.networks.PatchMixture`, which sums over its discrete latents, has the first alone:

    - ``"bank"``: the mean over the network's fixed bank of K latents, a mixture of K Gaussians in closed form. It needs
      no encoder, and is a density in its own right; at a high KL no latent of the bank is near, and it is refused.
    - ``"encoder"``: the ELBO, with ``samples`` latents from q(z|y, σ).
    - ``"importance"``: the log of the mean importance weight of ``samples`` latents from q(z|y, σ).

    For the gradient q and the latents drawn from it are held fixed, as the envelope theorem has it for the best q. The
    autograd of ``grad`` and ``denoise`` is the exact derivative of these functions in all three: that of the bank is
    the Hessian of log p; the others' goes through the encoder, too, and need not be symmetric.

    Args:
        network: the model, used in evaluation mode.
        inference: ``"bank"``, ``"encoder"`` or ``"importance"``.
        stride: wanted distance of neighbouring patches.
        intensity: (low, high) of the images, see :class:`~monai_blurvae.priors.PatchPrior`. A training scales images
            so that the first percentile of a volume is −1 and the 99th is 1.
        imaginary_std: of complex images, see there.
        samples: latents for each patch, not for the bank.
        seed: of these.
        chunk_size: patches that are looked at together.

    Raises:
        ValueError: for an argument out of its range, or a bank whose mean log-density on held-out patches, as the
            training recorded it, is below the encoder's bound.

    Example:
        >>> prior = PatchVAEPrior.load("outputs/prior/0001")  # doctest: +SKIP
        >>> prior.denoise(images, sigma=0.05)  # doctest: +SKIP
    """

    def __init__(
        self,
        network: PatchModel,
        inference: str = "bank",
        stride: int = 2,
        intensity: tuple[float, float] = (0.0, 1.0),
        imaginary_std: float | None = None,
        samples: int = 8,
        seed: int = 0,
        chunk_size: int = 512,
    ) -> None:
        if inference not in SCORES:
            raise ValueError(f"inference must be one of {tuple(SCORES)}, but is {inference!r}.")
        if samples < 1:
            raise ValueError(f"samples must be positive, but is {samples}.")
        super().__init__(network.patch_size, stride, intensity, imaginary_std, seed, chunk_size)
        if inference == "bank":
            _require_bank(network)
        elif not isinstance(network, PatchVAE):
            raise ValueError(
                f"inference is {inference!r}, but a {type(network).__name__} sums over all latents and has no encoder; "
                "take 'bank'."
            )
        self.network = network.eval()
        self.inference = inference
        self.samples = samples

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> PatchVAEPrior:
        """The prior of a trained model.

        Args:
            path: a run's folder, a packed bundle or its zip, or a file of weights.
            **options: further arguments of the class.

        Raises:
            RunFolderError: if there is no trained model of patches.
            ValueError: as the class.
        """
        weights, file = _weights(Path(path).expanduser())
        calibration = weights.get("calibration") if isinstance(weights, dict) else None
        if not isinstance(calibration, Tensor):
            raise RunFolderError(f"{file} holds no model of patches; give a run of bundles/patch_prior.")
        if not bool(torch.isfinite(calibration).all()):
            raise RunFolderError(f"{file} records no training of its weights; give the model of a run.")
        return cls(_network_of(weights), **options)

    @property
    def voxel_size(self) -> tuple[float, ...]:
        """Voxel size of the training images in mm along each axis, 0 where it is unknown."""
        return tuple(float(size) for size in self.network.voxel_size)

    def train(self, mode: bool = True) -> PatchVAEPrior:
        """Stay in evaluation mode."""
        return super().train(False)

    def patch_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Standard normal ``(count, samples, latent_size)``; none for the bank."""
        if self.inference == "bank":
            return super().patch_noise(count, generator)
        return torch.randn(count, self.samples, self.network.latent_noise, generator=generator)

    def patch_score(self, patches: Tensor, sigma: float, noise: Tensor) -> ScoredPatches:
        """See :meth:`PatchPrior.patch_score`."""
        scored = SCORES[self.inference](self.network, self.network.coefficients(patches), sigma, noise)
        return ScoredPatches(scored.log_prob, self.network.patches(scored.score))


def bank_misses(network: PatchModel) -> bool:
    """Whether the training found the mean log-density of the bank below the encoder's bound, on held-out patches."""
    _, elbo, bank = network.calibration.mean(0).tolist()
    return bool(bank < elbo)


def _require_bank(network: PatchModel) -> None:
    if isinstance(network, PatchVAE) and bank_misses(network):
        _, elbo, bank = network.calibration.mean(0).tolist()
        raise ValueError(
            f"the bank of {len(network.bank)} latents has a mean log-density of {bank:.2f} nats a patch on held-out "
            f"patches, below the encoder's bound of {elbo:.2f}, so that it misses what the model knows; take the "
            "inference 'importance' or 'encoder'."
        )


def _weights(path: Path) -> tuple[dict[str, Any], Path]:
    """The content of the file of weights that a path stands for, and that file."""
    if path.is_dir():
        found = next((path / name for name in (MODEL, PACKED[1]) if (path / name).is_file()), None)
        if found is None:
            raise RunFolderError(f"{path} holds no {MODEL}; give the folder of a training, or a packed bundle.")
        return load_safely(found), found
    if is_packed_zip(path):
        with tempfile.TemporaryDirectory() as folder:
            return load_safely(unpack(path, Path(folder)) / PACKED[1]), path
    return load_safely(path), path


def _network_of(weights: dict[str, Tensor]) -> PatchModel:
    """The network, whose kind and sizes are those of its weights."""
    patch_size = math.isqrt(len(weights["scale"]))
    network: PatchModel
    if "bank" in weights:
        hidden, latent = weights["decoder.0.weight"].shape
        network = PatchVAE(patch_size, latent, hidden, bank_size=len(weights["bank"]))
    else:
        network = PatchMixture(patch_size, *weights["logits"].shape)
    network.load_state_dict(weights)
    return network
