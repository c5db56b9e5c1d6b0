import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from monai_blurvae.functional import patches_of
from monai_blurvae.losses import PatchELBO
from monai_blurvae.networks import PatchMixture


def network(components=3, states=2, seed=0, **arguments):
    """In float64, every parameter and buffer away from where it begins."""
    model = PatchMixture(components=components, states=states, **arguments).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
        square = torch.randn(model.start.shape, dtype=torch.float64, generator=generator)
        model.start.copy_(torch.linalg.qr(square)[0])
        model.centre.copy_(torch.randn(model.centre.shape, dtype=torch.float64, generator=generator))
    return model.eval()


def dense(model, sigma):
    """The mixture with its covariances written out."""
    variance, basis = model.log_var.exp(), model.bases()[:, None]
    mean = model.centre[:, None] + (basis @ (model.mean * variance.sqrt())[..., None])[..., 0]
    noise = sigma**2 * torch.eye(variance.shape[-1], dtype=torch.float64)
    covariance = (basis * variance[:, :, None]) @ basis.mT + noise
    parts = MultivariateNormal(mean.flatten(0, 1), covariance.flatten(0, 1))
    return MixtureSameFamily(Categorical(logits=model.logits.flatten()), parts)


def coefficients(count=7, size=64):
    return 2 * torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("sigma", [0.02, 0.3])
def test_density_and_gradient_against_dense_gaussians(sigma):
    model, y = network(), coefficients().requires_grad_()
    expected = dense(model, sigma).log_prob(y)
    (gradient,) = torch.autograd.grad(expected.sum(), y)
    scored = model.density(y.detach(), sigma)
    torch.testing.assert_close(scored.log_prob, expected.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(scored.score, gradient, rtol=1e-9, atol=1e-9)


def test_many_points_of_some_kinds_and_none_of_others():
    """Of 6 components, far apart, one has all but two of the points, two have one each, and the others none."""
    model = network(6, 2)
    with torch.no_grad():
        model.centre.mul_(20)
    y = model.centre[0] + coefficients(100)
    y[3], y[70] = model.centre[2], model.centre[5] + 0.1
    y = y.requires_grad_()
    (gradient,) = torch.autograd.grad(dense(model, 0.1).log_prob(y).sum(), y)
    torch.testing.assert_close(model.density(y.detach(), 0.1).score, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fused", [False, True])
def test_bases_that_are_kept_are_not_those_before_a_step(fused):
    """Also of an optimizer that does not count the versions of what it writes to."""
    model = network().float()
    with torch.no_grad():
        before = model.bases().clone()
    optimizer = torch.optim.Adam(model.parameters(), 0.1, fused=fused)
    PatchELBO()(model(torch.rand(2, 1, 16, 16) * 2 - 1), torch.zeros(2, 1, 16, 16)).loss.backward()
    optimizer.step()
    with torch.no_grad():
        after = model.bases()
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, model.bases().detach())


def test_bases_that_are_kept_are_those_of_the_weights():
    model, other, y = network(seed=0), network(seed=1), coefficients()
    before = model.density(y, 0.1).log_prob
    with torch.no_grad():
        assert model.bases() is model.bases()
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model.density(y, 0.1).log_prob, other.density(y, 0.1).log_prob)
    assert not torch.allclose(model.density(y, 0.1).log_prob, before)
    assert model.float().density(y.float(), 0.1).score.dtype == torch.float32


def test_the_bound_is_the_log_density_and_the_kl_that_of_the_exact_posterior():
    model, y = network(), coefficients()
    mixture = dense(model, 0.1)
    bound, kl = model.bound(y, 0.1, torch.empty(len(y), 0))
    torch.testing.assert_close(bound, mixture.log_prob(y))
    joint = mixture.component_distribution.log_prob(y[:, None]) + mixture.mixture_distribution.logits
    expected = torch.distributions.kl_divergence(Categorical(logits=joint), mixture.mixture_distribution)
    torch.testing.assert_close(kl, expected)


def test_one_component_is_the_wiener_filter_in_its_basis():
    model, y, sigma = network(1, 1), coefficients(), 0.4
    basis, variance = model.bases()[0], model.log_var[0, 0].exp()
    mean = model.centre[0] + basis @ (model.mean[0, 0] * variance.sqrt())
    filtered = mean + (y - mean) @ basis @ torch.diag(variance / (variance + sigma**2)) @ basis.T
    torch.testing.assert_close(y + sigma**2 * model.density(y, sigma).score, filtered)


def test_without_noise_the_input_comes_back():
    y = coefficients()
    torch.testing.assert_close(y + 1e-18 * network().density(y, 1e-9).score, y, rtol=0, atol=1e-10)


