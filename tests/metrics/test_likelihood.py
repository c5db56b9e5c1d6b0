"""Bounds against linear Gaussian models, x = A z + b + noise with z ~ N(0, I), whose evidence is known."""

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from monai_blurvae.functional.likelihood import residual_power
from monai_blurvae.metrics import likelihood as likelihoods_module
from monai_blurvae.metrics.likelihood import (
    KernelLikelihood,
    SpectrumLikelihood,
    VarianceLikelihood,
    bits_per_dimension,
    bounds_of,
    dequantize,
    evidence_bounds,
    fit_likelihoods,
    log_weights,
    pixel_bounds,
)
from monai_blurvae.networks import BlurVAE
from tests.dense import circulant, random_kernel, wiener_matrix

SIZE = (4, 5)
LATENT = 3
KINDS = ["variance", "kernel", "spectrum"]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


class LinearGaussian:
    """A model whose posterior has a diagonal covariance, since AᵀΣ⁻¹A is diagonal: A = Σ^½ Q diag(gain).

    ``shift`` and ``stretch`` take q away from the exact posterior.
    """

    def __init__(self, covariance, channels=1, shift=0.0, stretch=1.0):
        self.covariance, self.channels = covariance, channels
        self.blur = random_kernel((3, 3))[None, None]
        orthonormal = torch.linalg.qr(randn(len(covariance), LATENT)).Q
        gain = torch.tensor([2.0, 0.7, 1.3], dtype=torch.float64)
        self.matrix = torch.linalg.cholesky(covariance) @ orthonormal * gain
        self.offset = randn(len(covariance), seed=1)
        self.shift, self.stretch = shift, stretch

    def posterior(self, x):
        solved = torch.linalg.solve(self.covariance, self.matrix)
        precision = torch.eye(LATENT, dtype=torch.float64) + self.matrix.T @ solved
        mean = torch.linalg.solve(precision, solved.T @ (x.flatten(1) - self.offset).T).T
        return MultivariateNormal(mean, precision_matrix=precision)

    def evidence(self, x):
        covariance = self.matrix @ self.matrix.T + self.covariance
        return MultivariateNormal(self.offset, covariance).log_prob(x.flatten(1))

    def encode(self, x):
        exact = self.posterior(x)
        return exact.mean + self.shift, (exact.variance * self.stretch).log()

    def decode(self, z):
        return (z @ self.matrix.T + self.offset).view(-1, self.channels, *SIZE)

    def kernel(self, z):
        return self.blur.expand(len(z), -1, -1, -1)


def stationary_covariance():
    matrix = circulant(random_kernel((3, 3), seed=3), SIZE)
    return 0.2 * matrix @ matrix.T


def known(kind, channels=1, **kwargs):
    """A linear Gaussian model and its own likelihood."""
    if kind == "variance":
        covariance = 0.3 * torch.eye(math.prod(SIZE), dtype=torch.float64)
    elif kind == "spectrum":
        covariance = stationary_covariance()
    else:
        w = wiener_matrix(circulant(random_kernel((3, 3)), SIZE), 0.025)
        covariance = 0.3 * torch.linalg.inv(w.T @ w)
    model = LinearGaussian(torch.block_diag(*[covariance] * channels), channels, **kwargs)
    eigenvalues = torch.fft.rfft2(covariance[:, 0].reshape(SIZE)).real
    likelihood = {
        "variance": VarianceLikelihood(0.3),
        "spectrum": SpectrumLikelihood(eigenvalues[None, None]),
        "kernel": KernelLikelihood(model, 0.3),
    }[kind]
    return model, likelihood


