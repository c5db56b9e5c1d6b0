import pytest
import torch

from monai_blurvae.errors import DataError
from monai_blurvae.priors.reconstruction import AnnealedLangevin, CartesianMRI, centred_fft
from tests.priors.gaussian import GaussianPrior, power_law
from tests.priors.phantom import scan

SIZE = (16, 12)


def test_spread_at_one_sigma_is_that_of_the_langevin_chain():
    """Of a Gaussian of precision λ it is 1 / (λ (1 − αλ/2)), at every frequency, and then the denoiser's gain squared.

    λ = 1 / (S + σ²), and where the real image is sampled 1 / (s² + σ²) more; a mask of all or nothing is diagonal.
    """
    variance = power_law(*SIZE, 1.0, 0.02)
    prior = GaussianPrior(variance, imaginary_std=0.1)
    sigma, noise, size = 0.3, 0.2, 0.4
    mask = torch.zeros(12)
    mask[[6, 5, 7, 4, 8, 2, 10]] = 1
    operator = CartesianMRI(mask, SIZE)
    sampler = AnnealedLangevin(prior, 1, 60, sigma, sigma, size)
    ones = torch.ones(400, 1, *SIZE, dtype=torch.complex128)  # slices, each with noise of its own
    samples = sampler(operator.forward(ones), operator, noise, ones, samples=1)[0, :, 0].real
    spectrum = centred_fft(samples.to(torch.complex128)[:, None])[:, 0]
    found = (spectrum - spectrum.mean(0)).abs().square().mean(0)
    prior_variance = torch.fft.fftshift(variance)
    precision = 1 / (prior_variance + sigma**2) + operator.mask[0, 0] / (noise**2 + sigma**2)
    chain = 1 / (precision * (1 - size * sigma**2 * precision / 2))
    expected = chain * (prior_variance / (prior_variance + sigma**2)) ** 2
    ratio = found / expected
    assert ratio[:, mask == 1].mean() == pytest.approx(1, abs=0.06)
    assert ratio[:, mask == 0].mean() == pytest.approx(1, abs=0.06)


def test_samples_are_drawn_again_alike_and_differ():
    kspace, operator, _ = scan(coils=3, slices=2)
    prior = GaussianPrior(power_law(48, 40, 2.0, 1e-3, torch.float32))
    draws = [AnnealedLangevin(prior, 4, 1, seed=seed)(kspace, operator, 0.01, samples=2) for seed in (0, 0, 1)]
    assert draws[0].shape == (2, 2, 1, 48, 40)
    assert torch.equal(draws[0], draws[1])
    assert (draws[0] - draws[2]).abs().mean() > 1e-3
    assert (draws[0][0] - draws[0][1]).abs().mean() > 1e-3


def test_bad_arguments():
    kspace, operator, _ = scan()
    prior = GaussianPrior(power_law(48, 40, 2.0, 1e-3, torch.float32))
    with pytest.raises(DataError, match="in other units"):
        AnnealedLangevin(prior)(1000 * kspace, operator)
    with pytest.raises(ValueError, match="step_size 2; give"):
        AnnealedLangevin(prior, step_size=2.0)
