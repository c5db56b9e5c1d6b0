import copy
import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.integrate import quad
from scipy.special import k1e
from torch.distributions import Cauchy, Normal

from monai_blurvae.functional import dct_matrix
from monai_blurvae.losses import robust
from monai_blurvae.losses.robust import RobustLoss, general_robust_rho, integrate_log_partition, log_partition

SIZE = (4, 5)
ALPHAS = [0.001, 0.01, 0.2, 0.5, 1.0, 1.3, 1.9, 1.99, 1.999]


def data(channels=1, batch=2, size=SIZE):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, batch, channels, *size, generator=generator, dtype=torch.float64) * 2 - 1


def make(representation="pixel", channels=1, seed=0, **kwargs):
    """A term in float64 whose parameters are random, as after training."""
    term = RobustLoss(representation, image_size=SIZE, channels=channels, **kwargs).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in term.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return term


def rho_of_the_paper(r, alpha):
    b = abs(alpha - 2)
    return b / alpha * ((r * r / b + 1) ** (alpha / 2) - 1)


def log_partition_by_quad(alpha):
    # r = tan(u) maps the axis to an interval; the integrand is even
    def integrand(u):
        return math.exp(-rho_of_the_paper(math.tan(u), alpha)) / math.cos(u) ** 2

    return math.log(2 * quad(integrand, 0, math.pi / 2, epsabs=0, epsrel=1e-11, limit=500)[0])


