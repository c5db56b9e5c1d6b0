"""What every model of images with a Gaussian latent can do once it encodes and decodes, and its kernel generator."""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from monai_blurvae.functional import gaussian_kernel

if TYPE_CHECKING:
    from monai_blurvae.metrics.likelihood import Likelihood


def unwrapped(network: Any) -> Any:
    """The network itself, with its methods and the names of its weights, where a parallel wrapper is around it."""
    return network.module if isinstance(network, DataParallel | DistributedDataParallel) else network


class VAEOutput(NamedTuple):
    """One forward pass.

    Attributes:
        reconstruction: decoder mean x̂ in [−1, 1], ``(B, C, *image_size)``.
        mu: posterior mean, ``(B, latent_size)``.
        log_var: posterior log σ², ``(B, latent_size)``.
        z: the latent that was decoded, ``(B, latent_size)``.
    """

    reconstruction: Tensor
    mu: Tensor
    log_var: Tensor
    z: Tensor


class LatentImageModel(nn.Module):
    """A variational autoencoder by its :meth:`encode` and :meth:`decode`.

    A subclass has these, :meth:`kernel`, the attributes below and a buffer ``voxel_size``, which tells the device.

    Attributes:
        latent_size: numbers in a latent.
        image_shape: ``[C, *image_size]``.
        spatial_dims: 2 or 3.
    """

    latent_size: int
    image_shape: list[int]
    spatial_dims: int

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log σ², ``(B, latent_size)`` each, of images ``(B, C, *image_size)``."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Decoder mean, ``(B, C, *image_size)``, of latents ``(B, latent_size)``."""
        raise NotImplementedError

    def kernel(self, z: Tensor) -> Tensor:
        """Blur kernels ``(B, 1, k, k)`` of latents ``(B, latent_size)``."""
        raise NotImplementedError

    def forward(self, x: Tensor, noise: Tensor | None = None) -> VAEOutput:
        """Encode, draw a latent, decode.

        Args:
            x: images in [−1, 1], ``(B, C, *image_size)``.
            noise: standard normal ``(B, latent_size)`` for z = μ + σ · noise. Without it a module in training
                mode draws its own, and a module in evaluation mode decodes μ.

        Returns:
            :class:`VAEOutput`.
        """
        mu, log_var = self.encode(x)
        if noise is None:
            noise = torch.randn_like(mu) if self.training else torch.zeros_like(mu)
        z = mu + torch.exp(0.5 * log_var) * noise
        return VAEOutput(self.decode(z), mu, log_var, z)

    def noise_shape(self, image_shape: Sequence[int]) -> tuple[int, int]:
        """Shape of the standard normal numbers that one pass over images of a shape ``(B, C, *image_size)`` needs."""
        return image_shape[0], self.latent_size

    @torch.no_grad()
    def reconstruct(
        self, x: Tensor, generator: torch.Generator | None = None, likelihood: Likelihood | None = None
    ) -> Tensor:
        """Reconstruct images from their posterior mean μ: the decoder's mean x̂(μ), or an image drawn from p(x|μ).

        Args:
            x: images in [−1, 1], ``(B, C, *image_size)``.
            generator: of random numbers, as in :meth:`sample`; without a likelihood there are none.
            likelihood: what to draw from, see :meth:`sample`.

        Returns:
            Like ``x``; a draw is not clipped to [−1, 1].
        """
        mu, _ = self.encode(x)
        return self._draw(mu, generator, likelihood)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, likelihood: Likelihood | None = None) -> Tensor:
        """Draw ``n`` latents z from N(0, I), and of each the decoder's mean x̂(z), or an image drawn from p(x|z).

        The mean is the average of all images that the model has for a latent, and smooth as averages are; a draw is one
        of these images. With generators of one state both have the same latents.

        Args:
            n: number of samples.
            generator: of random numbers; one of the CPU gives the same samples on every device.
            likelihood: p(x|z) as fitted around this decoder, see
                :func:`~monai_blurvae.metrics.fit_likelihoods`; None for the mean.

        Returns:
            ``(n, C, *image_size)``; means are in [−1, 1], draws have no bounds and are not clipped.
        """
        device = self.get_buffer("voxel_size").device
        origin = device if generator is None else generator.device
        z = torch.randn(n, self.latent_size, generator=generator, device=origin)
        return self._draw(z.to(device), generator, likelihood)

    def _draw(self, z: Tensor, generator: torch.Generator | None, likelihood: Likelihood | None) -> Tensor:
        mean = self.decode(z)
        return mean if likelihood is None else likelihood.sample(mean, z, generator)


