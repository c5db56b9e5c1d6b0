import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from monai_blurvae.functional import gaussian_kernel, kernel_otf, kl_standard_normal, wiener_weight
from monai_blurvae.losses import L2Loss, WienerLoss
from monai_blurvae.metrics import Evaluated, evidence_bounds, linear, measure_model, suite
from monai_blurvae.metrics.likelihood import VarianceLikelihood
from monai_blurvae.metrics.linear import at_rate, fit_linear_vae, linear_yardstick, measure_linear_vae
from monai_blurvae.metrics.suite import NO_KERNEL
from tests.dense import circulant, random_kernel, wiener_matrix

C = 0.025


def make_images(number, shape, seed=0):
    """Images with a few strong directions, a mean and some noise, in [−1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    dimensions = math.prod(shape)
    directions = torch.randn(8, dimensions, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    scales = 0.5 ** torch.arange(8, dtype=torch.float64)
    latents = torch.randn(number, 8, generator=generator, dtype=torch.float64) * scales
    noise = torch.randn(number, dimensions, generator=generator, dtype=torch.float64)
    return (0.2 + 0.25 * latents @ directions + 0.05 * noise).clamp(-1, 1).unflatten(1, shape)


def weight_of(kernel, image_size):
    return wiener_weight(kernel_otf(kernel[None, None], image_size), C)


def descend(images, latent_size, beta, term):
    """The objective at a minimum that L-BFGS finds from a random start, with encoder, variances and decoder free."""
    generator = torch.Generator().manual_seed(1)
    size = images[0].numel()
    shapes = {"encoder": (latent_size, size), "shift": (latent_size,), "log_var": (latent_size,)}
    shapes |= {"decoder": (latent_size, size), "bias": (size,)}
    parameters = {
        name: (0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
        for name, shape in shapes.items()
    }

    def objective():
        mu = images.flatten(1) @ parameters["encoder"].T + parameters["shift"]
        reconstructions = (mu @ parameters["decoder"] + parameters["bias"]).view_as(images)
        # E_q of a quadratic form: that of the mean, and of each column of the decoder times its latent's variance.
        columns = parameters["decoder"].view(latent_size, *images.shape[1:])
        spread = (parameters["log_var"].exp() * term(columns, torch.zeros_like(columns))).sum()
        kl = kl_standard_normal(mu, parameters["log_var"].expand_as(mu)).mean()
        return term(reconstructions, images).mean() + spread + beta * kl

    optimizer = torch.optim.LBFGS(
        parameters.values(),
        max_iter=500,
        history_size=50,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    optimizer.step(closure)
    return objective().item()


@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_descent_arrives_at_the_closed_form(weighted):
    images, beta = make_images(30, (2, 3, 5)), 0.8 if weighted else 0.3
    kernel = random_kernel((3, 3))
    term, weight = L2Loss(reduction="none"), None
    if weighted:
        loss, weight = WienerLoss(C, reduction="none"), weight_of(kernel, (3, 5))

        def term(x, y):
            return loss(x, y, kernel.expand(len(x), 1, 3, 3))

    vae = fit_linear_vae(images, 4, beta, weight)
    active = int((vae.eigenvalues > beta).sum())
    assert 1 < active < 4  # one is not worth its rate
    closed_form = vae.expected_terms().objective.item()
    found = descend(images, 4, beta, term)
    assert found == pytest.approx(closed_form, rel=1e-6)
    assert found > closed_form * (1 - 1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("number", [20, 200])
def test_expectations_are_the_means_over_the_training_images(number, weighted):
    images = make_images(number, (1, 6, 8))
    vae = fit_linear_vae(images, 5, 0.4, weight_of(random_kernel((3, 5)), (6, 8)) if weighted else None)
    for expected, each in zip(vae.expected_terms(), vae.terms(images), strict=True):
        assert each.shape == (number,)
        assert each.mean().item() == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize(("shape", "kernel_size"), [((2, 4, 5), (3, 3)), ((1, 3, 4, 4), (3, 3, 3))])
def test_the_objective_of_other_images_is_their_density_by_explicit_matrices(shape, kernel_size):
    beta, kernel = 0.7, random_kernel(kernel_size)
    images, others = make_images(100, shape), make_images(7, shape, seed=1)
    vae = fit_linear_vae(images, 3, beta, weight_of(kernel, shape[1:]))

    whiten = torch.block_diag(*[wiener_matrix(circulant(kernel, shape[1:]), C)] * shape[0])
    y, other = ((x.flatten(1) - images.flatten(1).mean(0)) @ whiten.T for x in (images, others))
    values, vectors = np.linalg.eigh((y.T @ y / len(y)).numpy())
    covariance = beta * np.eye(len(values))
    for value, u in zip(values[-3:], vectors.T[-3:], strict=True):
        covariance += max(value - beta, 0) * np.outer(u, u)
    log_prob = MultivariateNormal(torch.zeros(len(values)).double(), torch.from_numpy(covariance)).log_prob(other)
    expected = beta * (-log_prob - 0.5 * len(values) * math.log(2 * math.pi * beta))
    torch.testing.assert_close(vae.terms(others).objective, expected, rtol=1e-10, atol=0)


def test_at_beta_1_every_latent_of_the_posterior_gives_the_density():
    """The weights p(x|z) p(z) / q(z|x) of a true posterior do not depend on z."""
    images = 3 * make_images(50, (1, 6, 6))
    vae = fit_linear_vae(images, 4, 1.0)
    bounds = evidence_bounds(vae, images[:5], {"unit": VarianceLikelihood(1.0)}, samples=3)["unit"]
    expected = -vae.terms(images[:5]).objective - 18 * math.log(2 * math.pi)
    torch.testing.assert_close(bounds.elbo, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(bounds.importance, expected, rtol=1e-10, atol=0)


def test_rates_and_errors_of_known_variances():
    """Two pixels that vary independently, by 4 and 0.5, and β = 1: one is coded with ½ log 4 nats, one not at all."""
    a, b = 2.0, math.sqrt(0.5)
    images = torch.tensor([[a, b], [a, -b], [-a, b], [-a, -b]], dtype=torch.float64).view(4, 1, 1, 2) + 7
    vae = fit_linear_vae(images, 2, 1.0)
    torch.testing.assert_close(vae.eigenvalues, torch.tensor([4.0, 0.5], dtype=torch.float64))
    mu, log_var = vae.encode(images)
    torch.testing.assert_close(log_var, torch.tensor([0.25, 1.0], dtype=torch.float64).log().expand(4, 2))
    torch.testing.assert_close(mu.abs(), torch.tensor([math.sqrt(3) / 2, 0.0], dtype=torch.float64).expand(4, 2))
    terms = vae.expected_terms()
    assert terms.kl.item() == pytest.approx(math.log(2))
    assert terms.reconstruction.item() == pytest.approx(0.5 * (1 + 0.5))
    assert terms.objective.item() == pytest.approx(0.75 + math.log(2))
    residual = images - vae.reconstruct(images)
    torch.testing.assert_close(residual.square().mean(0).flatten(), torch.tensor([4 / 16, 0.5], dtype=torch.float64))


def test_few_images_go_by_way_of_their_gram_matrix():
    images, weight = make_images(10, (1, 5, 6)), weight_of(random_kernel((3, 3)), (5, 6))
    few, many = (fit_linear_vae(x, 6, 0.1, weight) for x in (images, images.repeat(4, 1, 1, 1)))
    torch.testing.assert_close(few.eigenvalues, many.eigenvalues)
    assert few.total_variance == pytest.approx(many.total_variance)
    torch.testing.assert_close(few.reconstruct(images), many.reconstruct(images))
    torch.testing.assert_close(few.components @ few.components.T, torch.eye(6, dtype=torch.float64))


@pytest.mark.parametrize("number", [4, 40])
def test_latents_beyond_the_rank_stay_without_use(number):
    images = make_images(4, (1, 5, 6)).repeat(number // 4, 1, 1, 1)
    vae = fit_linear_vae(images, 50, 1e-6)
    assert (vae.eigenvalues > 0).sum() == 3  # four images less their mean
    mu, log_var = vae.encode(images)
    assert mu.shape == log_var.shape == (number, 50)
    assert not mu[:, 3:].any()
    assert not log_var[:, 3:].any()
    torch.testing.assert_close(vae.reconstruct(images), images, rtol=0, atol=1e-4)


def test_a_constant_weight_is_another_beta():
    images = make_images(30, (1, 6, 6))
    doubled = fit_linear_vae(images, 3, 0.8, torch.full((1, 1, 6, 4), 2.0)).terms(images)
    plain = fit_linear_vae(images, 3, 0.2).terms(images)
    torch.testing.assert_close(doubled.kl, plain.kl)
    torch.testing.assert_close(doubled.objective, 4 * plain.objective)


def test_another_beta_needs_no_other_components():
    images = make_images(30, (1, 6, 6))
    replaced = dataclasses.replace(fit_linear_vae(images, 5, 1.0), beta=0.1)
    for one, other in zip(replaced.terms(images), fit_linear_vae(images, 5, 0.1).terms(images), strict=True):
        torch.testing.assert_close(one, other)


def symmetric(eigenvalues):
    size = len(eigenvalues)
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return (q * eigenvalues) @ q.T, q


@pytest.mark.parametrize("decay", ["as of images", "rank below the count", "none to speak of"])
def test_largest_eigenpairs(decay, monkeypatch):
    monkeypatch.setattr(linear, "EXACT_SIZE", 100)
    size, count = 600, 40
    ranks = torch.arange(1, size + 1, dtype=torch.float64)
    eigenvalues = {
        "as of images": ranks**-2,
        "rank below the count": ranks.pow(-2) * (ranks <= 30),
        "none to speak of": 1 + (size - ranks) / size,
    }[decay]
    matrix, vectors = symmetric(eigenvalues)
    found, basis = linear._largest_eigenpairs(matrix, count)
    torch.testing.assert_close(found, eigenvalues[:count], rtol=0, atol=1e-13)
    torch.testing.assert_close(basis.T @ basis, torch.eye(count, dtype=torch.float64), rtol=0, atol=1e-12)
    overlap = (vectors[:, :30] * basis[:, :30]).sum(0).abs()
    torch.testing.assert_close(overlap, torch.ones(30, dtype=torch.float64), rtol=0, atol=1e-10)


def refuse(*arguments):
    raise ValueError("Learned features are not compared here.")


def test_yardstick_is_what_a_network_is_measured_by(monkeypatch):
    for needs_weights in ("_lpips", "_alexnet", "_fid"):
        monkeypatch.setattr(suite, needs_weights, refuse)
    train, images = (make_images(n, (1, 16, 16), seed).float() for seed, n in enumerate((60, 9)))
    weight = wiener_weight(kernel_otf(gaussian_kernel(5, 1.0), (16, 16)), C)
    found = linear_yardstick(images, train, 6, 1.0, weight)
    vae = fit_linear_vae(train, 6, 1.0, weight)
    assert found["objective"] == pytest.approx(vae.terms(images).objective.mean().item())
    model = SimpleNamespace(encode=vae.encode, decode=vae.decode, kernel=lambda z: torch.ones(len(z), 1, 1, 1))
    measures = measure_model(Evaluated.of(model, images, samples=1), no_kernel=NO_KERNEL)
    for key in ("psnr", "ssim", "kl", "spectrum_reconstruction", "sharpness_reconstruction"):
        assert found[key] == pytest.approx(measures[key].value, rel=1e-5), key
    assert len(found) == 6


def test_measures_at_both_ends_of_beta():
    images = make_images(12, (1, 16, 16))
    fine = measure_linear_vae(fit_linear_vae(images, 12, 1e-9), images)
    assert fine["psnr"] > 80
    assert fine["ssim"] == pytest.approx(1, abs=1e-4)
    assert fine["sharpness_reconstruction"] == pytest.approx(1, abs=1e-4)
    assert fine["spectrum_reconstruction"] == pytest.approx(0, abs=1e-4)
    collapsed = measure_linear_vae(fit_linear_vae(images, 12, 1e9), images)
    assert collapsed["kl"] == 0
    assert collapsed["objective"] == pytest.approx(
        0.5 * (images - images.mean(0)).square().flatten(1).sum(1).mean().item()
    )


def test_refusals():
    images = make_images(5, (1, 4, 4))
    for arguments, message in {
        (images[:0], 2, 1.0): "N > 0",
        (images, 0, 1.0): "latent_size must be at least 1",
        (images, 2, 0.0): "beta must be positive",
        (images, 2, 1.0, torch.ones(5, 1, 4, 3)): "take one weight for all images",
        (images, 2, 1.0, torch.zeros(1, 1, 4, 3)): "has to be positive",
    }.items():
        with pytest.raises(ValueError, match=message):
            fit_linear_vae(*arguments)
    with pytest.raises(ValueError, match="of the training images"):
        measure_linear_vae(fit_linear_vae(images, 2, 1.0), make_images(5, (1, 4, 5)))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kl", [0.7, 5.0, 60.0])
def test_the_beta_of_a_rate_has_that_rate(weighted, kl):
    weight = weight_of(random_kernel((3, 3)), (16, 16)) if weighted else None
    images, others = make_images(60, (1, 16, 16)), make_images(9, (1, 16, 16), seed=1)
    vae = at_rate(fit_linear_vae(images, 6, 1.0, weight), others, kl)
    assert measure_linear_vae(vae, others)["kl"] == pytest.approx(kl, rel=1e-9)


def test_without_a_rate_the_linear_model_gives_the_mean():
    images = make_images(60, (1, 4, 4))
    vae = at_rate(fit_linear_vae(images, 6, 1.0), images, 0.0)
    torch.testing.assert_close(vae.reconstruct(images), images.mean(0).expand_as(images))
    with pytest.raises(ValueError, match=r"no β of the linear model has a rate of 3 nats"):
        at_rate(fit_linear_vae(images[:1], 6, 1.0), images, 3.0)
