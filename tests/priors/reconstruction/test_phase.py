import numpy as np
import pytest
import scipy.ndimage
import torch

from monai_blurvae.errors import DataError
from monai_blurvae.priors.reconstruction import (
    CartesianMRI,
    centre_phase,
    gaussian_line_mask,
    simulate_coil_maps,
    simulate_phase,
    smooth_phase,
)
from monai_blurvae.priors.reconstruction.splitting import unit_phase
from tests.priors.phantom import head, scan


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
