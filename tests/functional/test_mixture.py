import math

import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from monai_blurvae.functional import diagonal_log_prob, mixture_score, weighted_score


def components(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(shape, dtype=torch.float64, generator=generator)
    return mean, torch.rand(shape, dtype=torch.float64, generator=generator) + 0.1


def test_a_mixture_is_that_of_torch():
    mean, variance = components((7, 5))
    weights = torch.softmax(torch.arange(7.0, dtype=torch.float64) / 3, 0)
    y = components((11, 5), 1)[0].requires_grad_()
    expected = MixtureSameFamily(Categorical(weights), Independent(Normal(mean, variance.sqrt()), 1)).log_prob(y)
    (gradient,) = torch.autograd.grad(expected.sum(), y)
    scored = mixture_score(y.detach(), mean, variance, weights.log())
    torch.testing.assert_close(scored.log_prob, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(scored.score, gradient, rtol=1e-10, atol=1e-12)


def test_a_diagonal_gaussian_is_that_of_torch():
    mean, variance = components((3, 5))
    y = components((3, 5), 1)[0]
    expected = Independent(Normal(mean, variance.sqrt()), 1).log_prob(y)
    torch.testing.assert_close(diagonal_log_prob(y, mean, variance), expected)


def test_a_weighted_score_is_the_gradient_of_the_weighted_log_densities():
    mean, variance = components((4, 3, 5))
    weight = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y = components((4, 5), 1)[0].requires_grad_()
    (weight * diagonal_log_prob(y[:, None], mean, variance)).sum().backward()
    torch.testing.assert_close(weighted_score(y.detach(), mean, variance, weight), y.grad)


def test_float32_is_exact_enough_at_the_smallest_noise():
    """Flat patches at the ends of the range: the square of a coefficient of 8 over a variance of 0.02²."""
    mean, variance = components((256, 64))
    mean[:, 0] = torch.linspace(-8, 8, 256)
    variance = variance * 1e-4 + 0.02**2
    y = mean + variance.sqrt() * torch.randn(mean.shape, generator=torch.Generator().manual_seed(3)).double()
    weights = torch.full((256,), -math.log(256), dtype=torch.float64)
    exact = mixture_score(y, mean, variance, weights)
    rounded = mixture_score(*(value.float() for value in (y, mean, variance, weights)))
    torch.testing.assert_close(rounded.log_prob.double(), exact.log_prob, rtol=0, atol=0.2)
    error = (rounded.score.double() - exact.score) * 0.02  # over the noise's own 1 / σ
    assert error.abs().max() < 0.05
