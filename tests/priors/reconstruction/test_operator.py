import pytest
import torch

from monai_blurvae.errors import DataError
from monai_blurvae.priors.reconstruction import (
    CartesianMRI,
    centred_fft,
    centred_ifft,
    gaussian_line_mask,
    simulate_coil_maps,
    simulate_phase,
)
from tests.priors.phantom import scan

SIZE = (14, 20)


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.complex(*torch.randn(2, *shape, generator=generator, dtype=torch.float64))


def operator(coils, dtype=torch.complex128):
    maps = simulate_coil_maps(coils, SIZE).to(dtype) if coils else None
    return CartesianMRI(gaussian_line_mask(20, 2, 5), SIZE, maps)


def test_a_constant_is_one_sample_in_the_centre():
    kspace = centred_fft(torch.ones(1, 1, 6, 9, dtype=torch.complex128))
    expected = torch.zeros(1, 1, 6, 9, dtype=torch.complex128)
    expected[..., 3, 4] = 54**0.5
    torch.testing.assert_close(kspace, expected)


@pytest.mark.parametrize("size", [(6, 9), (7, 8)])
def test_the_transform_is_unitary(size):
    image = noise(2, 3, *size)
    torch.testing.assert_close(centred_ifft(centred_fft(image)), image)
    torch.testing.assert_close(centred_fft(image).abs().square().sum(), image.abs().square().sum())


@pytest.mark.parametrize("coils", [0, 1, 5])
def test_adjoint(coils):
    a = operator(coils)
    image, kspace = noise(2, 1, *SIZE), noise(2, max(coils, 1), *SIZE, seed=1)
    left = (a.forward(image).conj() * kspace).sum()
    right = (image.conj() * a.adjoint(kspace)).sum()
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize("coils", [0, 3])
@pytest.mark.parametrize("size", [(14, 20), (9, 7)])
@pytest.mark.parametrize("whole_lines", [True, False])
def test_the_normal_operator(coils, size, whole_lines):
    """It is the adjoint after the operator, of lines and of any other pattern."""
    shape = size[1:] if whole_lines else size
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)).round()
    a = CartesianMRI(mask, size, noise(coils, *size) if coils else None)
    image = noise(2, 1, *size, seed=1)
    torch.testing.assert_close(a.normal(image), a.adjoint(a.forward(image)))


def test_one_coil_of_ones_is_no_coil():
    image = noise(2, 1, *SIZE)
    maps = torch.ones(1, *SIZE, dtype=torch.complex128)
    one = CartesianMRI(gaussian_line_mask(20, 2, 5), SIZE, maps)
    torch.testing.assert_close(one.forward(image), operator(0).forward(image))
    kspace = one.forward(noise(2, 1, *SIZE, seed=1))
    torch.testing.assert_close(
        one.nearest(image, kspace, 0.3, 100, 1e-12), operator(0).nearest(image, kspace, 0.3), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("coils", [0, 4])
def test_the_data_step_solves_its_normal_equations(coils):
    a, weight = operator(coils), 0.2
    image, kspace = noise(2, 1, *SIZE), noise(2, max(coils, 1), *SIZE, seed=1)
    kspace[1] *= 1e-3  # slices of one batch converge each by itself
    nearest = a.nearest(image, kspace, weight, iterations=200, tolerance=1e-12)
    gradient = a.adjoint(a.forward(nearest) - kspace) + weight * (nearest - image)
    assert gradient.abs().max() < 1e-9


def test_the_phase_goes_into_the_operator():
    phase = simulate_phase(SIZE).to(torch.complex128)
    image = noise(1, 1, *SIZE)
    for coils in (0, 3):
        a = operator(coils)
        torch.testing.assert_close(a.with_phase(phase).forward(image), a.forward(phase * image))


def test_coil_maps_are_normalised_and_differ():
    maps = simulate_coil_maps(8, (16, 12))
    torch.testing.assert_close(maps.abs().square().sum(1), torch.ones(1, 16, 12))
    assert (maps[0, 0] - maps[0, 4]).abs().mean() > 0.1


def nan(kspace):
    kspace[0, 0, 3, 20] = float("nan")
    return kspace


BAD = {
    "three axes": (lambda k: k[0], r"complex64 of shape \(1, 48, 40\), where complex \(B, coils, H, W\) is expected; "),
    "real": (lambda k: k.abs(), "torch.float32 of shape"),
    "another size": (lambda k: k[..., :32], "48×32 samples, but the mask is for 48×40"),
    "coils": (lambda k: k.expand(1, 3, 48, 40), "3 coils, but there are coil maps for 1"),
    "nan": (nan, "holds 1 NaN or infinite samples"),
    "empty": (torch.zeros_like, "all samples of k-space that the mask has are 0"),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_bad_kspace(kind):
    kspace, a, _ = scan()
    change, message = BAD[kind]
    with pytest.raises(DataError, match=message):
        a.check_kspace(change(kspace.clone()))


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (torch.ones(4, 48, 32, dtype=torch.complex64), r"shape \(4, 48, 32\), where complex \(coils, 48, 40\)"),
        (torch.ones(4, 48, 40), "float32"),
        (torch.full((4, 48, 40), float("nan"), dtype=torch.complex64), "coil maps hold NaN"),
    ],
)
def test_bad_maps(maps, message):
    with pytest.raises(DataError, match=message):
        CartesianMRI(torch.ones(40), (48, 40), maps)
