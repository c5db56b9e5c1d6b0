"""What all models of small patches with noise have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from monai_blurvae.functional import Scored, dct_matrix

VARIANCE_RANGE = (1e-6, 1e2)
"""Of the variances of the coefficients: the lower bound is a standard deviation of 0.1 % of the image's range."""
SIGMAS = (0.01, 0.02, 0.05, 0.1)
"""Noise levels of evaluations and of the calibration, standard deviations of images in [0, 1]."""
MODEL_RANGE = 2.0
"""Length of [−1, 1]: a σ on it is so many times that on [0, 1]."""


class PatchModel(nn.Module, ABC):
    """A density of patches y = x + σ n with noise of known σ, in the orthonormal DCT.

    Everything is in the scale of the images, [−1, 1], and computed without autocast.

    Args:
        patch_size: side p of the patches, of which the DCT has D = p² coefficients.
        sigma_range: smallest and largest σ of a training, on [−1, 1], between which its logarithm is uniform; twice
            what it is on [0, 1].

    Attributes:
        scale: rough standard deviation of each coefficient in units of that of the mean, ``(D,)``.
        voxel_size: mm along each axis of the training images, 0 where it is unknown.
        calibration: of held-out patches a row (σ on [0, 1], mean ELBO, mean log-density, that of the bank for a
            :class:`~monai_blurvae.networks.PatchVAE`, both in nats a patch on [−1, 1]) for each of :data:`SIGMAS`; NaN
            before the first validation of a training.

    Raises:
        ValueError: naming the argument that does not fit.
    """

    scale: Tensor
    voxel_size: Tensor
    calibration: Tensor

    def __init__(self, patch_size: int, sigma_range: Sequence[float]) -> None:
        super().__init__()
        if patch_size < 1:
            raise ValueError(f"patch_size must be positive, but is {patch_size}.")
        if len(sigma_range) != 2 or not 0 < sigma_range[0] <= sigma_range[1]:
            raise ValueError(f"sigma_range must be two positive numbers, the smaller first, but is {sigma_range}.")
        self.patch_size = patch_size
        self.sigma_range = (float(sigma_range[0]), float(sigma_range[1]))
        # of power spectra that fall with the square of the frequency, as those of images do
        frequency = torch.arange(patch_size, dtype=torch.float32)
        power = 1 / (1 + frequency[:, None] ** 2 + frequency[None] ** 2).flatten()
        self.register_buffer("scale", power.sqrt())
        self.register_buffer("voxel_size", torch.zeros(2))
        self.register_buffer("calibration", torch.full((len(SIGMAS), 3), torch.nan))

    @property
    @abstractmethod
    def latent_noise(self) -> int:
        """How many standard normal numbers the latent of a patch is drawn with."""

    @property
    @abstractmethod
    def latents(self) -> int:
        """How many latents :meth:`density` sums over."""

    @abstractmethod
    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws from the prior of the latent: means of the coefficients without noise, and draws around them.

        Args:
            noise: standard normal, ``(N, D + latent_noise + 1)``, as of :meth:`noise_shape`.

        Returns:
            ``(N, D)`` each.
        """

    @abstractmethod
    def density(self, y: Tensor, sigma: float) -> Scored:
        """Log-density of patches with noise in closed form, and its gradient.

        Args:
            y: coefficients with noise, ``(N, D)``.
            sigma: standard deviation of the noise on [−1, 1].
        """

    @abstractmethod
    def bound(self, y: Tensor, sigma: float, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The evidence lower bound of log p of patches, and the KL of their latents, ``(N,)`` each.

        Args:
            y: coefficients with noise, ``(N, D)``.
            sigma: standard deviation of the noise on [−1, 1].
            noise: standard normal, ``(N, latent_noise)``.
        """

    def noise_shape(self, image_shape: Sequence[int]) -> tuple[int, int]:
        """Shape of the standard normal numbers that one pass over images of a shape (B, 1, H, W) needs."""
        return math.prod(image_shape) // self.patch_size**2, self.patch_size**2 + self.latent_noise + 1

    def coefficients(self, patches: Tensor) -> Tensor:
        """Orthonormal DCT of patches ``(N, p, p)``, ``(N, D)``."""
        d = dct_matrix(self.patch_size, patches.dtype, patches.device)
        return (d @ patches @ d.T).flatten(1)

    def patches(self, coefficients: Tensor) -> Tensor:
        """Patches ``(N, p, p)`` of their coefficients ``(N, D)``."""
        d = dct_matrix(self.patch_size, coefficients.dtype, coefficients.device)
        return d.T @ coefficients.unflatten(1, (self.patch_size, self.patch_size)) @ d

    def vae_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters."""
        yield from self.parameters()

    def _noise(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """The noise of a pass, once the images are known to fit: drawn in training mode, else 0."""
        p = self.patch_size
        if x.ndim != 4 or x.shape[1] != 1 or x.shape[2] % p or x.shape[3] % p:
            raise ValueError(
                f"the network takes images (B, 1, H, W) with H and W multiples of the {p} pixels of its patches, but "
                f"got {tuple(x.shape)}; cut or pad them."
            )
        if noise is not None:
            return noise
        shape = self.noise_shape(x.shape)
        return torch.randn(shape, device=x.device) if self.training else torch.zeros(shape, device=x.device)

    def _sigma(self, level: Tensor) -> Tensor:
        """Log-uniform σ of standard normal numbers."""
        low, high = map(math.log, self.sigma_range)
        return torch.exp(low + (high - low) * torch.special.ndtr(level))
