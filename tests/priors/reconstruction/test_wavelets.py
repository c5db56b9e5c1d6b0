import pytest
import torch

pytest.importorskip("deepinv")

from monai_blurvae.priors.reconstruction import WaveletSparsity, ZeroFilled, reconstruction_measures
from monai_blurvae.priors.reconstruction.wavelets import WaveletPrior
from tests.priors.phantom import scan


def images(channels, size=(16, 32), seed=0):
    return torch.randn(2, channels, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def haar(n):
    """The orthonormal Haar matrix of one level: means first, then differences."""
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n // 2):
        matrix[i, 2 * i] = matrix[i, 2 * i + 1] = matrix[n // 2 + i, 2 * i] = 2**-0.5
        matrix[n // 2 + i, 2 * i + 1] = -(2**-0.5)
    return matrix


@pytest.mark.parametrize("channels", [1, 2])
def test_proximal_step_is_that_of_the_haar_matrix(channels):
    """One level by hand: shrink the moduli of all coefficients but those of the means."""
    x, gamma = images(channels), 0.6
    image = torch.complex(x[:, :1], x[:, 1:]) if channels == 2 else x
    rows, columns = haar(16).to(image.dtype), haar(32).to(image.dtype)
    coefficients = rows @ image @ columns.T
    modulus = coefficients.abs()
    shrunk = coefficients * (1 - gamma / modulus).clamp_min(0)
    shrunk[..., :8, :16] = coefficients[..., :8, :16]
    expected = rows.T @ shrunk @ columns
    found = WaveletPrior("haar", 1, seed=None).prox(x, gamma=gamma)
    torch.testing.assert_close(found, torch.cat([expected.real, expected.imag], 1) if channels == 2 else expected)
    modulus[..., :8, :16] = 0
    torch.testing.assert_close(WaveletPrior("haar", 1, seed=None).fn(x), modulus.sum((1, 2, 3)))


@pytest.mark.parametrize("size", [(16, 32), (17, 30)])
@pytest.mark.parametrize("channels", [1, 2])
def test_without_a_threshold_the_image_is_kept(channels, size):
    x = images(channels, size)
    torch.testing.assert_close(WaveletPrior("db4", 2).prox(x, gamma=0.0), x)


def test_the_proximal_step_is_a_minimum():
    x, gamma, prior = images(1), 0.3, WaveletPrior("db4", 2, seed=None)
    u = prior.prox(x, gamma=gamma)

    def objective(image):
        return 0.5 * (image - x).square().sum((1, 2, 3)) + gamma * prior.fn(image)

    for seed in range(10):
        assert (objective(u + 1e-3 * images(1, seed=seed + 1)) > objective(u)).all()


@pytest.mark.parametrize("coils", [1, 4])
@pytest.mark.parametrize("real", [True, False])
def test_reconstruction_beats_zero_filling(coils, real):
    kspace, operator, image = scan(coils=coils)
    found, zero_filled = WaveletSparsity(1e-2, real)(kspace, operator), ZeroFilled()(kspace, operator)
    psnrs = [reconstruction_measures(x, image)[0]["psnr"] for x in (found, zero_filled)]
    assert psnrs[0] > psnrs[1] + 1