def as_reconstructor(network: LatentImageModel) -> LatentImageModel:
    """The same network with another forward: deterministic, x → x̂(μ), an image for an image, for inference and export.

    Args:
        network: to change.
    """
    network.forward = MethodType(_reconstruct, network)  # type: ignore[method-assign]
    return network


def _reconstruct(network: LatentImageModel, x: Tensor) -> Tensor:
    mu, _ = network.encode(x)
    return network.decode(mu)


def require_image_shape(x: Tensor, image_shape: list[int]) -> None:
    """Check what a network is given; in the part of Python that TorchScript knows.

    Args:
        x: ``(B, C, *image_size)``.
        image_shape: ``[C, *image_size]`` that the network takes.

    Raises:
        ValueError: if it is of another shape.
    """
    if list(x.shape[1:]) != image_shape:
        raise ValueError(
            f"the network takes images of shape (B, {image_shape}), but got {list(x.shape)}; "
            "cut or pad them to its patch size, and give them its number of channels."
        )


INITIAL_SIGMA = 1 / 6
"""Standard deviation of the Gaussian that the kernels start from, over their size: 1.8 pixels for 11."""


class KernelGenerator(nn.Module):
    """G_γ(z): two linear layers from a latent to one blur kernel for each image (appendix A of the paper).

    The channels of an image share its kernel. With the softmax, the biases of the last layer are such that the kernels
    start near a Gaussian: it takes thousands of iterations to empty the rim of a flat one, which until then tells
    nothing of the blur.

    Args:
        latent_size: size of the latent.
        kernel_size: odd size of the kernel along every axis.
        hidden_size: width of the hidden layer.
        normalization: ``"softmax"`` for kernels that are positive and sum to 1, or ``"none"`` for free kernels.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: for an even or non-positive ``kernel_size`` or an unknown ``normalization``.
    """

    def __init__(
        self,
        latent_size: int,
        kernel_size: int,
        hidden_size: int = 1000,
        normalization: str = "softmax",
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be a positive odd number, but is {kernel_size}.")
        if normalization not in ("softmax", "none"):
            raise ValueError(f"kernel normalization must be 'softmax' or 'none', but is {normalization!r}.")
        self.normalization = normalization
        self.kernel_shape = [1] + [kernel_size] * spatial_dims
        last = nn.Linear(hidden_size, kernel_size**spatial_dims)
        self.layers = nn.Sequential(nn.Linear(latent_size, hidden_size), nn.LeakyReLU(0.2), last)
        if normalization == "softmax":
            start = gaussian_kernel(kernel_size, (INITIAL_SIGMA * kernel_size) ** 2, spatial_dims).flatten()
            with torch.no_grad():
                last.bias.add_(start.log())

    def forward(self, z: Tensor) -> Tensor:
        """Kernels ``(B, 1, k, k)`` (``(B, 1, k, k, k)`` in 3-D) of latents ``(B, latent_size)``."""
        logits = self.layers(z)
        if self.normalization == "softmax":
            logits = torch.softmax(logits, dim=1)
        return logits.unflatten(1, self.kernel_shape)


def check_kernel_fits(kernel_size: int, image_size: int) -> None:
    """Check that a kernel is no larger than the images.

    Raises:
        ValueError: if it is.
    """
    if kernel_size > image_size:
        raise ValueError(f"kernel_size {kernel_size} is larger than the patch_size (image_size) {image_size}.")
