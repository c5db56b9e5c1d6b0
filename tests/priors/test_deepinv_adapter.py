"""The prior in deepinv's own optimisers and samplers, with deepinv's own physics."""

import pytest
import torch

pytest.importorskip("deepinv")

from deepinv.models import Denoiser
from deepinv.optim import ADMM, GD, HQS, PGD
from deepinv.optim.data_fidelity import L2
from deepinv.optim.prior import PnP
from deepinv.physics import GaussianNoise
from deepinv.sampling import (
    DPS,
    ALDDataFidelity,
    DiffPIR,
    DPSDataFidelity,
    EulerSolver,
    PosteriorDiffusion,
    VarianceExplodingDiffusion,
)

from monai_blurvae.errors import SettingsError
from monai_blurvae.priors import PatchVAEPrior
from monai_blurvae.priors.deepinv_adapter import DeepinvDenoiser, DeepinvPrior, RealMRI, to_measurements, to_physics
from monai_blurvae.priors.reconstruction import (
    CartesianMRI,
    HalfQuadraticSplitting,
    centre_phase,
    centred_fft,
    reconstruction_measures,
)
from monai_blurvae.priors.reconstruction.splitting import as_channels, as_complex
from tests.priors.gaussian import GaussianPrior, power_law
from tests.priors.models import random_network
from tests.priors.phantom import head, scan

SIZE = (48, 40)
NOISE = 0.02
COILS = pytest.mark.parametrize("coils", [1, 4])


def gaussian():
    return GaussianPrior(power_law(*SIZE, 2.0, 1e-3, torch.float32), imaginary_std=0.02)


def problem(coils=1):
    kspace, operator, image = scan(coils=coils, noise_std=NOISE)
    return kspace, operator, image, centre_phase(kspace, operator)


def psnr(channels, image):
    return reconstruction_measures(as_complex(channels), image)[0]["psnr"]


@COILS
def test_the_operator_is_that_of_deepinv(coils):
    kspace, operator, image, phase = problem(coils)
    physics = to_physics(operator)
    torch.testing.assert_close(physics.A(as_channels(image)), to_measurements(operator.forward(image), operator))
    torch.testing.assert_close(
        physics.A_adjoint(to_measurements(kspace, operator)), as_channels(operator.adjoint(kspace))
    )
    real = RealMRI(operator, phase)
    x = image.abs()
    torch.testing.assert_close(real.A(x), real.to_measurements(operator.forward(phase * x)))
    assert real.adjointness_test(x).abs() < 1e-3


def test_value_gradient_and_proximal_step():
    _, _, image, phase = problem()
    x, prior = as_channels(image).clone(), DeepinvPrior(gaussian(), phase=phase)
    assert prior.explicit_prior
    assert prior.fn(x, 0.1).shape == (1,)
    torch.testing.assert_close(prior(x, 0.1), -gaussian().log_prob(x, 0.1, phase=phase))
    torch.testing.assert_close(prior.grad(x, 0.1), (x - prior.prox(x, 0.1)) / 0.01, atol=1e-3, rtol=1e-4)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(prior.fn(leaf, 0.1).sum(), leaf)
    torch.testing.assert_close(prior.grad(x, 0.1), gradient, atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(prior.prox(x, 0.1, gamma=5.0), gaussian().denoise(x, 0.1, phase=phase))


def test_noise_level():
    x = as_channels(problem()[2]).expand(3, 2, *SIZE)
    denoiser = DeepinvDenoiser(gaussian())
    assert isinstance(denoiser, Denoiser)
    three = denoiser(x, torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1, 1, 1))
    for i, sigma in enumerate((0.1, 0.2, 0.3)):
        torch.testing.assert_close(three[i : i + 1], denoiser(x[:1], torch.tensor(sigma)))
    torch.testing.assert_close(DeepinvPrior(gaussian(), sigma=0.2).prox(x[:1]), denoiser(x[:1], 0.2))
    with pytest.raises(SettingsError, match="the prior needs a noise level; give the optimiser a g_param"):
        DeepinvPrior(gaussian()).prox(x)


@COILS
def test_half_quadratic_splitting_of_deepinv_is_ours(coils):
    kspace, operator, _, phase = problem(coils)
    ours = HalfQuadraticSplitting(gaussian(), 12, random_offsets=False)
    solver = HQS(
        L2(),
        DeepinvPrior(gaussian(), phase=phase),
        stepsize=[(sigma / NOISE) ** 2 for sigma in ours.sigmas],
        g_param=ours.sigmas,
        max_iter=12,
    )
    physics = to_physics(operator)
    if coils > 1:  # its conjugate gradients stop early otherwise
        physics.max_iter, physics.tol, physics.solver = 200, 1e-6, "CG"
    theirs = solver(to_measurements(kspace, operator), physics)
    expected = ours(kspace, operator, NOISE, phase)
    torch.testing.assert_close(as_complex(theirs), expected, atol=1e-5 if coils == 1 else 2e-3, rtol=0)


def proximal_gradient(prior):
    return PGD(L2(), prior, stepsize=1.0, g_param=0.03, max_iter=60)


def admm(prior):
    return ADMM(L2(), prior, stepsize=2.0, g_param=0.03, max_iter=40)


def plug_and_play(prior):
    return PGD(L2(), PnP(DeepinvDenoiser(prior.prior, prior.phase)), stepsize=1.0, g_param=0.03, max_iter=60)


def splitting(prior):
    return HQS(L2(), prior, stepsize=2.0, g_param=0.03, max_iter=40)