def test_one_pass_is_its_parts():
    """Noise of one level for each image, and the objective −log p."""
    model, x = network(), torch.rand(2, 1, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(model.noise_shape(x.shape), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert noise.shape == (12, 64 + 1)
    output, log_prob, means = model(x, noise), [], []
    for i, image in enumerate(x):
        rows = noise[6 * i : 6 * i + 6]
        sigma = float(0.01 * 30 ** torch.special.ndtr(rows[0, -1]))
        y = model.coefficients(patches_of(image[None], 8, 8)[0]) + sigma * rows[:, :-1]
        mixture = dense(model, sigma)
        log_prob.append(mixture.log_prob(y))
        likeliest = mixture.component_distribution.log_prob(y[:, None]) + mixture.mixture_distribution.logits
        means.append(model.patches(mixture.component_distribution.mean[likeliest.argmax(1)]))
    torch.testing.assert_close(output.log_likelihood - output.kl, torch.cat(log_prob))
    torch.testing.assert_close(patches_of(output.reconstruction, 8, 8).flatten(0, 1), torch.cat(means))
    terms = PatchELBO()(output, x)
    torch.testing.assert_close(terms.loss, -torch.cat(log_prob).mean())
    torch.testing.assert_close(terms.kl, output.kl.mean())


def test_the_gradient_of_the_objective_is_that_of_the_dense_mixture():
    model, x = network(2, 2, patch_size=2), torch.rand(1, 1, 4, 4, dtype=torch.float64)
    noise = torch.randn(model.noise_shape(x.shape), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sigma = float(0.01 * 30 ** torch.special.ndtr(noise[0, -1]))
    y = model.coefficients(patches_of(x, 2, 2)[0]) + sigma * noise[:, :-1]
    expected = torch.autograd.grad(-dense(model, sigma).log_prob(y).mean(), list(model.parameters()))
    found = torch.autograd.grad(PatchELBO()(model(x, noise), x).loss, list(model.parameters()))
    torch.testing.assert_close(found, expected)


def test_draws_have_the_moments_of_the_mixture():
    model = network(2, 2, patch_size=2)
    noise = torch.randn(200000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    mixture = dense(model, 0.0)
    _, drawn = model.draw(noise)
    torch.testing.assert_close(drawn.mean(0), mixture.mean, rtol=0, atol=0.05)
    torch.testing.assert_close(drawn.var(0), mixture.variance, rtol=0.05, atol=0)


def test_bases_stay_orthonormal():
    basis = network().bases()
    torch.testing.assert_close(basis @ basis.mT, torch.eye(64, dtype=torch.float64).expand_as(basis))


def test_it_begins_with_the_gaussians_of_its_patches():
    """Two kinds of patches far apart, each along a direction of its own."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(16, 2, generator=generator, dtype=torch.float64))[0].T
    strength = 0.1 * torch.randn(2, 2000, 1, generator=generator, dtype=torch.float64)
    offset = 4 * torch.randn(16, generator=generator, dtype=torch.float64)
    kinds = strength * directions[:, None] + torch.stack([offset, -offset])[:, None]
    model = PatchMixture(patch_size=4, components=2, states=1).double()
    model.initialize(kinds.view(-1, 4, 4))
    centres = model.patches(model.centre).flatten(1)
    order = (centres @ offset).argsort(descending=True)
    torch.testing.assert_close(centres[order], kinds.mean(1))
    strongest = model.patches(model.bases()[order, :, -1]).flatten(1)
    torch.testing.assert_close((strongest * directions).sum(1).abs(), torch.ones(2, dtype=torch.float64))
    variance = torch.full((2, 16), 1e-4, dtype=torch.float64)
    variance[:, -1] += strength.var((1, 2), correction=0)
    torch.testing.assert_close(model.log_var[order, 0].exp(), variance)


def test_states_begin_around_the_gaussian_of_their_component():
    model = PatchMixture(patch_size=4, components=2, states=3)
    patches = torch.randn(100, 4, 4, generator=torch.Generator().manual_seed(0))
    model.initialize(patches)
    again = PatchMixture(patch_size=4, components=2, states=3)
    again.initialize(patches)
    torch.testing.assert_close(model.state_dict(), again.state_dict(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(model.log_var[:, 2] - model.log_var[:, 0], torch.full((2, 16), 4.0))


def test_autocast_changes_nothing():
    model, x = network().float(), torch.rand(1, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = model(x)
    assert all(torch.equal(a, b) for a, b in zip(lowered, model(x), strict=True))


def test_bad_arguments():
    for arguments in ({"components": 0}, {"states": 0}, {"patch_size": 0}, {"sigma_range": (0.2, 0.1)}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            PatchMixture(**arguments)
    with pytest.raises(ValueError, match="there are 3 patches for 4 components; give more, or ask for fewer"):
        PatchMixture(components=4).initialize(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="multiples of the 8 pixels of its patches, but got"):
        PatchMixture(components=4)(torch.zeros(1, 1, 12, 16))


def test_size():
    assert sum(p.numel() for p in PatchMixture().parameters()) == 64 * (64 * 63 // 2 + 4 * (2 * 64 + 1))
    assert bool(torch.isnan(PatchMixture(components=1).calibration).all())
