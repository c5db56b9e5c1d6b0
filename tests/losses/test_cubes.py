"""The losses in three dimensions: dense matrices on tiny grids, gradients, and which are of two by nature."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from monai_blurvae.losses import Adversary, ELBOLoss, KernelLoss, SigmaVAELoss, SpectralGaussianLoss, WienerLoss
from monai_blurvae.networks import VAEOutput
from tests.dense import circulant, random_kernel, wiener_matrix
from tests.losses.terms import TERMS
from tests.weights import save_random_weights

SIZE, C = (4, 5, 3), 0.025


def data(channels=1, batch=2):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, batch, channels, *SIZE, generator=generator, dtype=torch.float64) * 2 - 1
    return x, y, torch.stack([random_kernel((3, 3, 3), seed) for seed in range(batch)])[:, None]


def wiener(kernel, channels):
    return torch.block_diag(*[wiener_matrix(circulant(kernel[0], SIZE), C)] * channels)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_wiener_loss_is_the_dense_quadratic_form_and_its_density_the_dense_gaussian(channels):
    mean, x, kernels = data(channels)
    matrices = [wiener(kernel, channels) for kernel in kernels]
    residuals = (x - mean).flatten(1)
    squares = [0.5 * (w @ r).square().sum() for w, r in zip(matrices, residuals, strict=True)]
    torch.testing.assert_close(WienerLoss(C, reduction="none")(mean, x, kernels), torch.stack(squares))
    covariances = [torch.linalg.inv(w.T @ w) for w in matrices]
    densities = [
        MultivariateNormal(m.flatten(), covariance).log_prob(xi.flatten())
        for m, covariance, xi in zip(mean, covariances, x, strict=True)
    ]
    torch.testing.assert_close(WienerLoss(C).log_prob(mean, x, kernels), torch.stack(densities))


@pytest.mark.parametrize("determinant", ["exact", "epsilon", "fixed"])
def test_the_elbo_has_the_dense_determinant(determinant):
    mean, x, kernels = data()
    term = WienerLoss(C, detach_weight=determinant == "fixed")
    elbo = ELBOLoss(term, determinant, kernel_size=3, spatial_dims=3, fixed_variance=0.3).double()
    if determinant == "fixed":
        kernels = elbo.fixed_kernel.expand(2, 1, 3, 3, 3)
        assert float(kernels[0].sum()) == pytest.approx(1, abs=1e-6)
        ratio = float(kernels[0, 0, 1, 1, 1] / kernels[0, 0, 0, 1, 1])
        assert math.log(ratio) == pytest.approx(0.5 / 0.3, rel=1e-5)
    mu, log_var = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = elbo(VAEOutput(mean, mu, log_var, mu), x, kernels)
    if determinant == "epsilon":
        blurs = [circulant(kernel[0], SIZE) for kernel in kernels]
        expected = [torch.linalg.slogdet(k + elbo.epsilon * torch.eye(len(k), dtype=k.dtype)).logabsdet for k in blurs]
    else:
        expected = [-torch.linalg.slogdet(wiener(kernel, 1)).logabsdet for kernel in kernels]
    torch.testing.assert_close(found.half_log_det, torch.stack(expected).mean())


def test_gradients():
    mean, x, kernels = (tensor.requires_grad_() for tensor in data(batch=1))
    term = WienerLoss(C, detach_weight=False, reduction="none")
    assert torch.autograd.gradcheck(term, (mean, x, kernels))
    assert torch.autograd.gradcheck(term.half_log_det, (x, kernels))
    assert torch.autograd.gradcheck(lambda k: KernelLoss()(mean, x, k), (kernels,))


@pytest.mark.parametrize("boundary", ["circular", "valid"])
def test_the_kernel_loss_by_hand(boundary):
    mean, x, kernels = data()
    blurred = torch.stack([circulant(k[0], SIZE) @ xi.flatten() for k, xi in zip(kernels, x, strict=True)]).view_as(x)
    error = blurred - mean
    if boundary == "valid":
        error = error[..., 1:-1, 1:-1, 1:-1]
    found = KernelLoss(boundary=boundary)(mean, x, kernels)
    torch.testing.assert_close(found, error.square().flatten(1).sum(1).mean())


@pytest.mark.parametrize("name", sorted(TERMS))
def test_terms_take_cubes_or_say_that_they_are_of_two_dimensions(name, tmp_path):
    if name == "vgg":
        save_random_weights(tmp_path)
    term = TERMS[name](1, tmp_path)
    if isinstance(term, SpectralGaussianLoss):
        term = SpectralGaussianLoss((16, 16, 16))
    x, y = torch.rand(2, 2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    kernel = torch.full((2, 1, 3, 3, 3), 1 / 27)
    if name in ("vgg", "watson"):
        with pytest.raises(ValueError, match="height, width"):
            term(x, y, kernel)
    else:
        assert torch.isfinite(term(x, y, kernel))


def test_an_adversary_of_two_dimensions_says_so():
    cube = torch.zeros(1, 1, 16, 16, 16)
    with pytest.raises(ValueError, match="3 spatial dimensions, but spatial_dims of Adversary is 2"):
        Adversary(0.1).generator_term(cube)
    assert torch.isfinite(Adversary(0.1, spatial_dims=3).discriminator_loss(cube, cube))


def test_the_whitened_sigma_vae_takes_cubes():
    mean, x, kernels = data()
    assert torch.isfinite(SigmaVAELoss(WienerLoss(C))(mean, x, kernels))
