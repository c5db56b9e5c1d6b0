import math

import pytest
import torch

from monai_blurvae.functional import diagonal_log_prob, kl_standard_normal, patches_of
from monai_blurvae.losses import PatchELBO
from monai_blurvae.networks import PatchVAE


def network(**arguments):
    torch.manual_seed(0)
    return PatchVAE(**{"latent_size": 3, "hidden_size": 16, **arguments})


def images(dtype=torch.float32):
    return torch.rand(2, 1, 16, 24, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 2 - 1


def noise_of(model, x, seed=1):
    return torch.randn(model.noise_shape(x.shape), dtype=x.dtype, generator=torch.Generator().manual_seed(seed))


def test_one_pass_is_its_parts():
    model, x = network().double(), images(torch.float64)
    noise = noise_of(model, x)
    output = model(x, noise)
    assert noise.shape == (12, 64 + 3 + 1)
    share = torch.special.ndtr(noise[:, -1:])
    sigma = 0.01 * (0.3 / 0.01) ** share
    clean = patches_of(x, 8, 8).flatten(0, 1)
    noisy = clean + model.patches(sigma * noise[:, :64])  # white in either basis
    torch.testing.assert_close(model.patches(output.coefficients), noisy)
    mu, log_var = model.encode(output.coefficients, sigma)
    mean, variance = model.decode(mu + torch.exp(0.5 * log_var) * noise[:, 64:67])
    torch.testing.assert_close(output.mean, mean)
    torch.testing.assert_close(output.variance, variance + sigma**2)
    torch.testing.assert_close(patches_of(output.reconstruction, 8, 8).flatten(0, 1), model.patches(mean))
    terms = PatchELBO(beta=0.5)(output, x)
    reconstruction = -diagonal_log_prob(output.coefficients, mean, variance + sigma**2).mean()
    kl = kl_standard_normal(mu, log_var).mean()
    torch.testing.assert_close(terms.loss, reconstruction + 0.5 * kl)
    torch.testing.assert_close((terms.reconstruction, terms.kl), (reconstruction, kl))


def test_the_transform_is_orthonormal_and_its_first_coefficient_the_mean():
    model = network().double()
    patches = patches_of(images(torch.float64), 8, 8).flatten(0, 1)
    coefficients = model.coefficients(patches)
    torch.testing.assert_close(model.patches(coefficients), patches)
    torch.testing.assert_close(coefficients.square().sum(1), patches.square().sum((1, 2)))
    torch.testing.assert_close(coefficients[:, 0], 8 * patches.mean((1, 2)))


def test_levels_are_log_uniform_between_the_bounds():
    model = network(sigma_range=(0.1, 0.4))
    sigma = model._sigma(torch.linspace(-8, 8, 1001))
    torch.testing.assert_close(sigma[[0, 500, -1]], torch.tensor([0.1, 0.2, 0.4]))
    share = (model._sigma(torch.randn(20000, generator=torch.Generator().manual_seed(0))) < 0.2).float().mean()
    assert float(share) == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 20000))


def test_without_noise_in_evaluation_it_is_deterministic_and_in_training_it_draws():
    model, x = network(), images()
    assert torch.equal(model.eval()(x).coefficients, model.coefficients(patches_of(x, 8, 8).flatten(0, 1)))
    assert not torch.equal(model.train()(x).coefficients, model(x).coefficients)


def test_autocast_changes_nothing():
    model, x = network(), images()
    noise = noise_of(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = model(x, noise)
    assert all(torch.equal(a, b) for a, b in zip(lowered, model(x, noise), strict=True))


def test_the_bank_is_the_same_in_every_network_and_travels_with_the_weights():
    torch.manual_seed(5)
    a, b = PatchVAE(latent_size=3), network()
    assert torch.equal(a.bank, b.bank)
    assert {"bank", "scale", "voxel_size", "calibration"} <= a.state_dict().keys()
    assert bool(torch.isnan(a.calibration).all())


def test_size():
    assert sum(p.numel() for p in PatchVAE().parameters()) == 207256


@pytest.mark.parametrize("shape", [(2, 1, 16, 20), (2, 3, 16, 16), (16, 16), (1, 16, 16)])
def test_images_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="multiples of the 8 pixels of its patches, but got"):
        network()(torch.zeros(shape))


@pytest.mark.parametrize(
    "arguments",
    [{"latent_size": 0}, {"patch_size": 0}, {"hidden_size": 0}, {"bank_size": 0}, {"sigma_range": (0.2, 0.1)}],
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        network(**arguments)


def test_a_negative_beta():
    with pytest.raises(ValueError, match="beta must not be negative"):
        PatchELBO(-1.0)
