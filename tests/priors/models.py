"""PatchVAEs in float64 whose densities are known."""

import math

import torch

from monai_blurvae.networks import PatchMixture, PatchVAE


def random_network(seed=0, **arguments):
    """Random weights, large enough that mean and variance depend on z."""
    torch.manual_seed(seed)
    network = PatchVAE(**{"latent_size": 4, "hidden_size": 16, "bank_size": 32, **arguments}).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2.0)
    return network.eval()


def random_mixture(seed=0, **arguments):
    """Three bases of two states each."""
    torch.manual_seed(seed)
    network = PatchMixture(**{"components": 3, "states": 2, **arguments}).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return network.eval()


class ConstantDecoder(torch.nn.Module):
    """The same mean and variance, in units of the scale, for every z."""

    def __init__(self, mean, variance):
        super().__init__()
        self.output = torch.nn.Parameter(torch.cat([mean, variance.log()]))

    def forward(self, z):
        return self.output.expand(len(z), -1) + 0 * z.sum(1, keepdim=True)


def wiener_network():
    """p(y|z) without z: one Gaussian of the patches, whose posterior mean is a Wiener filter in the DCT."""
    network = random_network()
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(64, dtype=torch.float64, generator=generator)
    variance = torch.rand(64, dtype=torch.float64, generator=generator) + 0.1
    network.decoder = ConstantDecoder(mean, variance)
    return network, mean * network.scale, variance * network.scale.square()


class LinearDecoder(torch.nn.Module):
    """m(z) = A z + b in units of the scale, one variance for every z."""

    def __init__(self, matrix, mean, variance):
        super().__init__()
        self.matrix = torch.nn.Parameter(matrix)
        self.mean = torch.nn.Parameter(mean)
        self.log_var = torch.nn.Parameter(variance.log())

    def forward(self, z):
        mean = z @ self.matrix.T + self.mean
        return torch.cat([mean, self.log_var.expand(len(z), -1)], 1)


def linear_network(latent_size=2, bank_size=32):
    """A factor analysis: patches are N(b, A Aᵀ + v); returns the network, b and the covariance of the coefficients."""
    network = random_network(latent_size=latent_size, bank_size=bank_size)
    generator = torch.Generator().manual_seed(2)
    matrix = 0.3 * torch.randn(64, latent_size, dtype=torch.float64, generator=generator)
    mean = 0.3 * torch.randn(64, dtype=torch.float64, generator=generator)
    variance = torch.rand(64, dtype=torch.float64, generator=generator) + 0.5
    network.decoder = LinearDecoder(matrix, mean, variance)
    loading = network.scale[:, None] * matrix
    return network, mean * network.scale, loading @ loading.T + torch.diag(variance * network.scale.square())


def use_quadrature(network, points=64, width=6.0):
    """Replace the bank of a one- or two-dimensional latent by a grid over it; returns its log-weights under N(0, I)."""
    axis = torch.linspace(-width, width, points, dtype=torch.float64)
    network.bank = torch.cartesian_prod(*[axis] * network.latent_size).reshape(-1, network.latent_size)
    density = -0.5 * network.bank.square().sum(1) - 0.5 * network.latent_size * math.log(2 * math.pi)
    return density + network.latent_size * math.log(float(axis[1] - axis[0]))
