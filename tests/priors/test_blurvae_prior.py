import math

import pytest
import torch

from monai_blurvae.functional import kl_standard_normal, patches_of
from monai_blurvae.metrics import fit_likelihoods
from monai_blurvae.networks import BlurVAE
from monai_blurvae.priors import BlurVAEPrior
from monai_blurvae.seeding import torch_rng

KINDS = ["variance", "kernel", "spectrum"]


def images(shape=(2, 1, 24, 20)):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def network(**arguments):
    torch.manual_seed(0)
    sizes = {"image_size": 16, "channels": (4, 8), "latent_size": 3, "kernel_size": 5, "kernel_hidden_size": 9}
    return BlurVAE(**sizes, **arguments).double().eval()


def prior_of(kind, **options):
    model = network()
    patches = patches_of(2 * images() - 1, 16, 8).flatten(0, 1)[:, None]
    return BlurVAEPrior(model, fit_likelihoods(model, patches, uses_kernel=True)[kind], **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [1, 3])
def test_the_bound_against_brute_force(kind, samples):
    """Patch by patch, with q and its latents held fixed in the gradient."""
    prior = prior_of(kind, samples=samples)
    x, sigma = images((1, 1, 24, 20)), 0.05
    scaled = (2 * x - 1).requires_grad_()
    patches = patches_of(scaled, 16, 4)[0]  # 24 and 20 have 8 and 4 in common with the stride of 8
    patches = patches.unflatten(0, (6, 5))[::2].flatten(0, 1)
    noise = prior.patch_noise(len(patches), torch_rng(0, "prior")).double()
    with torch.no_grad():
        mu, log_var = prior.network.encode(patches[:, None])
    value = -kl_standard_normal(mu, log_var)
    for k in range(samples):
        with torch.no_grad():
            z = mu + torch.exp(0.5 * log_var) * noise[:, k]
            mean = prior.network.decode(z)
        noisy = prior.likelihood.with_noise(2 * sigma)
        value = value + noisy.log_prob(patches[:, None] - mean, z) / samples
    expected = value.sum() / (2 * 4)
    (gradient,) = torch.autograd.grad(expected, scaled)
    found = prior.log_prob(x, sigma)
    torch.testing.assert_close(found, expected.detach()[None] + 24 * 20 * math.log(2))
    torch.testing.assert_close(prior.grad(x, sigma), 2 * gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_grad_is_the_autograd_of_log_prob_and_tweedies(kind):
    prior, x = prior_of(kind), images().requires_grad_()
    (gradient,) = torch.autograd.grad(prior.log_prob(x, 0.1, offset=(3, 2)).sum(), x)
    grad = prior.grad(x, 0.1, offset=(3, 2))
    torch.testing.assert_close(gradient, grad)
    denoised = prior.denoise(x, 0.1, offset=(3, 2))
    torch.testing.assert_close((denoised - x.detach()) / 0.01, grad)


def test_a_complex_image_has_the_bound_of_its_real_part():
    prior, x = prior_of("spectrum"), images((1, 2, 16, 16))
    phase = torch.ones(1, 1, 16, 16, dtype=torch.complex128)
    torch.testing.assert_close(prior.grad(x, 0.1, phase=phase)[:, :1], prior.grad(x[:, :1], 0.1))


def test_what_does_not_fit_is_refused():
    likelihood = prior_of("variance").likelihood
    with pytest.raises(ValueError, match="the network must take grey images in two dimensions, but takes"):
        BlurVAEPrior(network(in_channels=3), likelihood)
    with pytest.raises(ValueError, match="samples must be positive"):
        BlurVAEPrior(network(), likelihood, samples=0)
    with pytest.raises(ValueError, match="the images have 16×12 pixels, fewer than the prior's patches of 16×16"):
        prior_of("variance").grad(torch.zeros(1, 1, 16, 12), 0.1)


def test_the_derivative_of_the_denoiser_holds_q_fixed():
    """With one variance v it is v / (v + σ²) times the identity, whatever the latent."""
    prior, x = prior_of("variance", stride=16), images((1, 1, 16, 16))
    sigma = 0.1
    jacobian = torch.autograd.functional.jacobian(lambda x: prior.denoise(x, sigma), x).view(256, 256)
    share = jacobian.diagonal().mean()
    torch.testing.assert_close(jacobian, share * torch.eye(256, dtype=torch.float64))
    variance = prior.likelihood.variance
    assert float(share) == pytest.approx(variance / (variance + (2 * sigma) ** 2))