@pytest.mark.parametrize("alpha", ALPHAS)
def test_rho_is_the_formula_of_the_paper(alpha):
    r = torch.linspace(-50, 50, 101, dtype=torch.float64)
    expected = torch.tensor([rho_of_the_paper(value, alpha) for value in r.tolist()], dtype=torch.float64)
    rho = general_robust_rho(r, torch.tensor(alpha, dtype=torch.float64))
    torch.testing.assert_close(rho, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rho_has_its_limits(dtype):
    r = torch.linspace(-50, 50, 101, dtype=dtype)
    limits = {
        0.0: (r.square() / 2 + 1).log(),
        1.0: (r.square() + 1).sqrt() - 1,
        2.0: r.square() / 2,
    }
    for alpha, expected in limits.items():
        rho = general_robust_rho(r, torch.tensor(alpha, dtype=dtype))
        torch.testing.assert_close(rho, expected, rtol=1e-5 if dtype == torch.float32 else 1e-9, atol=1e-7)


def test_the_integral_has_the_closed_forms():
    alpha = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    # 2 e K_1(1), K_1 the modified Bessel function of the second kind
    closed = torch.tensor([math.pi * math.sqrt(2), 2 * k1e(1.0), math.sqrt(2 * math.pi)], dtype=torch.float64).log()
    torch.testing.assert_close(integrate_log_partition(alpha), closed, rtol=0, atol=1e-10)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_table_and_the_integral_are_those_of_scipy(alpha):
    expected = log_partition_by_quad(alpha)
    shape = torch.tensor([alpha], dtype=torch.float64)
    assert integrate_log_partition(shape).item() == pytest.approx(expected, abs=1e-8)
    assert log_partition(shape).item() == pytest.approx(expected, abs=1e-8)


def test_the_table_between_its_nodes():
    generator = torch.Generator().manual_seed(0)
    fraction = torch.rand(500, generator=generator, dtype=torch.float64)
    ends = torch.cat([0.001 + fraction**4, 1.999 - fraction**4])
    expected = integrate_log_partition(ends)
    torch.testing.assert_close(log_partition(ends), expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(log_partition(ends.float()), expected.float(), rtol=0, atol=1e-5)


def test_the_table_has_the_derivative_of_the_integral():
    # d log Z / dα = −E[∂ρ/∂α] under the density
    alpha = torch.tensor([0.001, 0.02, 0.7, 1.0, 1.6, 1.98, 1.998], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(log_partition(alpha).sum(), alpha)
    (expected,) = torch.autograd.grad(integrate_log_partition(alpha).sum(), alpha)
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-7)
    assert torch.autograd.gradcheck(log_partition, (alpha[1:-1],), eps=1e-7)


def test_the_ends_are_the_distributions_of_pytorch():
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    c = 0.3
    for alpha, distribution in [(2.0, Normal(0.0, c)), (0.0, Cauchy(0.0, math.sqrt(2) * c))]:
        shape = torch.tensor([alpha], dtype=torch.float64)
        log_density = -general_robust_rho(x / c, shape) - math.log(c) - integrate_log_partition(shape)
        torch.testing.assert_close(log_density, distribution.log_prob(x))


@pytest.mark.parametrize("alpha", [0.01, 0.5, 1.0, 1.5, 1.99])
@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_the_density_of_a_pixel_integrates_to_one(alpha, scale):
    term = RobustLoss(alpha=alpha, scale=scale).double()
    mean = torch.full((1, 1, 1, 1), 0.25, dtype=torch.float64)

    def density(u):  # x = mean + scale · tan(u)
        x = mean + scale * math.tan(u)
        return term.log_prob(mean, x).exp().item() * scale / math.cos(u) ** 2

    with torch.no_grad():
        assert quad(density, -math.pi / 2, math.pi / 2, epsrel=1e-8, limit=200)[0] == pytest.approx(1, abs=1e-6)


def test_the_density_of_an_image_integrates_to_one_in_the_cosine_representation():
    term = RobustLoss("dct", image_size=(1, 2), scale=1.0).double()
    with torch.no_grad():  # unlike shapes and scales, so the density is not that of independent pixels
        term.raw_alpha.copy_(torch.tensor([[[1.5, 3.0]]]))
        term.raw_scale.copy_(torch.tensor([[[0.3, -1.0]]]))
    t = torch.linspace(-7, 7, 281, dtype=torch.float64)
    first, second = torch.meshgrid(t.sinh(), t.sinh(), indexing="ij")
    x = torch.stack([first.flatten(), second.flatten()], 1).reshape(-1, 1, 1, 2)
    density = term.log_prob(torch.zeros_like(x), x).exp().reshape(first.shape)
    integral = (density * t.cosh()[:, None] * t.cosh()[None, :]).sum().item() * (t[1] - t[0]).item() ** 2
    assert integral == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("representation", ["pixel", "dct"])
def test_log_prob_from_coefficients_one_by_one(representation, channels):
    y, x = data(channels)
    term = make(representation, channels)
    coefficients = (x - y).numpy()
    if representation == "dct":
        coefficients = dctn(coefficients, type=2, norm="ortho", axes=(2, 3))
    alphas = np.broadcast_to(term.alpha.detach().numpy(), coefficients.shape[1:])
    scales = np.broadcast_to(term.scale.detach().numpy(), coefficients.shape[1:])
    partition = {alpha: log_partition_by_quad(alpha) for alpha in set(alphas.flatten().tolist())}
    expected = [
        -sum(
            rho_of_the_paper(r / c, a) + math.log(c) + partition[a]
            for r, a, c in zip(image.flatten(), alphas.flatten().tolist(), scales.flatten(), strict=True)
        )
        for image in coefficients
    ]
    log_prob = term.log_prob(y, x)
    torch.testing.assert_close(log_prob, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(log_prob, -term.per_image(y, x, None))
    assert term.is_likelihood


def test_nearly_gaussian_the_representations_agree():
    # a Gaussian with one variance is the same in every rotated frame
    y, x = data(channels=3)
    arguments = {"alpha": 1.9989, "scale": 0.5}
    pixel = RobustLoss(**arguments).double().log_prob(y, x)
    dct = RobustLoss("dct", SIZE, 3, **arguments).double().log_prob(y, x)
    torch.testing.assert_close(pixel, dct, rtol=1e-2, atol=0)
    torch.testing.assert_close(pixel, Normal(y, 0.5).log_prob(x).flatten(1).sum(1), rtol=1e-2, atol=0)


@pytest.mark.parametrize("representation", ["pixel", "dct"])
def test_arguments_are_the_first_values(representation):
    term = RobustLoss(representation, image_size=SIZE, channels=3, alpha=0.7, scale=0.05)
    shape = () if representation == "pixel" else (3, *SIZE)
    torch.testing.assert_close(term.alpha, torch.full(shape, 0.7))
    torch.testing.assert_close(term.scale, torch.full(shape, 0.05))
    assert {name for name, _ in term.named_parameters()} == {"raw_alpha", "raw_scale"}


def test_shape_and_scale_stay_in_their_ranges():
    term = RobustLoss()
    y, x = (value.float() for value in data())
    for extreme in (-100.0, 100.0):
        with torch.no_grad():
            term.raw_alpha.fill_(extreme)
            term.raw_scale.fill_(-100.0)
        assert 0.001 - 1e-7 <= term.alpha.item() <= 1.999 + 1e-7
        assert term.scale.item() == pytest.approx(1 / 255)
        value = term(y, x)
        gradients = torch.autograd.grad(value, list(term.parameters()))
        assert value.isfinite()
        assert all(gradient.isfinite() for gradient in gradients)


@pytest.mark.parametrize("distribution", [Normal(0.0, 0.2), Cauchy(0.0, 0.2 * math.sqrt(2))])
def test_maximum_likelihood_finds_the_distribution(distribution):
    torch.manual_seed(0)
    x = distribution.sample((1, 1, 100, 200)).double()
    term = RobustLoss(alpha=1.0, scale=0.5).double()
    optimizer = torch.optim.LBFGS(term.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = term(torch.zeros_like(x), x) / x.numel()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert term.scale.item() == pytest.approx(0.2, rel=0.05)
    assert term.alpha.item() == pytest.approx(2 if isinstance(distribution, Normal) else 0, abs=0.1)


@pytest.mark.parametrize("representation", ["pixel", "dct"])
def test_the_reconstruction_that_costs_least_is_the_image(representation):
    y, x = data(channels=3)
    term = make(representation, 3)
    reconstruction = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(term(reconstruction, x), reconstruction)
    assert (gradient == 0).all()
    assert term(y, x) > term(x, x)


@pytest.mark.parametrize("representation", ["pixel", "dct"])
def test_reductions_and_independence_of_the_batch(representation):
    y, x = data(channels=3, batch=4)
    values = {reduction: make(representation, 3, reduction=reduction)(y, x) for reduction in ("none", "mean", "sum")}
    torch.testing.assert_close(values["mean"], values["none"].mean())
    torch.testing.assert_close(values["sum"], values["none"].sum())
    torch.testing.assert_close(make(representation, 3, reduction="none")(y[1:2], x[1:2]), values["none"][1:2])


@pytest.mark.parametrize("representation", ["pixel", "dct"])
def test_gradients(representation):
    y, x = data(channels=3)
    term = make(representation, 3)

    def value(y, x, raw_alpha, raw_scale):
        parameters = {"raw_alpha": raw_alpha, "raw_scale": raw_scale}
        return torch.func.functional_call(term, parameters, (y, x))

    inputs = (y, x, term.raw_alpha.detach().clone(), term.raw_scale.detach().clone())
    assert torch.autograd.gradcheck(value, tuple(tensor.requires_grad_() for tensor in inputs))


@pytest.mark.parametrize("representation", ["pixel", "dct"])
def test_float32_is_close_to_float64(representation):
    y, x = data(channels=3)
    term = make(representation, 3)
    exact = term(y, x)
    single = copy.deepcopy(term).float()(y.float(), x.float())
    torch.testing.assert_close(single, exact.float(), rtol=1e-5, atol=0)


def test_training_goes_on_after_inference():
    # tables that were made under inference_mode could not be saved for a backward pass
    robust._log_partition_table.cache_clear()
    dct_matrix.cache_clear()
    size = (3, 7)
    y, x = data(size=size)
    term = RobustLoss("dct", image_size=size).double()
    with torch.inference_mode():
        expected = term(y, x).item()
    value = term(y.requires_grad_(), x)
    value.backward()
    assert value.item() == pytest.approx(expected)


def test_state_dict_restores_the_density():
    y, x = data()
    term, other = make(seed=1), make(seed=2)
    assert term(y, x) != other(y, x)
    other.load_state_dict(term.state_dict())
    torch.testing.assert_close(other(y, x), term(y, x), rtol=0, atol=0)


def test_bad_arguments():
    with pytest.raises(ValueError, match="representation"):
        RobustLoss("wavelet")
    with pytest.raises(ValueError, match="image_size"):
        RobustLoss("dct")
    with pytest.raises(ValueError, match="image_size"):
        RobustLoss("dct", image_size=(4, 4, 4))
    for alpha in (0, 2, math.nan):
        with pytest.raises(ValueError, match="alpha"):
            RobustLoss(alpha=alpha)
    for scales in ({"scale": 0.001}, {"min_scale": 0}, {"scale": math.nan}):
        with pytest.raises(ValueError, match="min_scale"):
            RobustLoss(**scales)
    y, x = data(channels=3)
    with pytest.raises(ValueError, match="channels and image_size"):
        RobustLoss("dct", image_size=SIZE, channels=1)(y, x)
