import math

import pytest
import torch

from monai_blurvae.functional import diagonal_log_prob, mixture_score, patches_of
from monai_blurvae.priors import PatchVAEPrior
from monai_blurvae.seeding import torch_rng
from tests.priors.models import linear_network, random_mixture, random_network, use_quadrature, wiener_network

INFERENCES = ["bank", "encoder", "importance"]
UNITS = {"intensity": (-1.0, 1.0)}


def images(shape=(2, 1, 16, 12), seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def phase_of(shape, seed=1):
    angle = 6 * torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.polar(torch.ones_like(angle), angle)


@pytest.mark.parametrize("inference", INFERENCES)
@pytest.mark.parametrize("size", [(8, 8), (9, 12), (11, 13)])
@pytest.mark.parametrize("is_complex", [False, True])
def test_grad_is_the_autograd_of_log_prob_and_tweedies(inference, size, is_complex):
    prior = PatchVAEPrior(random_network(), inference, intensity=(0.0, 0.7), samples=3)
    x = images((2, 2 if is_complex else 1, *size)).requires_grad_()
    options = {"phase": phase_of((2, 1, *size)) if is_complex else None, "offset": (1, 3)}
    sigma = torch.tensor([0.03, 0.2], dtype=torch.float64)
    value = prior.log_prob(x, sigma, **options)
    (gradient,) = torch.autograd.grad(value @ torch.tensor([1.0, 2.0], dtype=torch.float64), x)
    grad = prior.grad(x, sigma, **options)
    torch.testing.assert_close(gradient, grad * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
    variance = sigma.square().view(2, 1, 1, 1)
    denoised = prior.denoise(x, sigma, **options)
    torch.testing.assert_close((denoised - x.detach()) / variance, grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [random_network, random_mixture])
@pytest.mark.parametrize("is_complex", [False, True])
def test_the_banks_grad_is_the_derivative(is_complex, make):
    prior = PatchVAEPrior(make(), intensity=(0.0, 0.7))
    x = images((1, 2 if is_complex else 1, 9, 8)).requires_grad_()
    phase = phase_of((1, 1, 9, 8)) if is_complex else None
    assert torch.autograd.gradcheck(lambda x: prior.log_prob(x, 0.1, phase=phase, offset=(2, 1)), x)


@pytest.mark.parametrize(
    ("make", "inference"), [*((random_network, inference) for inference in INFERENCES), (random_mixture, "bank")]
)
@pytest.mark.parametrize("is_complex", [False, True])
def test_the_derivative_of_the_denoiser(make, inference, is_complex):
    """Of the whole function, whatever the chunks, and of the images alone."""
    prior = PatchVAEPrior(make(), inference, intensity=(0.0, 0.7), samples=2, chunk_size=9)
    x = images((2, 2 if is_complex else 1, 8, 10)).requires_grad_()
    phase = phase_of((2, 1, 8, 10)) if is_complex else None
    sigma = torch.tensor([0.1, 0.3], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: prior.denoise(x, sigma, phase=phase, offset=(2, 1)), x, fast_mode=True)
    prior.denoise(x, sigma, phase=phase).sum().backward()
    assert all(parameter.grad is None for parameter in prior.parameters())
    assert not prior.denoise(x.detach(), sigma, phase=phase).requires_grad


@pytest.mark.parametrize("make", [random_network, random_mixture])
@pytest.mark.parametrize("is_complex", [False, True])
def test_the_banks_derivative_is_symmetric(is_complex, make):
    """It is the Hessian of log p, and I + σ² times it that of the denoiser."""
    prior = PatchVAEPrior(make(), intensity=(0.0, 0.7))
    x = images((1, 2 if is_complex else 1, 8, 10))
    phase = phase_of((1, 1, 8, 10)) if is_complex else None

    def derivative(function):
        return torch.autograd.functional.jacobian(lambda x: function(x, 0.1, phase=phase), x).view(2 * [x.numel()])

    hessian, jacobian = derivative(prior.grad), derivative(prior.denoise)
    torch.testing.assert_close(hessian, hessian.T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(jacobian, torch.eye(x.numel(), dtype=x.dtype) + 0.01 * hessian)


def test_the_derivative_of_a_wiener_filter_is_the_filter():
    """Of one patch in its DCT: v / (v + σ²)."""
    network, _, variance = wiener_network()
    prior = PatchVAEPrior(network, stride=8, **UNITS)
    jacobian = torch.autograd.functional.jacobian(lambda x: prior.denoise(x, 0.3), images((1, 1, 8, 8)))
    basis = network.patches(torch.eye(64, dtype=torch.float64)).flatten(1)
    expected = basis.T @ torch.diag(variance / (variance + 0.09)) @ basis
    torch.testing.assert_close(jacobian.view(64, 64), expected)


def test_the_derivative_looks_at_a_chunk_at_a_time(monkeypatch):
    prior = PatchVAEPrior(random_network(), chunk_size=5)
    seen, score = [], prior.patch_score

    def counting(patches, **rest):
        seen.append(len(patches))
        return score(patches, **rest)

    monkeypatch.setattr(prior, "patch_score", counting)
    prior.denoise(images((1, 1, 16, 16)).requires_grad_(), 0.1).sum().backward()
    assert max(seen) == 5
    assert sum(seen) == 2 * 64  # once forth and once back


@pytest.mark.parametrize("inference", INFERENCES)
def test_log_prob_against_brute_force(inference):
    """Patch by patch and latent by latent, with q and its latents held fixed in the gradient."""
    network = random_network()
    prior = PatchVAEPrior(network, inference, samples=3, **UNITS)
    x, sigma, stride = images((1, 1, 12, 10)).requires_grad_(), 0.1, 2
    y = network.coefficients(patches_of(x, 8, stride)[0])
    if inference == "bank":
        mean, variance = network.decode(network.bank)
        densities = diagonal_log_prob(y[:, None], mean, variance + sigma**2)
        log_prob = torch.logsumexp(densities, 1) - math.log(len(network.bank))
    else:
        noise = prior.patch_noise(len(y), torch_rng(0, "prior")).double()
        with torch.no_grad():
            mu, log_var = network.encode(y, sigma)
            z = mu[:, None] + torch.exp(0.5 * log_var)[:, None] * noise
            q = torch.distributions.Normal(mu[:, None], torch.exp(0.5 * log_var)[:, None])
            p = torch.distributions.Normal(0, 1)
            ratio = (p.log_prob(z) - q.log_prob(z)).sum(2)
            kl = torch.distributions.kl_divergence(torch.distributions.Normal(mu, torch.exp(0.5 * log_var)), p).sum(1)
        parts = []
        for k in range(3):
            mean, variance = network.decode(z[:, k])
            parts.append(diagonal_log_prob(y, mean, variance + sigma**2))
        densities = torch.stack(parts, 1)
        log_prob = densities.mean(1) - kl
        if inference == "importance":
            log_prob = torch.logsumexp(densities + ratio, 1) - math.log(3)
    expected = log_prob.sum() / 16
    torch.testing.assert_close(prior.log_prob(x.detach(), sigma), expected.detach()[None])
    (gradient,) = torch.autograd.grad(expected, x)
    torch.testing.assert_close(prior.grad(x.detach(), sigma), gradient)


@pytest.mark.parametrize("inference", INFERENCES)
def test_a_decoder_constant_in_z_is_the_wiener_filter(inference):
    """The density of one Gaussian for each patch; the encoder's bound lacks the KL alone."""
    network, mean, variance = wiener_network()
    prior = PatchVAEPrior(network, inference, stride=8, samples=2, **UNITS)
    x, sigma = images((1, 1, 16, 8)), 0.2
    y = network.coefficients(patches_of(x, 8, 8)[0])
    filtered = mean + variance / (variance + sigma**2) * (y - mean)
    expected = network.patches(filtered)
    denoised = prior.denoise(x, sigma)
    torch.testing.assert_close(patches_of(denoised, 8, 8)[0], expected)
    if inference == "bank":
        log_prob = torch.distributions.Normal(mean, (variance + sigma**2).sqrt()).log_prob(y).sum()
        torch.testing.assert_close(prior.log_prob(x, sigma), log_prob[None])


@pytest.mark.parametrize("latent_size", [1, 2])
def test_a_linear_decoder_integrated_over_the_latent_is_its_gaussian(latent_size):
    network, mean, covariance = linear_network(latent_size)
    log_weights = use_quadrature(network)
    sigma = 0.3
    y = network.coefficients(images((6, 1, 8, 8))[:, 0])
    noisy = covariance + sigma**2 * torch.eye(64, dtype=torch.float64)
    gaussian = torch.distributions.MultivariateNormal(mean, noisy)
    component, variance = network.decode(network.bank)
    scored = mixture_score(y, component, variance + sigma**2, log_weights)
    torch.testing.assert_close(scored.log_prob, gaussian.log_prob(y), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scored.score, -torch.linalg.solve(noisy, (y - mean).T).T, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("inference", INFERENCES)
@pytest.mark.parametrize("is_complex", [False, True])
def test_without_noise_the_input_comes_back(inference, is_complex):
    prior = PatchVAEPrior(random_network(), inference, samples=2)
    x = images((1, 2 if is_complex else 1, 10, 9))
    phase = phase_of((1, 1, 10, 9)) if is_complex else None
    torch.testing.assert_close(prior.denoise(x, 1e-9, phase=phase), x, rtol=0, atol=1e-8)
    assert torch.equal(prior.denoise(x, 0.0, phase=phase), x)


def test_a_global_phase_turns_the_result_and_leaves_its_magnitude():
    prior = PatchVAEPrior(random_network())
    x, phase, turn = images((2, 2, 10, 12)), phase_of((2, 1, 10, 12)), complex(math.cos(1.1), math.sin(1.1))
    turned = torch.complex(x[:, :1], x[:, 1:]) * turn
    a = prior.denoise(x, 0.1, phase=phase)
    b = prior.denoise(torch.cat([turned.real, turned.imag], 1), 0.1, phase=phase * turn)
    torch.testing.assert_close(torch.complex(b[:, :1], b[:, 1:]), torch.complex(a[:, :1], a[:, 1:]) * turn)
    values = [prior.log_prob(x, 0.1, phase=phase)]
    values.append(prior.log_prob(torch.cat([turned.real, turned.imag], 1), 0.1, phase=phase * turn))
    torch.testing.assert_close(*values)


def test_an_angle_is_a_phase():
    prior = PatchVAEPrior(random_network())
    x, phase = images((2, 2, 10, 12)), phase_of((1, 1, 10, 12))
    torch.testing.assert_close(prior.grad(x, 0.1, phase=phase), prior.grad(x, 0.1, phase=phase.angle()))


def test_the_imaginary_part_is_shrunk_and_the_real_part_is_as_without_it():
    prior = PatchVAEPrior(random_network(), imaginary_std=0.3)
    x = images((1, 2, 8, 8))
    phase = torch.ones(1, 1, 8, 8, dtype=torch.complex128)
    denoised = prior.denoise(x, 0.4, phase=phase)
    torch.testing.assert_close(denoised[:, :1], prior.denoise(x[:, :1], 0.4))
    torch.testing.assert_close(denoised[:, 1:], x[:, 1:] * 0.09 / (0.09 + 0.16))
    imaginary = torch.distributions.Normal(0, 0.5).log_prob(x[:, 1:]).sum()
    torch.testing.assert_close(prior.log_prob(x, 0.4, phase=phase), prior.log_prob(x[:, :1], 0.4) + imaginary)


def test_units_change_the_density_by_their_jacobian():
    network, x = random_network(), images()
    model, user = PatchVAEPrior(network, **UNITS), PatchVAEPrior(network, intensity=(100.0, 500.0))
    given = 100 + 400 * x
    scaled = 2 * x - 1
    torch.testing.assert_close(user.log_prob(given, 40.0), model.log_prob(scaled, 0.2) + 16 * 12 * math.log(2 / 400))
    torch.testing.assert_close(user.denoise(given, 40.0), 100 + 200 * (model.denoise(scaled, 0.2) + 1))


@pytest.mark.parametrize("inference", INFERENCES)
def test_neither_chunks_nor_the_batch_change_a_number(inference):
    network, x = random_network(), images((3, 1, 16, 12))
    whole, small = (PatchVAEPrior(network, inference, samples=2, chunk_size=n) for n in (4096, 5))
    torch.testing.assert_close(small.log_prob(x, 0.1), whole.log_prob(x, 0.1), rtol=1e-12, atol=0)
    torch.testing.assert_close(small.grad(x, 0.1), whole.grad(x, 0.1), rtol=1e-10, atol=1e-12)
    one_by_one = torch.cat([whole.grad(image[None], 0.1) for image in x])
    torch.testing.assert_close(whole.grad(x, 0.1), one_by_one, rtol=1e-10, atol=1e-12)


def test_the_image_is_a_torus_without_seams():
    """A shift of image and grid alike shifts the result."""
    prior, x = PatchVAEPrior(random_network()), images((1, 1, 12, 9))
    shifted = prior.grad(x.roll((5, 4), (2, 3)), 0.1, offset=(6, 5))
    torch.testing.assert_close(shifted, prior.grad(x, 0.1, offset=(1, 1)).roll((5, 4), (2, 3)))


def test_a_float32_network_takes_float64_images():
    prior = PatchVAEPrior(random_network().float())
    x = images()
    assert prior.denoise(x, 0.1).dtype == torch.float64
    torch.testing.assert_close(prior.denoise(x.float(), 0.1).double(), prior.denoise(x, 0.1), rtol=0, atol=1e-5)


def test_it_stays_in_evaluation_mode():
    prior = PatchVAEPrior(random_network().train())
    assert not prior.train().network.training


def calibrated(elbo, bank):
    network = random_network()
    network.calibration.copy_(torch.tensor([[0.01, elbo, bank]] * 4))
    return network


def test_a_bank_that_misses_what_the_encoder_finds_is_refused():
    message = (
        r"^the bank of 32 latents has a mean log-density of 40\.00 nats a patch on held-out patches, below the "
        r"encoder's bound of 41\.50, so that .*; take the inference 'importance' or 'encoder'\."
    )
    with pytest.raises(ValueError, match=message):
        PatchVAEPrior(calibrated(41.5, 40.0))
    PatchVAEPrior(calibrated(41.5, 40.0), "importance")
    PatchVAEPrior(calibrated(41.5, 42.0))


def test_discrete_latents_are_summed_and_need_no_encoder():
    network, x = random_mixture(), images((1, 1, 12, 10))
    prior = PatchVAEPrior(network, **UNITS)
    expected = network.density(network.coefficients(patches_of(x, 8, 2)[0]), 0.1)
    torch.testing.assert_close(prior.log_prob(x, 0.1), expected.log_prob.sum()[None] / 16)
    torch.testing.assert_close(prior.denoise(x, 0.1), x + 0.01 * prior.grad(x, 0.1))
    assert torch.equal(prior.denoise(x, 0.0), x)
    for inference in ("encoder", "importance"):
        with pytest.raises(ValueError, match=f"inference is '{inference}', but a PatchMixture sums over all latents"):
            PatchVAEPrior(network, inference)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(16, 16, 16), {}, r"the images have shape \(16, 16, 16\), where \(B, 1, H, W\).*volume as a batch"),
        (torch.zeros(1, 3, 16, 16), {}, r"shape \(1, 3, 16, 16\)"),
        (torch.zeros(0, 1, 16, 16), {}, r"shape \(0, 1, 16, 16\)"),
        (torch.zeros(1, 1, 16, 7), {}, "the images have 16×7 pixels, fewer than the prior's patches of 8×8; pad them"),
        (torch.full((1, 1, 16, 16), math.nan), {}, "hold NaN or infinite values"),
        (torch.zeros(1, 1, 16, 16, dtype=torch.complex64), {}, r"complex numbers; give real and imaginary part as two"),
        (torch.zeros(1, 2, 16, 16), {}, "the images are complex and come without a phase"),
        (torch.zeros(1, 1, 16, 16), {"phase": torch.zeros(1, 1, 16, 16)}, "real and come with a phase"),
        (torch.zeros(1, 2, 16, 16), {"phase": torch.zeros(1, 1, 16, 8)}, r"phase has shape \(1, 1, 16, 8\), but"),
        (torch.zeros(1, 2, 16, 16), {"phase": torch.zeros(1, 1, 16, 16) + 2j}, "complex numbers of modulus 1"),
        (torch.zeros(1, 1, 16, 16), {"sigma": -0.1}, "sigma must be a standard deviation of at least 0"),
        (torch.zeros(2, 1, 16, 16), {"sigma": torch.ones(3)}, "one for each of the 2 images"),
    ],
)
def test_input_that_does_not_fit_is_refused_in_a_sentence(x, options, message):
    prior = PatchVAEPrior(random_network().float())
    options = {"sigma": 0.1, **options}
    for method in (prior.log_prob, prior.grad, prior.denoise):
        with pytest.raises(ValueError, match=message):
            method(x, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inference": "exact"}, "inference must be one of"),
        ({"stride": 3}, "stride must be a divisor of the patches' size 8, but is 3"),
        ({"intensity": (1.0, 1.0)}, "intensity must be two numbers"),
        ({"imaginary_std": 0.0}, "imaginary_std must be positive"),
        ({"samples": 0}, "samples must be positive"),
        ({"chunk_size": 0}, "chunk_size must be positive"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PatchVAEPrior(random_network(), **arguments)
