import numpy as np
import pytest
import torch
from monai.apps.reconstruction.transforms.array import EquispacedKspaceMask, RandomKspaceMask

from monai_blurvae.errors import DataError
from monai_blurvae.priors.reconstruction import (
    CartesianMRI,
    centred_fft,
    centred_ifft,
    estimate_noise_std,
    gaussian_line_mask,
    kspace_scale,
    simulate_coil_maps,
    simulate_phase,
)
from monai_blurvae.priors.reconstruction.operator import centre_line_count, check_mask, percentile
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


@pytest.mark.parametrize("acceleration", [2, 3, 4, 5])
def test_a_gaussian_mask_has_its_lines_and_its_centre(acceleration):
    mask = gaussian_line_mask(128, acceleration, seed=acceleration)
    assert mask.sum() == round(128 / acceleration)
    assert mask[64 - 7 : 64 + 8].all()
    assert torch.equal(mask, gaussian_line_mask(128, acceleration, seed=acceleration))
    assert not torch.equal(mask, gaussian_line_mask(128, acceleration, seed=acceleration + 1))


def test_lines_are_denser_towards_the_centre():
    share = torch.stack([gaussian_line_mask(120, 4, 1, seed=seed) for seed in range(300)]).mean(0)
    assert share[60] == 1
    # |index| < σ holds 68 % of a Gaussian; drawing without repetition flattens it
    assert 0.5 < share[41:80].sum() / 30 < 0.72
    assert share[:20].mean() < 0.25 * share[50:70].mean()


def test_too_many_centre_lines():
    with pytest.raises(ValueError, match="leaves 13 of 128 lines, which is less than 15 centre_lines"):
        gaussian_line_mask(128, 10)


@pytest.mark.parametrize("transform", [RandomKspaceMask, EquispacedKspaceMask])
def test_masks_of_monai(transform):
    """MONAI's transforms mask k-space themselves, (slices, coils, H, W, 2), and keep the mask, (1, 1, 1, W, 1)."""
    kspace = torch.randn(3, 2, 16, 40, 2, generator=torch.Generator().manual_seed(0))
    mask = transform(center_fractions=[0.2], accelerations=[2])
    mask.set_random_state(0)
    masked = torch.view_as_complex(torch.as_tensor(mask(kspace)[0]).contiguous())
    operator = CartesianMRI(mask.mask, (16, 40), torch.ones(2, 16, 40, dtype=torch.complex64))
    torch.testing.assert_close(operator.mask * torch.view_as_complex(kspace), masked)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (4, 6), (1, 1, 4, 6), (2, 1, 4, 6), (2, 1, 1, 6)])
def test_shapes(shape):
    checked = check_mask(torch.ones(shape), (4, 6))
    assert checked.shape == (shape[0] if len(shape) == 4 else 1, 1, 4, 6)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(8), r"shape \(8,\), but k-space has 4×6 samples; give 6 numbers, one for each line, or \(4, 6\)"),
        (torch.ones(6, 4), r"shape \(6, 4\)"),
        (torch.zeros(6), "samples no line at all"),
        (torch.stack([torch.ones(1, 4, 6), torch.zeros(1, 4, 6)]), "samples no line at all"),
        (torch.tensor([0, 1, 2, 1, 0, 0]), "other than 0 and 1"),
        (torch.full((6,), float("nan")), "other than 0 and 1"),
    ],
)
def test_bad_masks(mask, message):
    with pytest.raises(DataError, match=message):
        check_mask(mask, (4, 6))


@pytest.mark.parametrize(
    ("mask", "count"), [("0011100", 3), ("1011101", 3), ("1110111", 0), ("1111111", 7), ("111111", 6), ("0111", 3)]
)
def test_lines_around_the_centre(mask, count):
    lines = torch.tensor([float(c) for c in mask])
    assert centre_line_count(check_mask(lines, (2, len(mask)))) == count


def test_percentile_is_numpys():
    values = torch.rand(997, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for q in (0, 1, 50, 99, 100):
        assert percentile(values, q) == pytest.approx(np.percentile(values.numpy(), q))


def test_scale_is_that_of_the_zero_filled_magnitude():
    kspace, operator, _ = scan(coils=3)
    expected = np.percentile(operator.adjoint(kspace).abs().numpy(), 99)
    assert kspace_scale(kspace, operator) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("coils", [1, 4])
def test_noise_alone(coils):
    """Of complex white noise the median is exact; a tenth of 8192 samples and more give it to a few percent."""
    mask = gaussian_line_mask(128, 2)
    maps = torch.ones(coils, 128, 128, dtype=torch.complex64)
    operator = CartesianMRI(mask, (128, 128), maps)
    noise = torch.complex(*torch.randn(2, 2, coils, 128, 128, generator=torch.Generator().manual_seed(0))) * 0.03
    assert estimate_noise_std(operator.mask * noise, operator) == pytest.approx(0.03, rel=0.08)


def test_no_sample_in_common():
    masks = torch.stack([torch.tensor([1.0, 0, 1, 0]), torch.tensor([0.0, 1, 0, 1])])[:, None, None]
    operator = CartesianMRI(masks, (4, 4))
    with pytest.raises(DataError, match="give noise_std"):
        estimate_noise_std(torch.ones(2, 1, 4, 4, dtype=torch.complex64), operator)
