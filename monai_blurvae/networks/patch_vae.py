"""A variational autoencoder of small patches with noise, whose covariance depends on the latent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from monai_blurvae.functional import dct_matrix, image_of, patches_of, without_autocast
from monai_blurvae.seeding import torch_rng

LOG_VAR_LIMIT = 10.0
"""Largest |log σ²| of the posterior."""
VARIANCE_RANGE = (1e-6, 1e2)
"""Of the variances of the coefficients: the lower bound is a standard deviation of 0.1 % of the image's range."""
SIGMAS = (0.01, 0.02, 0.05, 0.1)
"""Noise levels of evaluations and of the calibration, standard deviations of images in [0, 1]."""
MODEL_RANGE = 2.0
"""Length of [−1, 1]: a σ on it is so many times that on [0, 1]."""


class PatchVAEOutput(NamedTuple):
    """One forward pass over the N patches of all images.

    Attributes:
        reconstruction: decoder means put together to images, ``(B, 1, H, W)``.
        mu: posterior mean, ``(N, latent_size)``.
        log_var: posterior log σ², ``(N, latent_size)``.
        z: the latent that was decoded, ``(N, latent_size)``.
        coefficients: DCT coefficients y of the patches with noise, ``(N, D)``.
        mean: of p(y|z), ``(N, D)``.
        variance: of p(y|z), that of the noise included, ``(N, D)``.
    """

    reconstruction: Tensor
    mu: Tensor
    log_var: Tensor
    z: Tensor
    coefficients: Tensor
    mean: Tensor
    variance: Tensor


