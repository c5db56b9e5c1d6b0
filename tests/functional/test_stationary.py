import pytest
import torch
from torch.distributions import MultivariateNormal

from monai_blurvae.functional import gaussian_log_normalizer
from monai_blurvae.functional.stationary import residual_power, stationary_log_prob
from tests.dense import circulant

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


def test_gradients():
    size = (4, 5)
    residual = residuals(size, channels=2, batch=2).requires_grad_()
    variance = half_spectrum(symmetric_kernel(size, 4), size).expand(1, 2, *size[:1], 3).clone().requires_grad_()
    assert torch.autograd.gradcheck(stationary_log_prob, (residual, variance))
    assert torch.autograd.gradcheck(residual_power, (residual,))


@pytest.mark.parametrize("shape", [(1, 5, 4), (1, 1, 5, 6), (2, 1, 5, 4), (1, 3, 5, 4)])
def test_a_variance_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"variance has shape .*half spectrum of the residual has \(3, 2, 5, 4\)"):
        stationary_log_prob(residuals((5, 6), channels=2), torch.ones(shape, dtype=torch.float64))
