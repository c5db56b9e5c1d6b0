import pytest
import torch
from torch.distributions import Laplace

from monai_blurvae.losses.pixelwise import LaplaceLoss


def data(channels=1, batch=2):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, batch, channels, 5, 6, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3])
def test_log_prob_is_the_unit_laplace_density(channels):
    mean, x = data(channels)
    torch.testing.assert_close(LaplaceLoss().log_prob(mean, x), Laplace(mean, 1.0).log_prob(x).flatten(1).sum(1))
    assert LaplaceLoss.is_likelihood


@pytest.mark.parametrize("channels", [1, 3])
def test_term_is_the_one_norm_of_each_image(channels):
    mean, x = data(channels)
    norms = torch.linalg.vector_norm((x - mean).flatten(1), ord=1, dim=1)
    torch.testing.assert_close(LaplaceLoss("none")(mean, x), norms)


def test_a_perfect_reconstruction_costs_nothing():
    x = data()[0]
    assert LaplaceLoss()(x, x).item() == 0


def test_reductions_and_independence_of_the_batch():
    y, x = data(batch=4)
    each = LaplaceLoss("none")(y, x)
    torch.testing.assert_close(LaplaceLoss("mean")(y, x), each.mean())
    torch.testing.assert_close(LaplaceLoss("sum")(y, x), each.sum())
    torch.testing.assert_close(LaplaceLoss("none")(y[1:2], x[1:2]), each[1:2])


def test_gradients():
    y, x = data(channels=3)
    assert torch.autograd.gradcheck(LaplaceLoss(), (y.requires_grad_(), x.requires_grad_()))
