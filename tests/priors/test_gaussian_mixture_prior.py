import numpy as np
import pytest
import scipy.stats
import torch

from monai_blurvae.errors import RunFolderError
from monai_blurvae.functional import patches_of
from monai_blurvae.priors import GaussianMixturePrior, ImagePrior


def mixture(components=3, size=4, seed=0):
    """Weights, means and covariances of random components, in float64."""
    generator = torch.Generator().manual_seed(seed)
    roots = 0.2 * torch.randn(components, size**2, size**2, dtype=torch.float64, generator=generator)
    means = 0.5 * torch.randn(components, size**2, dtype=torch.float64, generator=generator)
    weights = torch.rand(components, dtype=torch.float64, generator=generator) + 0.1
    return weights / weights.sum(), means, roots @ roots.transpose(1, 2) + 1e-3 * torch.eye(size**2)


def images(shape=(2, 1, 9, 8), seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def phase_of(shape, seed=1):
    angle = 6 * torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.polar(torch.ones_like(angle), angle)


def test_patches_under_scipys_mixture():
    weights, means, covariances = mixture()
    prior = GaussianMixturePrior(weights, means, covariances)
    sigma, patches = 0.1, images((50, 4, 4))
    expected = np.logaddexp.reduce(
        [
            np.log(weight)
            + scipy.stats.multivariate_normal(mean, covariance + sigma**2 * np.eye(16)).logpdf(patches.flatten(1))
            for weight, mean, covariance in zip(*(x.numpy() for x in (weights, means, covariances)), strict=True)
        ]
    )
    found = prior.patch_score(patches, sigma, torch.empty(50, 0)).log_prob
    torch.testing.assert_close(found, torch.from_numpy(expected))


def test_images_under_torchs_mixture_and_its_autograd():
    """The mean over the grid of patches; the gradient is that of dense covariances."""
    weights, means, covariances = mixture()
    prior = GaussianMixturePrior(weights, means, covariances, intensity=(-1.0, 1.0))
    x, sigma, offset = images().requires_grad_(), 0.2, (1, 2)
    dense = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(weights),
        torch.distributions.MultivariateNormal(means, covariances + sigma**2 * torch.eye(16)),
    )
    # along the axis of 9 pixels patches are one apart, along the other two: 4 · 2 cover each pixel
    expected = dense.log_prob(patches_of(x, 4, 2, offset).flatten(2)).sum(1) / 8
    torch.testing.assert_close(prior.log_prob(x, sigma, offset=offset), expected)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(prior.grad(x, sigma, offset=offset), gradient)


def test_the_derivative_of_the_denoiser():
    prior = GaussianMixturePrior(*mixture(), chunk_size=9)
    assert torch.autograd.gradcheck(lambda x: prior.denoise(x, 0.1), images().requires_grad_(), fast_mode=True)


def test_denoised_is_the_posterior_mean_of_components():
    """Of an image of one patch, by Wiener filters that are solved for one by one."""
    weights, means, covariances = mixture(size=8)
    prior = GaussianMixturePrior(weights, means, covariances, stride=8, intensity=(-1.0, 1.0))
    y, sigma = images((1, 1, 8, 8)), 0.3
    noisy = covariances + sigma**2 * torch.eye(64)
    residual = y.flatten() - means
    filtered = means + (covariances @ torch.linalg.solve(noisy, residual[..., None]))[..., 0]
    likelihood = torch.distributions.MultivariateNormal(means, noisy).log_prob(y.flatten())
    expected = torch.softmax(weights.log() + likelihood, 0) @ filtered
    torch.testing.assert_close(prior.denoise(y, sigma), expected.view(1, 1, 8, 8))


@pytest.mark.parametrize("is_complex", [False, True])
def test_denoiser_gradient_and_density_agree(is_complex):
    prior = GaussianMixturePrior(*mixture(), intensity=(0.0, 0.7), chunk_size=5)
    x = images((2, 2 if is_complex else 1, 9, 8)).requires_grad_()
    options = {"phase": phase_of((2, 1, 9, 8)) if is_complex else None, "offset": (2, 1)}
    sigma = torch.tensor([0.05, 0.2], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(prior.log_prob(x, sigma, **options).sum(), x)
    grad = prior.grad(x, sigma, **options)
    torch.testing.assert_close(gradient, grad)
    torch.testing.assert_close(prior.denoise(x, sigma, **options), x.detach() + sigma.square().view(2, 1, 1, 1) * grad)
    assert isinstance(prior, ImagePrior)


def test_fit_finds_what_was_drawn():
    """Two components far from each other, of which one has twice the patches."""
    pytest.importorskip("sklearn")
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(0.05, 0.2, 16, dtype=torch.float64)
    drawn = torch.randn(6000, 16, dtype=torch.float64, generator=generator) * scale
    which = torch.arange(6000) % 3 == 0
    drawn += torch.where(which, -0.5, 0.5)[:, None]
    prior = GaussianMixturePrior.fit(drawn.view(-1, 4, 4), components=2)
    order = prior.means.mean(1).argsort()
    assert prior.weights[order].tolist() == pytest.approx([1 / 3, 2 / 3], abs=1e-3)
    # standard errors of 2000 draws: 0.2 / √2000 of a mean, √(2 / 2000) = 3 % of a variance
    torch.testing.assert_close(prior.means[order[0]], torch.full_like(scale, -0.5), atol=0.02, rtol=0)
    torch.testing.assert_close(prior.covariances[order[0]].diagonal().sqrt(), scale, rtol=0.08, atol=0)


def test_what_is_saved_is_loaded(tmp_path):
    prior = GaussianMixturePrior(*mixture())
    prior.save(tmp_path / "mixture.npz")
    loaded = GaussianMixturePrior.load(tmp_path / "mixture.npz", stride=4)
    assert loaded.stride == 4
    x = images((1, 1, 8, 8))
    torch.testing.assert_close(loaded.log_prob(x, 0.1), GaussianMixturePrior(*mixture(), stride=4).log_prob(x, 0.1))


def test_what_is_no_mixture(tmp_path):
    (tmp_path / "a.npz").write_text("nothing")
    with pytest.raises(RunFolderError, match=r"a\.npz holds no mixture of Gaussians"):
        GaussianMixturePrior.load(tmp_path / "a.npz")
    weights, means, covariances = mixture()
    with pytest.raises(ValueError, match=r"have shapes \(2,\), \(3, 16\)"):
        GaussianMixturePrior(weights[:2], means, covariances)
    with pytest.raises(ValueError, match="positive definite covariance"):
        GaussianMixturePrior(weights, means, covariances - torch.eye(16))
