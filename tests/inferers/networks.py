"""Networks whose results are known."""

import torch
from torch import nn

from monai_blurvae.functional.spectral import gaussian_kernel


class Identity(nn.Module):
    """The image is its own latent and reconstruction, and its kernel a Gaussian."""

    def __init__(self, size, voxel_size=(1.0, 1.0), variance=1.5):
        super().__init__()
        self.size = size
        self.dims = len(voxel_size)
        self.variance = variance
        self.register_buffer("voxel_size", torch.tensor(voxel_size))

    def encode(self, x):
        return x.flatten(1), torch.zeros_like(x.flatten(1))

    def decode(self, z):
        return z.unflatten(1, (1, *[self.size] * self.dims)).clone()  # MONAI weights it in place

    def kernel(self, z):
        kernel = gaussian_kernel(11, self.variance, self.dims).to(z)
        return kernel.expand(len(z), *kernel.shape[1:])


class Constant(Identity):
    """Every reconstruction has one value."""

    def decode(self, z):
        return torch.full_like(super().decode(z), 0.25)


class Counting(Identity):
    """An identity that counts the patches it has decoded."""

    def __init__(self, size, voxel_size=(1.0, 1.0)):
        super().__init__(size, voxel_size)
        self.patches = 0

    def decode(self, z):
        self.patches += len(z)
        return super().decode(z)
