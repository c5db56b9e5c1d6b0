"""MONAI's autoencoder with spatial latents, the first stage of latent diffusion, with a kernel generator."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from monai.networks.blocks import Convolution
from monai.networks.nets.autoencoderkl import AutoencoderKL
from torch import Tensor, nn

from monai_blurvae.networks.latent_model import (
    KernelGenerator,
    LatentImageModel,
    check_kernel_fits,
    require_image_shape,
)


class SpatialKernelGenerator(nn.Module):
    """One blur kernel for each image from a latent with places: a convolution, the mean over places, G_γ.

    Args:
        latent_shape: channels and size along each axis, ``(C, h, w)`` or ``(C, d, h, w)``.
        kernel_size: odd size of the kernel along every axis.
        features: channels of the convolution.
        hidden_size: width of the hidden layer of :class:`KernelGenerator`.
        normalization: likewise.

    Raises:
        ValueError: see :class:`KernelGenerator`.
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        kernel_size: int,
        features: int = 64,
        hidden_size: int = 1000,
        normalization: str = "softmax",
    ) -> None:
        super().__init__()
        self.latent_shape = list(latent_shape)
        dimensions = len(latent_shape) - 1
        act = ("leakyrelu", {"negative_slope": 0.2})
        self.features = Convolution(dimensions, latent_shape[0], features, kernel_size=3, act=act, norm=None)
        self.generator = KernelGenerator(features, kernel_size, hidden_size, normalization, dimensions)

    def forward(self, z: Tensor) -> Tensor:
        """Kernels ``(B, 1, k, k)`` of latents ``(B, C · h · w)``."""
        features = self.features(z.unflatten(1, self.latent_shape))
        kernels: Tensor = self.generator(features.flatten(2).mean(2))
        return kernels


class BlurAutoencoderKL(LatentImageModel):
    """An ``AutoencoderKL`` of MONAI, or one that is called as it is, to be trained as a :class:`BlurVAE` is.

    Outside, its latents are vectors of ``latent_size`` numbers, so that the trainer, evaluations and likelihoods of
    this package take it. ``autoencoder`` is MONAI's own, whose weights go on to the second stage.

    Args:
        autoencoder: its ``encode`` gives mean and standard deviation σ of the latents, not log σ².
        image_size: size of the images along every axis, which its levels have to halve evenly.
        in_channels: channels of the images.
        spatial_dims: 2 or 3.
        kernel_size: odd size of the blur kernels, at most ``image_size``.
        kernel_hidden_size: width of the kernel generator's hidden layer.
        kernel_normalization: see :class:`KernelGenerator`.

    Raises:
        ValueError: if what it gives for σ is not above 0, as log σ² would be, if images do not come back in their
            size, or for an argument that does not fit.

    Example:
        >>> from monai.networks.nets import AutoencoderKL
        >>> sizes = {"channels": (8, 8), "attention_levels": (False, False), "norm_num_groups": 4}
        >>> network = BlurAutoencoderKL(AutoencoderKL(2, num_res_blocks=1, latent_channels=2, **sizes), image_size=16)
        >>> network.latent_shape, network(torch.zeros(1, 1, 16, 16)).mu.shape
        ([2, 8, 8], torch.Size([1, 128]))
    """

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        image_size: int = 64,
        in_channels: int = 1,
        spatial_dims: int = 2,
        kernel_size: int = 11,
        kernel_hidden_size: int = 1000,
        kernel_normalization: str = "softmax",
    ) -> None:
        super().__init__()
        check_kernel_fits(kernel_size, image_size)
        self.autoencoder = autoencoder
        self.spatial_dims = spatial_dims
        self.image_shape = [in_channels] + [image_size] * spatial_dims
        self.kernel_size = kernel_size
        self.latent_shape = self._probe()
        self.latent_size = math.prod(self.latent_shape)
        self.kernel_generator = SpatialKernelGenerator(
            self.latent_shape, kernel_size, hidden_size=kernel_hidden_size, normalization=kernel_normalization
        )
        self.register_buffer("voxel_size", torch.zeros(spatial_dims))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log σ², ``(B, latent_size)`` each, of images in [−1, 1], ``(B, C, *image_size)``."""
        require_image_shape(x, self.image_shape)
        mu, sigma = self.autoencoder.encode(x)
        return mu.flatten(1), 2 * sigma.flatten(1).log()

    def decode(self, z: Tensor) -> Tensor:
        """Decoder mean, ``(B, C, *image_size)``, of latents ``(B, latent_size)``; no layer bounds it to [−1, 1]."""
        return self.autoencoder.decode(z.unflatten(1, self.latent_shape))

    def kernel(self, z: Tensor) -> Tensor:
        """Blur kernels ``(B, 1, k, k)`` of latents ``(B, latent_size)``."""
        kernels: Tensor = self.kernel_generator(z)
        return kernels

    def vae_parameters(self) -> Iterator[nn.Parameter]:
        """θ and φ: the parameters of the autoencoder."""
        yield from self.autoencoder.parameters()

    def kernel_parameters(self) -> Iterator[nn.Parameter]:
        """γ: the parameters of the kernel generator."""
        yield from self.kernel_generator.parameters()

    @torch.no_grad()
    def _probe(self) -> list[int]:
        """The shape of a latent, by noise, of which log σ² would be below 0 somewhere."""
        noise = torch.randn(2, *self.image_shape, generator=torch.Generator().manual_seed(0))
        try:
            mu, sigma = self.autoencoder.encode(noise)
            shape = list(self.autoencoder.decode(mu).shape[1:])
        except RuntimeError as error:
            raise ValueError(
                f"the autoencoder does not take images of {self.image_shape}; set patch_size (image_size), in_channels "
                f"and spatial_dims to its own ({str(error).splitlines()[0]})."
            ) from error
        if not bool((sigma > 0).all()):
            raise ValueError(
                "the autoencoder's encode gives numbers that are not above 0 where the standard deviation σ is "
                "expected, as from log σ²; let it give exp(½ log σ²), as MONAI's AutoencoderKL does."
            )
        if shape != self.image_shape:
            raise ValueError(
                f"the autoencoder makes images of {shape} out of {self.image_shape}; take an image_size that its "
                "levels halve evenly, and as many channels out as in."
            )
        return list(mu.shape[1:])
