"""Half-quadratic splitting against the closed form that it has under a Gaussian prior; phase, measures, convergence."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from monai_blurvae.errors import DataError
from monai_blurvae.priors import ImagePrior
from monai_blurvae.priors.reconstruction import (
    CartesianMRI,
    ConvergenceWatcher,
    DeepDensityPrior,
    HalfQuadraticSplitting,
    ZeroFilled,
    centre_phase,
    centred_fft,
    centred_ifft,
    gaussian_line_mask,
    kspace_scale,
    reconstruction_measures,
    simulate_coil_maps,
    simulate_phase,
    smooth_phase,
)
from monai_blurvae.priors.reconstruction.splitting import as_channels, as_complex, unit_phase
from tests.priors.gaussian import GaussianPrior, power_law
from tests.priors.phantom import head, scan

SIZE = (48, 40)


def prior(dtype=torch.float32):
    return GaussianPrior(power_law(*SIZE, 2.0, 1e-3, dtype), imaginary_std=0.02)


def test_the_test_prior_is_one():
    assert isinstance(prior(), ImagePrior)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_test_prior_obeys_tweedie(channels):
    gaussian = prior(torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, *SIZE, dtype=torch.float64, generator=generator).requires_grad_()
    sigma = torch.tensor([0.1, 0.3], dtype=torch.float64)
    phase = torch.polar(*torch.tensor([1.0, 0.7], dtype=torch.float64)).expand(2, 1, *SIZE)
    given = {"phase": phase} if channels == 2 else {}
    (gradient,) = torch.autograd.grad(gaussian.log_prob(x, sigma, **given).sum(), x)
    torch.testing.assert_close(gaussian.grad(x, sigma, **given), gradient)


def test_closed_form_at_one_sigma():
    """(x, v) minimise ‖A x − y‖²/s² + ‖x − v‖²/σ² + vᵀ Σ⁻¹ v; with a mask that has k and −k all of it is diagonal."""
    mask = torch.zeros(40)
    mask[[20, 21, 19, 22, 18, 24, 16, 29, 11, 23, 17]] = 1
    operator = CartesianMRI(mask, SIZE)
    generator = torch.Generator().manual_seed(0)
    kspace = centred_fft(torch.complex(*torch.randn(2, 1, 1, *SIZE, generator=generator, dtype=torch.float64)))
    kspace = operator.mask * kspace
    noise, sigma = 0.3, 0.5
    gaussian = prior(torch.float64)
    ones = torch.ones(1, 1, *SIZE, dtype=torch.complex128)
    found = HalfQuadraticSplitting(gaussian, 400, sigma, sigma)(kspace, operator, noise, ones)

    def part(image, variance):
        """x = y (S + σ²)/(S + σ² + s²) where sampled, 0 elsewhere, and v = x S/(S + σ²)."""
        gain = operator.mask * variance / (variance + sigma**2 + noise**2)
        return centred_ifft(gain * centred_fft(image.to(torch.complex128))).real

    zero_filled = centred_ifft(kspace)
    real = part(zero_filled.real, torch.fft.fftshift(gaussian.variance))
    imaginary = part(zero_filled.imag, torch.full(SIZE, 0.02**2, dtype=torch.float64))
    torch.testing.assert_close(found, torch.complex(real, imaginary), atol=1e-9, rtol=0)


@pytest.mark.parametrize("coils", [1, 4])
def test_measured_samples_are_kept_where_there_is_no_noise(coils):
    kspace, operator, _ = scan(coils=coils, noise_std=0.0)
    image = HalfQuadraticSplitting(prior(), 20)(kspace, operator)
    kept = 1e-6 if coils == 1 else 5e-5  # many coils take conjugate gradients, in float32
    assert (operator.forward(image) - kspace).abs().max() < kept * kspace.abs().max()


@pytest.mark.parametrize("coils", [1, 4])
def test_it_is_nearer_than_zero_filling(coils):
    kspace, operator, image = scan(coils=coils)
    quality = [
        reconstruction_measures(method(kspace, operator, 0.01), image)[0]["psnr"]
        for method in (ZeroFilled(), HalfQuadraticSplitting(prior()))
    ]
    assert quality[1] > quality[0] + 1


def test_slices_of_a_batch_are_reconstructed_each_by_itself():
    kspace, operator, _ = scan(coils=3, slices=2)
    method = HalfQuadraticSplitting(prior(), 5)
    both = method(kspace, operator, 0.01)
    torch.testing.assert_close(both[1:], method(kspace[1:], operator, 0.01), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", [HalfQuadraticSplitting, DeepDensityPrior])
def test_a_global_phase_leaves_the_magnitude_unchanged(method):
    kspace, operator, _ = scan()
    kspace = kspace.to(torch.complex128)
    turned = kspace * torch.polar(*torch.tensor([1.0, 1.9], dtype=torch.float64))
    magnitudes = [method(prior(torch.float64))(y, operator, 0.01).abs() for y in (kspace, turned)]
    torch.testing.assert_close(magnitudes[0], magnitudes[1], atol=1e-9, rtol=0)


def test_offsets_are_drawn_and_the_same_again():
    kspace, operator, _ = scan()
    gaussians = [prior(), prior(), prior(), prior()]
    HalfQuadraticSplitting(gaussians[0], 40)(kspace, operator, 0.01)
    HalfQuadraticSplitting(gaussians[1], 40)(kspace, operator, 0.01)
    HalfQuadraticSplitting(gaussians[2], 40, seed=1)(kspace, operator, 0.01)
    HalfQuadraticSplitting(gaussians[3], 40, random_offsets=False)(kspace, operator, 0.01)
    drawn = [gaussian.offsets for gaussian in gaussians]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert set(drawn[3]) == {(0, 0)}
    assert {row for row, _ in drawn[0]} == {column for _, column in drawn[0]} == set(range(8))


def test_the_phase_is_that_of_the_image_so_far_unless_it_is_given():
    size = (96, 80)
    kspace, operator, image = scan(3.0, size=size)
    gaussians = [GaussianPrior(power_law(*size, 2.0, 1e-3, torch.float32), imaginary_std=0.02) for _ in range(3)]
    HalfQuadraticSplitting(gaussians[0], 40)(kspace, operator, 0.01)
    HalfQuadraticSplitting(gaussians[1], 40, phase_cycles=None)(kspace, operator, 0.01)
    true = image / image.abs()
    HalfQuadraticSplitting(gaussians[2], 40)(kspace, operator, 0.01, true)
    updated, kept, given = (gaussian.phases for gaussian in gaussians)
    torch.testing.assert_close(updated[0], centre_phase(kspace, operator))
    assert all(phase is kept[0] for phase in kept)
    assert all(phase is true for phase in given)
    tissue = image.abs() > 0.3
    errors = [(phase * true.conj()).angle().abs()[tissue].mean() for phase in (updated[0], updated[-1])]
    assert errors[1] < errors[0]


def test_steps_are_watched():
    kspace, operator, _ = scan()
    seen = []
    image = HalfQuadraticSplitting(prior(), 7)(kspace, operator, 0.01, watcher=lambda step, x: seen.append((step, x)))
    assert [step for step, _ in seen] == list(range(1, 8))
    torch.testing.assert_close(seen[-1][1], image)
    seen.clear()
    DeepDensityPrior(prior(), 3, 2)(kspace, operator, watcher=lambda step, x: seen.append(step))
    assert seen == [1, 2, 3]


def test_ddp_keeps_the_samples_of_one_coil():
    kspace, operator, _ = scan()
    image = DeepDensityPrior(prior(), 3)(kspace, operator)
    assert (operator.forward(image) - kspace).abs().max() < 1e-6 * kspace.abs().max()


@pytest.mark.parametrize("method", [HalfQuadraticSplitting, DeepDensityPrior])
def test_other_units(method):
    kspace, operator, _ = scan()
    with pytest.raises(DataError, match=r"k-space is in other units: the 99th percentile .* where about 1 is expected"):
        method(prior())(kspace * 1e-5, operator)
    assert kspace_scale(kspace * 1e-5, operator) == pytest.approx(1e-5 * kspace_scale(kspace, operator))


def test_bad_arguments():
    with pytest.raises(ValueError, match="sigma_start ≥ sigma_end > 0"):
        HalfQuadraticSplitting(prior(), sigma_start=0.01, sigma_end=0.1)
    with pytest.raises(ValueError, match="phase_cycles is 0; give a positive number, or None"):
        HalfQuadraticSplitting(prior(), phase_cycles=0)
    with pytest.raises(ValueError, match="blocks is 0"):
        DeepDensityPrior(prior(), blocks=0)


def test_channels():
    image = torch.complex(*torch.randn(2, 3, 1, 4, 5))
    channels = as_channels(image)
    torch.testing.assert_close(channels[:, 1], image[:, 0].imag)
    torch.testing.assert_close(as_complex(channels), image)


@pytest.mark.parametrize("coils", [1, 4])
def test_a_constant_phase_is_found(coils):
    size = (48, 40)
    maps = simulate_coil_maps(coils, size) if coils > 1 else None
    operator = CartesianMRI(gaussian_line_mask(40, 3, 9), size, maps)
    turn = torch.polar(torch.tensor(1.0), torch.tensor(2.5))
    plain = centre_phase(operator.forward(head(*size) * torch.ones((), dtype=torch.complex64)), operator)
    turned = centre_phase(operator.forward(head(*size) * turn), operator)
    inside = head(*size) > 0.3  # outside the phase is that of numbers near 0
    torch.testing.assert_close(turned[inside], (turn * plain)[inside], atol=1e-4, rtol=0)
    assert plain.angle()[inside].abs().max() < 0.1  # of a positive image


def test_a_smooth_phase_is_found_where_there_is_tissue():
    kspace, operator, image = scan(centre_lines=11, noise_std=0.0)
    error = (centre_phase(kspace, operator) * image.conj()).angle().abs()
    assert error[image.abs() > 0.3].mean() < 0.2


def test_the_phase_of_an_image_is_that_of_scipys_gaussian_filter():
    """A Gaussian of s cycles over n pixels is one of n / (2π s) pixels; s is at most an eighth of the smaller side."""
    generator = torch.Generator().manual_seed(0)
    image = torch.complex(*torch.randn(2, 2, 1, 32, 24, dtype=torch.float64, generator=generator))
    for slice_, found in zip(image[:, 0], smooth_phase(image, 2.0)[:, 0], strict=True):
        widths = [n / (4 * np.pi) for n in (32, 24)]
        filtered = np.fft.ifft2(scipy.ndimage.fourier_gaussian(np.fft.fft2(slice_.numpy()), widths))
        torch.testing.assert_close(found, torch.from_numpy(filtered / np.abs(filtered)))
    torch.testing.assert_close(smooth_phase(image), smooth_phase(image, 3.0))


def test_it_has_modulus_one_also_where_nothing_is():
    phase = unit_phase(torch.tensor([[0j, 3j, 1e-30 + 0j]]))
    torch.testing.assert_close(phase, torch.tensor([[1, 1j, 1]]).to(phase.dtype))
    torch.testing.assert_close(simulate_phase((8, 6), slices=2).abs(), torch.ones(2, 1, 8, 6))


def test_no_centre():
    mask = torch.ones(40)
    mask[20] = 0
    operator = CartesianMRI(mask, (48, 40))
    with pytest.raises(DataError, match="0 neighbouring lines around the centre of k-space are sampled"):
        centre_phase(torch.ones(1, 1, 48, 40, dtype=torch.complex64), operator)


def test_against_scikit_image():
    reference = head(slices=2)
    image = (reference + 0.1 * torch.randn(2, 1, 48, 40, generator=torch.Generator().manual_seed(0))).abs()
    for found, one, true in zip(
        reconstruction_measures(image * 1j, reference.to(torch.complex64)), image, reference, strict=True
    ):
        one, true = one[0].numpy(), true[0].numpy()
        nmse = mean_squared_error(true, one) / np.square(true).mean()
        ssim = structural_similarity(
            true, one, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert found["nmse"] == pytest.approx(nmse, rel=1e-4)
        assert found["rmse_percent"] == pytest.approx(100 * nmse**0.5, rel=1e-4)
        assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(true, one, data_range=1.0), rel=1e-4)
        assert found["ssim"] == pytest.approx(ssim, abs=1e-3)


def test_the_range_is_the_largest_of_all_references():
    reference = 7 * head(slices=2)
    image = reference + 0.5
    for data_range, expected in ((None, 7.0), (14.0, 14.0)):
        found = reconstruction_measures(image, reference, data_range)[1]["psnr"]
        assert found == pytest.approx(20 * np.log10(expected / 0.5), rel=1e-5)


def test_the_figures_of_each_step():
    """The transform is unitary: of fully sampled data the residual is the distance of the images."""
    image = torch.complex(*torch.randn(2, 1, 1, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    operator = CartesianMRI(torch.ones(8), (6, 8))
    reference = image.abs()[0, 0, 1:5]
    watcher = ConvergenceWatcher(centred_fft(image), operator, reference, 4.0, lambda x: x[..., 1:5, :])
    watcher(1, 0.9 * image)
    watcher(2, 0.99 * image)
    (zero, *steps), power = watcher.rows, float(reference.square().mean())
    assert zero[0] < 1e-12
    assert math.isnan(zero[1])
    for (residual, change, psnr), share, before in zip(steps, (0.9, 0.99), (1.0, 0.9), strict=True):
        assert residual == pytest.approx(1 - share)
        assert change == pytest.approx(abs(share - before) / share)
        assert psnr == pytest.approx(10 * math.log10(4.0**2 / ((1 - share) ** 2 * power)))


def test_without_a_reference_there_is_no_psnr():
    operator = CartesianMRI(torch.tensor([0.0, 1, 1, 0]), (4, 4))
    watcher = ConvergenceWatcher(operator.forward(torch.ones(1, 1, 4, 4, dtype=torch.complex64)), operator)
    assert math.isnan(watcher.rows[0][2])
