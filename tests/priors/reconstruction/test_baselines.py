import pytest
import torch

from monai_blurvae.priors.reconstruction import (
    CartesianMRI,
    RealLeastSquares,
    TotalVariation,
    ZeroFilled,
    estimate_coil_maps,
    reconstruction_measures,
    simulate_coil_maps,
)
from tests.priors.phantom import head, scan


def psnr(image, reference):
    return reconstruction_measures(image, reference)[0]["psnr"]


def test_zero_filling_of_everything_is_the_image():
    image = head() * torch.tensor(1j)
    operator = CartesianMRI(torch.ones(40), (48, 40))
    torch.testing.assert_close(ZeroFilled()(operator.forward(image), operator), image)


def test_real_values_need_half_of_kspace():
    """Without noise, and with the phase known, one half and the centre determine the image."""
    mask = torch.zeros(40)
    mask[:23] = 1
    operator = CartesianMRI(mask, (48, 40))
    phase = torch.polar(torch.ones(1, 1, 48, 40), torch.full((1, 1, 48, 40), 0.4))
    kspace = operator.forward(phase * head())
    torch.testing.assert_close(RealLeastSquares(50)(kspace, operator, phase=phase), phase * head(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("coils", [1, 4])
@pytest.mark.parametrize("real", [True, False])
def test_total_variation_of_an_image_of_few_constant_parts(coils, real):
    pytest.importorskip("deepinv")
    kspace, operator, image = scan(coils=coils)
    found = TotalVariation(5e-3, real=real)(kspace, operator)
    assert psnr(found, image) > psnr(ZeroFilled()(kspace, operator), image) + 2


def test_total_variation_is_at_its_minimum():
    """For a real image with the phase known; no image nearby has a lower objective."""
    pytest.importorskip("deepinv")
    kspace, operator, image = scan(size=(16, 12), centre_lines=5)
    phase, weight = image / image.abs().clamp_min(1e-9) + (image == 0), 0.02
    found = TotalVariation(weight, iterations=500, inner_iterations=100)(kspace, operator, phase=phase)
    real = (found * phase.conj()).real

    def objective(r):
        variation = torch.zeros(2, *r.shape)
        variation[0, ..., :-1, :] = r[..., 1:, :] - r[..., :-1, :]
        variation[1, ..., :-1] = r[..., 1:] - r[..., :-1]
        fit = (operator.forward(phase * r) - kspace).abs().square().sum()
        return float(0.5 * fit + weight * variation.square().sum(0).sqrt().sum())

    best = objective(real)
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-1, 1e-2, 3e-3):
        for _ in range(10):
            assert objective(real + scale * torch.randn(real.shape, generator=generator)) > best
    assert objective(0.99 * real) > best
    assert objective(1.01 * real) > best


def test_estimated_maps():
    """ESPIRiT's maps are the true ones up to a phase common to all coils, inside the head."""
    pytest.importorskip("sigpy")
    size = (48, 40)
    kspace, operator, image = scan(coils=4, noise_std=0.002, centre_lines=17)
    maps = estimate_coil_maps(kspace, operator.mask)
    true = simulate_coil_maps(4, size)
    agreement = (maps * true.conj()).sum(1).abs()
    assert agreement[image[:, 0].abs() > 0.3].min() > 0.97
    assert maps.shape == (1, 4, *size)
    assert maps.dtype == torch.complex64


def test_maps_need_a_centre():
    from monai_blurvae.errors import DataError

    kspace, operator, _ = scan(coils=4, centre_lines=5, acceleration=5)
    with pytest.raises(DataError, match=r"neighbouring lines around the centre .* where at least 8 are needed"):
        estimate_coil_maps(kspace, operator.mask)
