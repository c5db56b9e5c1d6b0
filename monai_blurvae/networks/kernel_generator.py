"""The network G that predicts the blur kernel of each image from its latent."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_blurvae.functional import gaussian_kernel

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