@COILS
@pytest.mark.parametrize("method", [splitting, proximal_gradient, admm, plug_and_play])
def test_optimisers_come_nearer_than_zero_filling(coils, method):
    kspace, operator, image, phase = problem(coils)
    physics, y = to_physics(operator), to_measurements(kspace, operator)
    found, metrics = method(DeepinvPrior(gaussian(), phase=phase))(y, physics, compute_metrics=True)
    assert psnr(found, image) > psnr(physics.A_adjoint(y), image) + 0.5
    assert ("cost" in metrics) == (method is not plug_and_play)  # an explicit prior has one


@COILS
def test_gradient_descent_comes_to_the_maximum_of_the_posterior(coils):
    """‖A x − y‖²/(2 s²) − log p_σ(x) falls in every step, and its gradient vanishes at the end."""
    kspace, operator, _, phase = problem(coils)
    physics, y = to_physics(operator), to_measurements(kspace, operator)
    sigma, prior = 0.05, DeepinvPrior(gaussian(), phase=phase)
    solver = GD(L2(), prior, lambda_reg=NOISE**2, stepsize=0.5, g_param=sigma, max_iter=400, thres_conv=0.0)
    found, metrics = solver(y, physics, compute_metrics=True)
    cost = torch.tensor(metrics["cost"][0])
    assert (cost.diff() <= 1e-5 * cost[0].abs()).all()
    gradient = L2().grad(found, y, physics) + NOISE**2 * prior.grad(found, sigma)
    start = L2().grad(0 * found, y, physics)
    assert gradient.norm() < 1e-2 * start.norm()


@COILS
def test_plug_and_play_diffusion(coils):
    """DiffPIR clips to [0, 1], so that its images are real, with the phase in the physics."""
    kspace, operator, image, phase = problem(coils)
    physics = RealMRI(operator, phase)
    physics.noise_model = GaussianNoise(NOISE)
    sampler = DiffPIR(DeepinvDenoiser(gaussian()), L2(), sigma=NOISE, max_iter=30)
    found = sampler(physics.to_measurements(kspace), physics, seed=1)
    quality = reconstruction_measures(found, image)[0]["psnr"]
    assert quality > psnr(as_channels(operator.adjoint(kspace)), image)


@COILS
def test_posterior_diffusion(coils):
    """A reverse diffusion with Jalal's likelihood, which asks no gradient of the denoiser; for complex images."""
    kspace, operator, _, phase = problem(coils)
    physics, y = to_physics(operator), to_measurements(kspace, operator)
    physics.noise_model = GaussianNoise(NOISE)
    denoiser = DeepinvDenoiser(gaussian(), phase)
    solver = EulerSolver(timesteps=torch.linspace(1, 0.001, 120), rng=torch.Generator())
    sampler = PosteriorDiffusion(
        ALDDataFidelity(),
        denoiser,
        VarianceExplodingDiffusion(sigma_min=0.01, sigma_max=1.0, alpha=1.0),
        solver,
        dtype=torch.float32,
        minus_one_one=False,
    )
    samples = torch.cat([sampler(y, physics, x_init=(1, 2, *SIZE), seed=seed) for seed in range(4)])
    spread = centred_fft(as_complex(samples.float())).abs()
    if coils == 1:  # what was measured is known, what was not is drawn
        sampled = operator.mask.bool()[0, 0]
        deviation = (spread - spread.mean(0)).square().mean(0)[0]
        assert deviation[~sampled].mean() > 2 * deviation[sampled].mean()
    assert samples.std(0).mean() > 1e-3
    residual = physics.A(samples.mean(0, keepdim=True).float()) - y
    assert residual[residual != 0].square().mean().sqrt() < 3 * NOISE


def small_problem():
    """A real image of 16×12, its physics, measurements, and a PatchVAE prior in float64."""
    mask = torch.zeros(12)
    mask[[0, 3, 5, 6, 7, 8, 10]] = 1
    operator, image = CartesianMRI(mask, (16, 12)), head(16, 12, dtype=torch.float64)
    physics = RealMRI(operator, torch.ones(1, 1, 16, 12, dtype=torch.complex128))
    physics.noise_model = GaussianNoise(NOISE)
    return physics, physics.A(image), PatchVAEPrior(random_network())


def test_the_likelihood_of_diffusion_posterior_sampling_differentiates_the_denoiser():
    """∇ ‖A D(x) − y‖ = Jᵀ Aᵀ (A D(x) − y) / ‖A D(x) − y‖ with the whole Jacobian J of D (Chung et al. 2022)."""
    physics, y, prior = small_problem()
    denoiser = DeepinvDenoiser(prior)
    x = torch.rand(1, 1, 16, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = DPSDataFidelity(denoiser).grad(x.clone(), y, physics, 0.2)
    jacobian = torch.autograd.functional.jacobian(lambda x: denoiser(x, 0.2), x).view(x.numel(), x.numel())
    residual = physics.A(denoiser(x, 0.2)) - y
    expected = jacobian.T @ physics.A_adjoint(residual).flatten() / residual.norm()
    torch.testing.assert_close(found.flatten(), expected)


def test_diffusion_posterior_sampling():
    """Its guidance brings the samples nearer to the data than those of the prior alone are."""
    physics, y, prior = small_problem()

    def residual(weight):
        rng = torch.Generator()
        sampler = DPS(DeepinvDenoiser(prior), schedule="ve", num_steps=60, weight=weight, guidance="annealed", rng=rng)
        sample = sampler(y, physics, x_init=(1, 1, 16, 12), seed=0)
        assert torch.isfinite(sample).all()
        return float((physics.A(sample) - y).norm() / y.norm())

    assert residual(1.0) < 0.5 * residual(0.0)
