import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from monai_blurvae.functional import gaussian_kernel, kernel_width, kl_standard_normal


@pytest.mark.parametrize("dims", [2, 3])
def test_width_of_a_gaussian(dims):
    kernel = gaussian_kernel(31 if dims == 2 else 25, 4.0, dims).double()
    assert kernel.sum().item() == pytest.approx(1, abs=1e-6)
    assert kernel_width(kernel).item() == pytest.approx(math.sqrt(dims * 4.0), rel=1e-4)


def test_width_is_about_the_centroid_and_in_millimetres_with_a_spacing():
    kernel = torch.zeros(1, 1, 5, 5)
    kernel[0, 0, 0, 0] = kernel[0, 0, 0, 4] = 0.5  # two points four columns apart, off the centre
    assert kernel_width(kernel).item() == pytest.approx(2.0)
    assert kernel_width(kernel, (3.0, 0.7)).item() == pytest.approx(1.4)


def test_a_gaussian_kernel_needs_a_positive_variance():
    with pytest.raises(ValueError, match="variance"):
        gaussian_kernel(5, 0.0)


def test_kl_against_torch_distributions_and_its_gradient():
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    log_var = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    posterior = Independent(Normal(mu, (0.5 * log_var).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    torch.testing.assert_close(kl_standard_normal(mu, log_var), kl_divergence(posterior, prior))
    assert torch.autograd.gradcheck(kl_standard_normal, (mu, log_var))
