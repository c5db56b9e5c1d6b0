"""The network as it leaves: with its fitted density, in the part of Python that TorchScript knows.

TorchScript reads the annotations of a class, so that they are no texts here.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from monai_blurvae.functional import annuli, gaussian_log_normalizer, spectral_sum
from monai_blurvae.networks import LatentImageModel, require_image_shape
from monai_blurvae.seeding import numpy_rng

LATENTS = 16
"""Latents of each bound, as ``importance_samples`` of an evaluation."""


class ScriptableModel(nn.Module):
    """A network, reconstructing, with samples and a log-density, for ``torch.jit.script``.

    ``log_prob`` draws nothing: the normal numbers of its latents are a buffer, those of
    ``evidence_bounds(…, samples=16, seed=0)`` for a first image, so that an image has one value on every machine.

    Args:
        network: tells the sizes.
        parts: what has its ``encode``, ``decode`` and ``kernel``, in a form that TorchScript takes.
        variances: S_j > 0 of the fitted :class:`~monai_blurvae.metrics.likelihood.Densities`, half spectra
            ``(1, C, *half)``; None where there are none, and ``log_prob`` says so.
    """

    noise: Tensor
    precision: Tensor
    log_normalizer: Tensor
    voxel_size: Tensor

    def __init__(self, network: LatentImageModel, parts: Any, variances: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.parts = parts
        self.latent_size = network.latent_size
        self.image_shape = network.image_shape
        numbers = numpy_rng(0, "posterior", 0).standard_normal(LATENTS * self.latent_size)
        self.register_buffer("noise", torch.from_numpy(numbers).float().view(LATENTS, -1))
        precision, log_normalizer = _densities(variances, self.image_shape)
        self.register_buffer("precision", precision)
        self.register_buffer("log_normalizer", log_normalizer)
        self.register_buffer("voxel_size", network.get_buffer("voxel_size"))

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions from the posterior mean, in [−1, 1], of images in [−1, 1], both ``(B, C, *image_size)``."""
        mu, _ = self.encode(x)
        return self.decode(mu)

    @torch.jit.export
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log σ², ``(B, latent_size)`` each, of images in [−1, 1]."""
        require_image_shape(x, self.image_shape)
        mu, log_var = self.parts.encode(x)
        return mu, log_var

    @torch.jit.export
    def decode(self, z: Tensor) -> Tensor:
        """Decoder mean, ``(B, C, *image_size)``, of latents ``(B, latent_size)``."""
        return self.parts.decode(z)

    @torch.jit.export
    def kernel(self, z: Tensor) -> Tensor:
        """Blur kernels ``(B, 1, k, k)`` of latents ``(B, latent_size)``."""
        return self.parts.kernel(z)

    @torch.jit.export
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Decoder means in [−1, 1], ``(n, C, *image_size)``, of latents from N(0, I), a function of the seed."""
        generator = torch.Generator(device=torch.device("cpu"))
        generator.manual_seed(seed)
        z = torch.randn([n, self.latent_size], generator=generator)
        return self.decode(z.to(self.noise.device))

    @torch.jit.export
    def log_prob(self, x: Tensor, likelihood: str = "spectrum") -> Tensor:
        """Importance-weighted lower bound of log p(x) in nats, float64, ``(B,)``, of images in [−1, 1].

        log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x) with K = 16 latents (Burda et al., ICLR 2016), under the Gaussian
        that was fitted around the decoder on validation images, with all constants.

        Args:
            x: images in [−1, 1], ``(B, C, *image_size)``.
            likelihood: ``"spectrum"``, one variance for each spatial frequency, or ``"variance"``, one for all.
        """
        if likelihood not in ("variance", "spectrum"):
            raise ValueError("likelihood must be 'spectrum' or 'variance'.")
        if self.precision.shape[0] == 0:
            raise ValueError("no density was fitted for this model, since its validation images were not there.")
        row = 0 if likelihood == "variance" else 1
        mu, log_var = self.encode(x)
        weights: list[Tensor] = []
        for k in range(self.noise.shape[0]):  # one latent at a time bounds the memory
            noise = self.noise[k]
            z = mu + torch.exp(0.5 * log_var) * noise
            log_ratio = 0.5 * (noise.double().square() + log_var.double() - z.double().square()).sum(1)
            # In float64, since a log-density of thousands of nats is compared to fractions of one.
            residual = x.double() - self.decode(z).double()
            spectrum = torch.view_as_real(torch.fft.rfftn(residual, dim=self._axes(residual), norm="ortho"))
            squares = (spectrum.square().sum(-1) * self.precision[row]).flatten(1).sum(1)
            weights.append(log_ratio - 0.5 * squares)
        bound = torch.logsumexp(torch.stack(weights, 1), 1) - math.log(self.noise.shape[0])
        return bound + self.log_normalizer[row]

    def _axes(self, x: Tensor) -> list[int]:
        return [axis for axis in range(2, x.dim())]  # noqa: C416 - TorchScript knows no list(range(…)) of this kind


def _densities(variances: Mapping[str, Tensor] | None, image_shape: list[int]) -> tuple[Tensor, Tensor]:
    """Of each density 1 / S_j, times 2 where the half spectrum stands for two frequencies, and its log-normaliser."""
    channels, *size = image_shape
    half = [*size[:-1], size[-1] // 2 + 1]
    if variances is None:
        return torch.zeros(0, channels, *half, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    spectra = [variances[name].double().expand(1, channels, *half) for name in ("variance", "spectrum")]
    multiplicity = annuli(tuple(size), torch.float64, torch.device("cpu")).multiplicity
    constant = gaussian_log_normalizer(math.prod(image_shape))
    normalizers = torch.cat([-0.5 * spectral_sum(spectrum.log(), size) - constant for spectrum in spectra])
    return multiplicity / torch.cat(spectra), normalizers