class PatchVAE(nn.Module):
    """VAE of patches y = x + σ n with noise of known σ: p(y|z) = N(m(z), diag v(z) + σ²) in the orthonormal DCT.

    The decoder gives a mean and a variance to each of the D = p² DCT coefficients of a patch, both functions of z,
    and knows nothing of the noise; so one model has the density of the patches under every noise. The encoder sees the
    coefficients with noise and σ. Everything is in the scale of the images, [−1, 1], and computed without autocast.

    Args:
        patch_size: side p of the patches.
        latent_size: size of the latent.
        hidden_size: width of the two hidden layers of encoder and decoder.
        sigma_range: smallest and largest σ of a training, on [−1, 1], between which its logarithm is uniform; twice
            what it is on [0, 1].
        bank_size: number K of latents in the buffer ``bank``, drawn once from N(0, I).

    Attributes:
        bank: ``(K, latent_size)``; the equal mixture of p(y|z) over it stands for p(y).
        voxel_size: mm along each axis of the training images, 0 where it is unknown.
        calibration: of held-out patches a row (σ on [0, 1], mean ELBO, mean log-density of the bank's mixture, both in
            nats a patch on [−1, 1]) for each of :data:`SIGMAS`; NaN before the first validation of a training.

    Raises:
        ValueError: naming the argument that does not fit.

    Example:
        >>> PatchVAE()(torch.zeros(2, 1, 64, 64)).mean.shape
        torch.Size([128, 64])
    """

    bank: Tensor
    scale: Tensor
    voxel_size: Tensor
    calibration: Tensor

    def __init__(
        self,
        patch_size: int = 8,
        latent_size: int = 12,
        hidden_size: int = 256,
        sigma_range: Sequence[float] = (0.01, 0.3),
        bank_size: int = 256,
    ) -> None:
        super().__init__()
        for name, value in (("patch_size", patch_size), ("latent_size", latent_size), ("hidden_size", hidden_size)):
            if value < 1:
                raise ValueError(f"{name} must be positive, but is {value}.")
        if len(sigma_range) != 2 or not 0 < sigma_range[0] <= sigma_range[1]:
            raise ValueError(f"sigma_range must be two positive numbers, the smaller first, but is {sigma_range}.")
        if bank_size < 1:
            raise ValueError(f"bank_size must be positive, but is {bank_size}.")
        self.patch_size = patch_size
        self.latent_size = latent_size
        self.sigma_range = (float(sigma_range[0]), float(sigma_range[1]))
        dimensions = patch_size**2
        self.encoder = _mlp(2 * dimensions + 1, hidden_size, 2 * latent_size)
        self.decoder = _mlp(latent_size, hidden_size, 2 * dimensions)
        self.register_buffer("bank", torch.randn(bank_size, latent_size, generator=torch_rng(0, "bank")))
        # of power spectra that fall with the square of the frequency, as those of images do
        frequency = torch.arange(patch_size, dtype=torch.float32)
        power = 1 / (1 + frequency[:, None] ** 2 + frequency[None] ** 2).flatten()
        self.register_buffer("scale", power.sqrt())
        self.register_buffer("voxel_size", torch.zeros(2))
        self.register_buffer("calibration", torch.full((len(SIGMAS), 3), torch.nan))

    def noise_shape(self, image_shape: Sequence[int]) -> tuple[int, int]:
        """Shape of the standard normal numbers that one pass over images of a shape (B, 1, H, W) needs."""
        patches = math.prod(image_shape) // self.patch_size**2
        return patches, self.patch_size**2 + self.latent_size + 1

    def forward(self, x: Tensor, noise: Tensor | None = None) -> PatchVAEOutput:
        """Cut images into patches side by side, add noise, encode, draw a latent, decode.

        Args:
            x: images in [−1, 1], ``(B, 1, H, W)``, both sides multiples of ``patch_size``.
            noise: standard normal numbers of :meth:`noise_shape`: of the pixels, the latents and the levels σ. Without
                them a module in training mode draws its own, and a module in evaluation mode takes zeros: no noise
                under the σ in the middle of the range, and z = μ.

        Returns:
            :class:`PatchVAEOutput`.

        Raises:
            ValueError: for images of another shape.
        """
        p = self.patch_size
        if x.ndim != 4 or x.shape[1] != 1 or x.shape[2] % p or x.shape[3] % p:
            raise ValueError(
                f"the network takes images (B, 1, H, W) with H and W multiples of the {p} pixels of its patches, but "
                f"got {tuple(x.shape)}; cut or pad them."
            )
        if noise is None:
            shape = self.noise_shape(x.shape)
            noise = torch.randn(shape, device=x.device) if self.training else torch.zeros(shape, device=x.device)
        pixels, latents, levels = noise.split([p**2, self.latent_size, 1], 1)
        with without_autocast(x.device):  # half precision would be a noise of its own, as large as the smallest σ
            sigma = self._sigma(levels)
            y = self.coefficients(patches_of(x, p, p).flatten(0, 1)) + sigma * pixels
            mu, log_var = self.encode(y, sigma)
            z = mu + torch.exp(0.5 * log_var) * latents
            mean, variance = self.decode(z)
            decoded = image_of(self.patches(mean).unflatten(0, (len(x), -1)), x.shape[2:], p)
        return PatchVAEOutput(decoded, mu, log_var, z, y, mean, variance + sigma.square())

    def coefficients(self, patches: Tensor) -> Tensor:
        """Orthonormal DCT of patches ``(N, p, p)``, ``(N, D)``."""
        d = dct_matrix(self.patch_size, patches.dtype, patches.device)
        return (d @ patches @ d.T).flatten(1)

    def patches(self, coefficients: Tensor) -> Tensor:
        """Patches ``(N, p, p)`` of their coefficients ``(N, D)``."""
        d = dct_matrix(self.patch_size, coefficients.dtype, coefficients.device)
        return d.T @ coefficients.unflatten(1, (self.patch_size, self.patch_size)) @ d

    def encode(self, y: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """Posterior mean and log σ² (within ±10), ``(N, latent_size)`` each.

        Args:
            y: coefficients with noise, ``(N, D)``.
            sigma: standard deviation of the noise on [−1, 1], a number or ``(N, 1)``.
        """
        sigma = torch.as_tensor(sigma, dtype=y.dtype, device=y.device).expand(len(y), 1)
        signal = y / (self.scale + sigma)
        contrast = torch.asinh(y / sigma.clamp_min(self.sigma_range[0]))
        features = torch.cat([signal, contrast, sigma.clamp_min(self.sigma_range[0]).log()], 1)
        mu, log_var = self.encoder(features).chunk(2, 1)
        return mu, log_var.clamp(-LOG_VAR_LIMIT, LOG_VAR_LIMIT)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the coefficients without noise, ``(N, D)`` each, of latents ``(N, latent_size)``."""
        mean, log_var = self.decoder(z).chunk(2, 1)
        return mean * self.scale, (log_var.exp() * self.scale.square()).clamp(*VARIANCE_RANGE)

    def vae_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters, those of encoder and decoder."""
        yield from self.parameters()

    def _sigma(self, level: Tensor) -> Tensor:
        """Log-uniform σ of standard normal numbers."""
        low, high = map(math.log, self.sigma_range)
        return torch.exp(low + (high - low) * torch.special.ndtr(level))


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, outputs)
    )
