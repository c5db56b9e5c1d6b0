import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from monai_blurvae.functional import gaussian_log_normalizer
from monai_blurvae.functional.likelihood import residual_power, stationary_log_prob, stationary_sample
from tests.dense import circulant, random_kernel

SIZES = [(5, 6), (4, 7), (6, 4)]


def symmetric_kernel(size, seed):
    """A point-symmetric filter whose circulant matrix is a covariance, by its dense square."""
    generator = torch.Generator().manual_seed(seed)
    matrix = circulant(torch.rand(3, 3, generator=generator, dtype=torch.float64), size)
    return matrix @ matrix.T + 0.1 * torch.eye(matrix.shape[0], dtype=torch.float64)


def half_spectrum(covariance, size):
    """Eigenvalues of a block-circulant covariance: the DFT of its first column."""
    eigenvalues = torch.fft.rfft2(covariance[:, 0].reshape(size))
    torch.testing.assert_close(eigenvalues.imag, torch.zeros_like(eigenvalues.imag), atol=1e-10, rtol=0)
    return eigenvalues.real


def residuals(size, channels, batch=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_log_prob_with_a_shared_spectrum_is_the_dense_gaussian(size, channels):
    covariance = symmetric_kernel(size, 0)
    residual = residuals(size, channels)
    dense = torch.block_diag(*[covariance] * channels)
    expected = MultivariateNormal(torch.zeros(dense.shape[0], dtype=torch.float64), dense).log_prob(residual.flatten(1))
    torch.testing.assert_close(stationary_log_prob(residual, half_spectrum(covariance, size)[None, None]), expected)


@pytest.mark.parametrize("size", SIZES)
def test_each_image_and_channel_may_have_its_own_spectrum(size):
    residual = residuals(size, channels=2, batch=2)
    covariances = [[symmetric_kernel(size, 2 * b + c) for c in range(2)] for b in range(2)]
    variance = torch.stack([torch.stack([half_spectrum(c, size) for c in row]) for row in covariances])
    dense = torch.stack([torch.block_diag(*row) for row in covariances])
    expected = MultivariateNormal(torch.zeros(dense.shape[-1], dtype=torch.float64), dense).log_prob(
        residual.flatten(1)
    )
    torch.testing.assert_close(stationary_log_prob(residual, variance), expected)


@pytest.mark.parametrize("size", SIZES)
def test_log_prob_of_zero_is_the_log_determinant(size):
    covariance = symmetric_kernel(size, 3)
    zero = torch.zeros(1, 1, *size, dtype=torch.float64)
    log_det = torch.linalg.slogdet(covariance).logabsdet
    expected = -0.5 * log_det - gaussian_log_normalizer(covariance.shape[0])
    torch.testing.assert_close(stationary_log_prob(zero, half_spectrum(covariance, size)[None, None])[0], expected)


def test_residual_power_is_the_squared_full_dft():
    residual = residuals((5, 6), channels=2)
    full = torch.fft.fft2(residual, norm="ortho").abs().square()
    torch.testing.assert_close(residual_power(residual), full[..., :4])


def test_the_mean_power_is_the_most_likely_variance():
    residual = residuals((5, 6), channels=1, batch=7)
    log_variance = residual_power(residual).mean(0, keepdim=True).log().requires_grad_()
    stationary_log_prob(residual, log_variance.exp()).sum().backward()
    torch.testing.assert_close(log_variance.grad, torch.zeros_like(log_variance), atol=1e-10, rtol=0)


def dense_covariance(size, seed):
    """Σ = KKᵀ + 0.1 by explicit matrices, in any number of dimensions."""
    matrix = circulant(random_kernel((3,) * len(size), seed), size)
    return matrix @ matrix.T + 0.1 * torch.eye(len(matrix), dtype=torch.float64)


def eigenvalues(covariance, size):
    full = torch.fft.fftn(covariance[:, 0].reshape(size)).real
    return full[..., : size[-1] // 2 + 1]


def linear_map(variance, size, channels):
    """The matrix A of a draw Ae, column by column: the images of the unit vectors."""
    dimensions = channels * math.prod(size)
    units = torch.eye(dimensions, dtype=torch.float64).view(dimensions, channels, *size)
    return stationary_sample(units, variance).flatten(1).T


@pytest.mark.parametrize("size", [*SIZES, (3, 4, 5), (4, 3, 4)])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_sample_has_the_dense_covariance(size, channels):
    covariances = [dense_covariance(size, seed) for seed in range(channels)]
    variance = torch.stack([eigenvalues(covariance, size) for covariance in covariances])[None]
    matrix = linear_map(variance, size, channels)
    dense = torch.block_diag(*covariances)
    torch.testing.assert_close(matrix @ matrix.T, dense, rtol=0, atol=1e-10)
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-10)
    assert torch.linalg.eigvalsh(matrix).min() > 0  # the symmetric root, not another


def test_each_image_may_be_drawn_with_its_own_spectrum():
    size, noise = (5, 6), residuals((5, 6), channels=2, batch=2)
    variance = torch.stack([eigenvalues(dense_covariance(size, seed), size) for seed in range(2)])[:, None]
    both = stationary_sample(noise, variance)
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], stationary_sample(noise[i : i + 1], variance[i : i + 1]))


def test_white_noise_of_variance_four_is_twice_the_noise():
    noise = residuals((4, 7), channels=3)
    variance = torch.full((1, 1, 4, 4), 4.0, dtype=torch.float64)
    torch.testing.assert_close(stationary_sample(noise, variance), 2 * noise)


@pytest.mark.parametrize("size", SIZES)
def test_the_mean_power_of_samples_is_the_variance(size):
    count, variance = 20_000, eigenvalues(dense_covariance(size, 5), size)[None, None]
    noise = torch.randn(count, 1, *size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    samples = stationary_sample(noise, variance)
    relative = residual_power(samples).mean(0, keepdim=True) / variance
    # |R_j|² / S_j is exponential of variance 1, or χ² of variance 2 where j is its own mirror image
    assert (relative - 1).abs().max() < 5 * math.sqrt(2 / count)
    # the quadratic form is χ² with D degrees of freedom, whose mean and variance are D and 2 D
    log_det = (torch.linalg.slogdet(dense_covariance(size, 5)).logabsdet).item()
    dimensions = math.prod(size)
    square = -2 * (stationary_log_prob(samples, variance) + gaussian_log_normalizer(dimensions)) - log_det
    assert abs(square.mean().item() - dimensions) < 5 * math.sqrt(2 * dimensions / count)
    assert square.var().item() == pytest.approx(2 * dimensions, rel=0.1)


def test_gradients():
    size = (4, 5)
    residual = residuals(size, channels=2, batch=2).requires_grad_()
    variance = half_spectrum(symmetric_kernel(size, 4), size).expand(1, 2, *size[:1], 3).clone().requires_grad_()
    assert torch.autograd.gradcheck(stationary_log_prob, (residual, variance))
    assert torch.autograd.gradcheck(residual_power, (residual,))
    assert torch.autograd.gradcheck(lambda e: stationary_sample(e, variance.detach()), (residual,))


@pytest.mark.parametrize("shape", [(1, 5, 4), (1, 1, 5, 6), (2, 1, 5, 4), (1, 3, 5, 4)])
def test_a_variance_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"variance has shape .*half spectrum of the residual has \(3, 2, 5, 4\)"):
        stationary_log_prob(residuals((5, 6), channels=2), torch.ones(shape, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"variance has shape .*half spectrum of the noise has \(3, 2, 5, 4\)"):
        stationary_sample(residuals((5, 6), channels=2), torch.ones(shape, dtype=torch.float64))