def images(count=6, channels=1):
    return randn(count, channels, *SIZE, seed=2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("samples", [1, 7])
def test_with_the_exact_posterior_both_bounds_are_the_evidence(kind, channels, samples):
    model, likelihood = known(kind, channels)
    x = images(channels=channels)
    bounds = evidence_bounds(model, x, {kind: likelihood}, samples=samples)[kind]
    torch.testing.assert_close(bounds.elbo, model.evidence(x), rtol=0, atol=1e-8)
    torch.testing.assert_close(bounds.importance, model.evidence(x), rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shift", "stretch"), [(0.5, 1.0), (0.0, 2.0), (-0.3, 0.6)])
def test_the_gap_of_the_elbo_is_the_divergence_from_the_posterior(kind, shift, stretch):
    model, likelihood = known(kind, shift=shift, stretch=stretch)
    x = images(3)
    weights = log_weights(model, x, {kind: likelihood}, samples=20_000, chunk_size=30_000)[kind]
    mu, log_var = model.encode(x)
    q = Independent(Normal(mu, (0.5 * log_var).exp()), 1)
    exact = model.posterior(x)
    diagonal = Independent(Normal(exact.mean, exact.variance.sqrt()), 1)
    gap = kl_divergence(q, diagonal)
    standard_error = weights.std(1) / math.sqrt(weights.shape[1])
    assert (standard_error < 0.05 * gap).all()
    assert ((model.evidence(x) - weights.mean(1) - gap).abs() < 5 * standard_error).all()


def test_the_importance_bound_grows_with_the_samples_to_the_evidence():
    model, likelihood = known("spectrum", shift=0.5, stretch=1.5)
    x = images(40)
    means = [
        evidence_bounds(model, x, {"a": likelihood}, samples=samples)["a"].importance.mean()
        for samples in (1, 8, 64, 2048)
    ]
    assert means == sorted(means)
    assert means[0] < model.evidence(x).mean() - 0.5
    torch.testing.assert_close(means[-1], model.evidence(x).mean(), rtol=0, atol=0.02)


def test_bounds_of_known_weights():
    bounds = bounds_of(torch.tensor([[1.0, 3.0], [2.0, 2.0]], dtype=torch.float64).log())
    torch.testing.assert_close(bounds.importance.exp(), torch.tensor([2.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(bounds.elbo.exp(), torch.tensor([math.sqrt(3), 2.0], dtype=torch.float64))


def small_network(seed=0, channels=1):
    torch.manual_seed(seed)
    sizes = {"image_size": 8, "latent_size": 4, "channels": (4, 8), "kernel_size": 3, "kernel_hidden_size": 8}
    return BlurVAE(in_channels=channels, **sizes).double().eval()


def patches(count=7, seed=5, channels=1):
    return torch.rand(count, channels, 8, 8, generator=rng(seed), dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("chunk_size", [1, 4, 5, 13, 1000])
def test_the_chunk_size_changes_nothing(chunk_size, channels):
    network, x = small_network(channels=channels), patches(channels=channels)
    likelihoods = fit_likelihoods(network, x, uses_kernel=True)
    expected = log_weights(network, x, likelihoods, samples=5, chunk_size=35)
    values = log_weights(network, x, likelihoods, samples=5, chunk_size=chunk_size)
    assert set(values) == set(KINDS)
    for kind in KINDS:
        torch.testing.assert_close(values[kind], expected[kind], rtol=1e-10, atol=1e-9)
    refitted = fit_likelihoods(network, x, uses_kernel=True, chunk_size=chunk_size)
    assert refitted["variance"].variance == pytest.approx(likelihoods["variance"].variance)
    assert refitted["kernel"].variance == pytest.approx(likelihoods["kernel"].variance)
    torch.testing.assert_close(refitted["spectrum"].variance, likelihoods["spectrum"].variance)


def test_the_noise_belongs_to_the_seed_and_the_image():
    network, x = small_network(), patches()
    likelihoods = {"one": VarianceLikelihood(0.2)}
    weights = log_weights(network, x, likelihoods, samples=3)["one"]
    again = log_weights(network, x, likelihoods, samples=3)["one"]
    other = log_weights(network, x, likelihoods, samples=3, seed=1)["one"]
    fewer = log_weights(network, x[:4], likelihoods, samples=3)["one"]
    assert torch.equal(weights, again)
    assert not torch.isclose(weights, other).any()
    torch.testing.assert_close(fewer, weights[:4])
    assert len(torch.unique(log_weights(network, x[:1].expand(5, -1, -1, -1), likelihoods, samples=3)["one"])) == 15


def test_a_network_in_training_is_evaluated_and_left_as_it_was():
    network, x = small_network(), patches()
    likelihoods = {"one": VarianceLikelihood(0.2)}
    expected = log_weights(network, x, likelihoods)["one"]
    network.train()
    network.kernel_generator.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert torch.equal(log_weights(network, x, likelihoods)["one"], expected)
    assert network.training
    assert network.encoder.training
    assert not network.kernel_generator.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def mean_log_prob(model, x, likelihood, samples, seed=0):
    """E_q[log p(x|z)], up to what does not depend on the likelihood."""
    return log_weights(model, x, {"a": likelihood}, samples=samples, seed=seed)["a"].mean()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_fitted_variances_are_the_most_likely_ones(channels):
    network, x = small_network(channels=channels), patches(channels=channels)
    fitted = fit_likelihoods(network, x, uses_kernel=True, samples=4)
    for kind, rescale in [
        ("variance", lambda factor: VarianceLikelihood(fitted["variance"].variance * factor)),
        ("kernel", lambda factor: KernelLikelihood(network, fitted["kernel"].variance * factor)),
    ]:
        best = mean_log_prob(network, x, fitted[kind], 4)
        down, up = (mean_log_prob(network, x, rescale(factor), 4) for factor in (1 / 1.01, 1.01))
        # Around its maximum the density falls by ¼ D h² for a change of log s² by h.
        drop = 0.25 * 64 * channels * math.log(1.01) ** 2
        assert (best - down).item() == pytest.approx(drop, rel=0.05)
        assert (best - up).item() == pytest.approx(drop, rel=0.05)


def test_the_fitted_spectrum_without_smoothing_is_the_most_likely_one():
    model, _ = known("spectrum", channels=2)
    x = images(30, channels=2)
    fitted = fit_likelihoods(model, x, uses_kernel=False, samples=3, pseudo_images=0.0)
    assert set(fitted) == {"variance", "spectrum"}
    best = mean_log_prob(model, x, fitted["spectrum"], 3)
    assert best > mean_log_prob(model, x, fitted["variance"], 3)
    for channel, row, column, count in [(0, 0, 0, 1), (1, 2, 1, 2), (0, 1, 2, 2)]:
        for factor in (1 / 1.05, 1.05):
            changed = fitted["spectrum"].variance.clone()
            changed[0, channel, row, column] *= factor
            drop = 0.25 * count * math.log(factor) ** 2
            difference = best - mean_log_prob(model, x, SpectrumLikelihood(changed), 3)
            assert difference.item() == pytest.approx(drop, rel=0.1)


def test_the_fit_finds_the_noise_of_a_linear_gaussian():
    model, likelihood = known("spectrum")
    z, noise = randn(4000, LATENT, seed=7), MultivariateNormal(torch.zeros(20).double(), model.covariance)
    torch.manual_seed(0)
    x = model.decode(z) + noise.sample((4000,)).view(-1, 1, *SIZE)
    fitted = fit_likelihoods(model, x, uses_kernel=False, samples=1)["spectrum"]
    torch.testing.assert_close(fitted.variance, likelihood.variance, rtol=0.15, atol=0)


def test_smoothing_draws_the_spectrum_towards_the_mean_over_its_radius():
    model, _ = known("spectrum")
    x = images(2)
    raw = fit_likelihoods(model, x, uses_kernel=False, pseudo_images=0.0)["spectrum"].variance
    smooth = fit_likelihoods(model, x, uses_kernel=False, pseudo_images=1e12)["spectrum"].variance
    default = fit_likelihoods(model, x, uses_kernel=False)["spectrum"].variance
    torch.testing.assert_close(default, (2 * raw + 4 * smooth) / 6)
    # The means, from the full spectrum.
    full_raw = torch.cat([raw, raw.flip(-2).roll(1, -2)[..., 1:].flip(-1)], -1)
    fy, fx = torch.meshgrid(torch.fft.fftfreq(4), torch.fft.fftfreq(5), indexing="ij")
    radius = ((fx**2 + fy**2).sqrt() * 4).round()
    expected = torch.stack([full_raw[0, 0][radius == r].mean() for r in radius.flatten()]).view(SIZE)
    torch.testing.assert_close(smooth[0, 0], expected[:, :3])


def test_one_image_or_a_perfect_model_gives_a_finite_density():
    network, x = small_network(), patches(1)
    fitted = fit_likelihoods(network, x, uses_kernel=True, samples=1)
    assert all(torch.isfinite(w).all() for w in log_weights(network, patches(), fitted).values())

    class Perfect(LinearGaussian):
        def decode(self, z):
            return self.x[: len(z)]

    model = Perfect(stationary_covariance())
    model.x = images(1)
    fitted = fit_likelihoods(model, model.x, uses_kernel=True, samples=1)
    assert all(torch.isfinite(w).all() for w in log_weights(model, model.x, fitted, samples=1).values())


def test_a_uniform_distribution_over_256_levels_has_eight_bits():
    # Dequantised levels tile an interval of 256 / 127.5, on which the uniform density is 127.5 / 256.
    log_density = 12 * math.log(127.5 / 256)
    assert bits_per_dimension(torch.tensor(log_density), 12, eight_bit=True).item() == pytest.approx(8)
    assert bits_per_dimension(torch.tensor(log_density), 12, eight_bit=False).item() == pytest.approx(
        math.log2(256 / 127.5)
    )


def test_bits_per_dimension_bound_the_probability_of_the_levels():
    # x ~ N(0, 0.02²) in one dimension, whose level probabilities are differences of its distribution function
    density = Normal(torch.zeros((), dtype=torch.float64), 0.02)
    level = torch.full((1, 1, 400, 500), 129 / 127.5 - 1, dtype=torch.float64)
    edges = level[0, 0, 0, 0] + torch.tensor([-0.5, 0.5]) / 127.5
    exact = -(density.cdf(edges[1]) - density.cdf(edges[0])).log2()
    log_prob = density.log_prob(dequantize(level))
    mean_density = log_prob.exp().mean().log()
    assert bits_per_dimension(mean_density, 1, eight_bit=True).item() == pytest.approx(exact.item(), abs=1e-3)
    assert bits_per_dimension(log_prob.mean(), 1, eight_bit=True) > exact


def test_dequantised_images_stay_within_their_levels():
    levels = torch.arange(256, dtype=torch.float64).view(1, 1, 16, 16).expand(70, -1, -1, -1)
    x = levels / 127.5 - 1
    noise = (dequantize(x, seed=3) - x) * 127.5
    assert noise.min() >= -0.5
    assert noise.max() <= 0.5
    assert noise.mean().item() == pytest.approx(0, abs=5 / math.sqrt(12 * noise.numel()))
    assert noise.var().item() == pytest.approx(1 / 12, rel=0.05)
    assert torch.equal(dequantize(x, seed=3), dequantize(x, seed=3))
    assert torch.equal(dequantize(x[:66], seed=3), dequantize(x, seed=3)[:66])
    assert len(torch.unique(noise[:, 0, 0, 0])) == 70
    assert not torch.equal(dequantize(x, seed=3), dequantize(x, seed=4))
    assert dequantize(x.float()).dtype == torch.float32


@pytest.mark.parametrize("factor", [0.99, 2.0])
def test_other_images_are_not_dequantised(factor):
    levels = torch.arange(256).view(1, 1, 16, 16) / 127.5 - 1
    with pytest.raises(ValueError, match="are not 8-bit images scaled to"):
        dequantize(factor * levels)


@pytest.mark.parametrize("arguments", [{"samples": 0}, {"chunk_size": 0}, {"images": patches(0)}])
def test_bad_arguments(arguments):
    x = arguments.pop("images", patches())
    with pytest.raises(ValueError, match="at least one image, sample and latent at a time"):
        log_weights(small_network(), x, {"a": VarianceLikelihood(1.0)}, **arguments)


@pytest.mark.parametrize("channels", [1, 3])
def test_residual_power_and_variance_agree(channels):
    # The fitted variance is the mean of the fitted spectrum over all frequencies (Parseval).
    network, x = small_network(channels=channels), patches(channels=channels)
    fitted = fit_likelihoods(network, x, uses_kernel=False, pseudo_images=0.0)
    spectrum = fitted["spectrum"].variance
    full = torch.fft.fft2(torch.fft.irfft2(spectrum, s=(8, 8))).real
    assert full.mean().item() == pytest.approx(fitted["variance"].variance)
    assert residual_power(x).shape[2:] == spectrum.shape[2:]


def sampled_matrix(likelihood, channels, monkeypatch):
    """The mean of draws around 1, and the matrix A of their noise Ae, from the draws of unit vectors."""
    dimensions = channels * math.prod(SIZE)
    units = torch.eye(dimensions, dtype=torch.float64).view(dimensions, channels, *SIZE)
    mean, z = torch.ones_like(units), torch.zeros(dimensions, LATENT, dtype=torch.float64)
    with monkeypatch.context() as patch:
        patch.setattr(likelihoods_module, "_white_noise", lambda like, _: torch.zeros_like(like))
        torch.testing.assert_close(likelihood.sample(mean, z), mean)
        patch.setattr(likelihoods_module, "_white_noise", lambda *_: units)
        return (likelihood.sample(mean, z) - mean).flatten(1).T


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_draw_has_the_dense_covariance_of_the_density(kind, channels, monkeypatch):
    model, likelihood = known(kind, channels)
    matrix = sampled_matrix(likelihood, channels, monkeypatch)
    torch.testing.assert_close(matrix @ matrix.T, model.covariance, rtol=0, atol=1e-10)


@pytest.mark.parametrize("weighting", ["wiener", "bounded_inverse"])
def test_a_draw_of_a_kernel_in_three_dimensions(weighting, monkeypatch):
    size, kernel = (3, 4, 5), random_kernel((3, 3, 3))
    w = wiener_matrix(circulant(kernel, size), 0.1, weighting)

    class Kernels:
        def kernel(self, z):
            return kernel[None, None].expand(len(z), *[-1] * 4)

    units = torch.eye(60, dtype=torch.float64).view(60, 1, *size)
    monkeypatch.setattr(likelihoods_module, "_white_noise", lambda *_: units)
    draws = KernelLikelihood(Kernels(), 0.4, 0.1, weighting).sample(
        torch.zeros_like(units), torch.zeros(60, 2).double()
    )
    matrix = draws.flatten(1).T
    torch.testing.assert_close(matrix @ matrix.T, 0.4 * torch.linalg.inv(w.T @ w), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_of_its_own_draws_is_minus_its_entropy(kind):
    model, likelihood = known(kind, channels=2)
    count, dimensions = 4000, 2 * math.prod(SIZE)
    z = randn(1, LATENT, seed=4).expand(count, -1)
    mean = model.decode(z)
    draws = likelihood.sample(mean, z, rng(6))
    entropy = MultivariateNormal(torch.zeros(dimensions).double(), model.covariance).entropy()
    log_prob = likelihood.log_prob(draws - mean, z)
    # −log p of a draw is half a χ² with D degrees of freedom, and a constant
    assert abs(log_prob.mean() + entropy) < 5 * math.sqrt(dimensions / 2 / count)
    assert log_prob.var().item() == pytest.approx(dimensions / 2, rel=0.15)
    assert (draws.mean(0) - mean[0]).abs().max() < 6 * model.covariance.diagonal().max().sqrt() / math.sqrt(count)


def test_draws_repeat_with_their_generator_and_leave_the_range_of_images():
    network, x = small_network(), patches()
    z, _ = network.encode(x)
    mean = network.decode(z)
    for likelihood in fit_likelihoods(network, x, uses_kernel=True).values():
        a, b, other = (likelihood.sample(mean, z, rng(seed)) for seed in (1, 1, 2))
        assert a.dtype == mean.dtype
        assert torch.equal(a, b)
        assert not torch.equal(a, other)
        assert a.abs().max() > 1
        single = likelihood.sample(mean.float(), z, rng(1))
        assert single.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_adds_its_variance_to_the_dense_covariance(kind, channels, monkeypatch):
    model, likelihood = known(kind, channels)
    covariance = model.covariance + 0.25 * torch.eye(len(model.covariance), dtype=torch.float64)
    noisy = likelihood.with_noise(0.3).with_noise(0.4)
    x = images(channels=channels)
    expected = MultivariateNormal(torch.zeros(len(covariance), dtype=torch.float64), covariance).log_prob(x.flatten(1))
    z = torch.zeros(len(x), LATENT, dtype=torch.float64)
    torch.testing.assert_close(noisy.log_prob(x, z), expected, rtol=1e-9, atol=0)
    matrix = sampled_matrix(noisy, channels, monkeypatch)
    torch.testing.assert_close(matrix @ matrix.T, covariance, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_share_the_density_by_the_whitened_residual(kind, channels):
    """Against the symmetric root of the dense covariance, Σ^−½ r, whose squares sum to the quadratic form."""
    model, likelihood = known(kind, channels)
    residual, z = randn(4, channels, *SIZE, seed=8), randn(4, model.matrix.shape[1], seed=9)
    found = likelihood.pixel_log_prob(residual, z)
    values, vectors = torch.linalg.eigh(model.covariance)
    whitened = residual.flatten(1) @ (vectors * values.rsqrt()) @ vectors.T
    share = 0.5 * values.log().sum() / len(values) + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(found.flatten(1), -0.5 * whitened**2 - share, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.flatten(1).sum(1), likelihood.log_prob(residual, z), rtol=0, atol=1e-9)


@pytest.mark.parametrize("chunk_size", [1, 5, 64])
def test_the_map_of_the_elbo_adds_up_to_it(chunk_size):
    model, likelihood = known("spectrum", shift=0.3, stretch=1.2)
    x = images()
    expected = evidence_bounds(model, x, {"it": likelihood}, samples=3)["it"]
    bounds, log_prob = pixel_bounds(model, x, likelihood, samples=3, chunk_size=chunk_size)
    torch.testing.assert_close(bounds.elbo, expected.elbo, rtol=0, atol=1e-9)
    torch.testing.assert_close(bounds.importance, expected.importance, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_prob.flatten(1).sum(1), expected.elbo, rtol=0, atol=1e-9)
