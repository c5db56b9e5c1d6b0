"""The density of a trained BlurVAE over images that are larger than its patches."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_blurvae.functional import kl_standard_normal
from monai_blurvae.metrics.likelihood import Likelihood
from monai_blurvae.networks import LatentImageModel
from monai_blurvae.priors.patch_prior import PatchPrior, ScoredPatches


class BlurVAEPrior(PatchPrior):
    """Evidence lower bound, its gradient and the denoiser of it, under a :class:`~monai_blurvae.networks.BlurVAE`.

    log p_σ(y) ≥ E_q[log N(y; x̂(z), Σ + σ²)] − KL(q(z|y) ‖ N(0, I)) for each patch, with a covariance Σ that was fitted
    around the decoder. As in the deep density priors of Tezcan et al. (2019) the encoder sees the patch as it is, noise
    and all; for the gradient and its derivative q and its latents are held fixed. One covariance for all latents acts
    much like a single Gaussian: for images use :class:`~monai_blurvae.priors.PatchVAEPrior`, and this one to compare.

    Args:
        network: the model of one channel in two dimensions, used in evaluation mode.
        likelihood: fitted around its decoder, see :func:`~monai_blurvae.metrics.fit_likelihoods`.
        stride: wanted distance of neighbouring patches; by default half of their size.
        intensity: (low, high) of the images, see :class:`~monai_blurvae.priors.PatchPrior`.
        imaginary_std: of complex images, see there.
        samples: latents for each patch.
        seed: of these.
        chunk_size: patches that are looked at together.

    Raises:
        ValueError: for a network of colour or volumes, or an argument out of its range.
    """

    def __init__(
        self,
        network: LatentImageModel,
        likelihood: Likelihood,
        stride: int | None = None,
        intensity: tuple[float, float] = (0.0, 1.0),
        imaginary_std: float | None = None,
        samples: int = 1,
        seed: int = 0,
        chunk_size: int = 64,
    ) -> None:
        channels, *size = network.image_shape
        if channels != 1 or len(size) != 2:
            raise ValueError(f"the network must take grey images in two dimensions, but takes {network.image_shape}.")
        if samples < 1:
            raise ValueError(f"samples must be positive, but is {samples}.")
        super().__init__(
            size[0], size[0] // 2 if stride is None else stride, intensity, imaginary_std, seed, chunk_size
        )
        self.network = network.eval()
        self.likelihood = likelihood
        self.samples = samples

    def train(self, mode: bool = True) -> BlurVAEPrior:
        """Stay in evaluation mode."""
        return super().train(False)

    def patch_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Standard normal ``(count, samples, latent_size)``."""
        return torch.randn(count, self.samples, self.network.latent_size, generator=generator)

    def patch_score(self, patches: Tensor, sigma: float, noise: Tensor) -> ScoredPatches:
        """See :meth:`PatchPrior.patch_score`."""
        noisy = self.likelihood.with_noise(sigma)
        with torch.no_grad():
            mu, log_var = self.network.encode(patches[:, None])
            z = (mu[:, None] + torch.exp(0.5 * log_var)[:, None] * noise).flatten(0, 1)
            mean = self.network.decode(z)
        with torch.enable_grad():
            y = (patches if patches.requires_grad else patches.detach().requires_grad_())[:, None]
            residual = y.repeat_interleave(self.samples, 0) - mean
            likelihood = noisy.log_prob(residual, z).unflatten(0, (-1, self.samples)).mean(1)
            (score,) = torch.autograd.grad(likelihood.sum(), y, create_graph=patches.requires_grad)
        return ScoredPatches(likelihood.detach() - kl_standard_normal(mu, log_var), score[:, 0])
