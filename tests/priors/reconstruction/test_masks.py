import pytest
import torch
from monai.apps.reconstruction.transforms.array import EquispacedKspaceMask, RandomKspaceMask

from monai_blurvae.errors import DataError
from monai_blurvae.priors.reconstruction import CartesianMRI, gaussian_line_mask
from monai_blurvae.priors.reconstruction.operator import centre_line_count, check_mask


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
