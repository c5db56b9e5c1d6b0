import math

import pytest
import torch
from torch.distributions import Bernoulli
from torch.nn.functional import binary_cross_entropy

from monai_blurvae.losses.pixelwise import BernoulliLoss


def data(channels=1, batch=2):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, batch, channels, 5, 6, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3])
def test_value_is_that_of_pytorch(channels):
    y, x = data(channels)
    expected = binary_cross_entropy((y + 1) / 2, (x + 1) / 2, reduction="none").flatten(1).sum(1)
    torch.testing.assert_close(BernoulliLoss(reduction="none")(y, x), expected)


def test_a_perfect_reconstruction_costs_the_entropy():
    x = data()[0]
    entropy = Bernoulli((x + 1) / 2).entropy().flatten(1).sum(1)
    torch.testing.assert_close(BernoulliLoss(reduction="none")(x, x), entropy)


def test_the_minimum_is_at_the_image():
    y, x = data(channels=3)
    term = BernoulliLoss(reduction="none")
    reconstruction = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(term(reconstruction, x).sum(), reconstruction)
    torch.testing.assert_close(gradient, torch.zeros_like(x), rtol=0, atol=1e-12)
    for step in (1.0, 0.1, 0.01):  # convex, so uphill in every direction
        assert (term(x + step * (y - x), x) > term(x, x)).all()


def test_it_is_no_density():
    # ∫ exp(−term) over gray values t in [0, 1] is (p − (1 − p)) / log(p / (1 − p)): neither 1 nor the same for each p
    t = torch.linspace(0, 1, 10001, dtype=torch.float64)
    term = BernoulliLoss(reduction="none")
    for p in (0.6, 0.9):
        x_hat = torch.full((t.numel(), 1, 1, 1), 2 * p - 1, dtype=torch.float64)
        values = term(x_hat, (2 * t - 1).reshape(-1, 1, 1, 1))
        integral = torch.trapezoid((-values).exp(), t)
        assert integral.item() == pytest.approx((2 * p - 1) / math.log(p / (1 - p)), rel=1e-6)
    assert not BernoulliLoss.is_likelihood


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [1e-6, 1e-4])
def test_a_saturated_decoder_costs_at_most_log_epsilon(dtype, epsilon):
    x = torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=dtype).reshape(4, 1, 1, 1)
    y = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=dtype).reshape(4, 1, 1, 1)
    expected = torch.tensor([-math.log(epsilon)] * 2 + [-math.log1p(-epsilon)] * 2, dtype=dtype)
    values = BernoulliLoss(epsilon, "none")(y, x)
    # x̂ next to ±1 is a multiple of the dtype's spacing there
    atol = 2 * torch.finfo(dtype).eps / epsilon
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=atol)


def test_a_bfloat16_reconstruction_stays_finite():
    x = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1)
    assert BernoulliLoss()((-x).bfloat16(), x).isfinite()


def test_reductions_and_independence_of_the_batch():
    y, x = data(channels=3, batch=4)
    each = BernoulliLoss(reduction="none")(y, x)
    torch.testing.assert_close(BernoulliLoss(reduction="mean")(y, x), each.mean())
    torch.testing.assert_close(BernoulliLoss(reduction="sum")(y, x), each.sum())
    torch.testing.assert_close(BernoulliLoss(reduction="none")(y[1:2], x[1:2]), each[1:2])


def test_gradients():
    y, x = data(channels=3)
    assert torch.autograd.gradcheck(BernoulliLoss(), (y.requires_grad_(), x.requires_grad_()))


@pytest.mark.parametrize("epsilon", [0, -1e-3, 0.5, math.nan])
def test_bad_epsilon(epsilon):
    with pytest.raises(ValueError, match="epsilon"):
        BernoulliLoss(epsilon)
