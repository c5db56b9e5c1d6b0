import pytest
import torch

from monai_blurvae.errors import SettingsError
from prior_comparison.scenes import Setting, find_cases, simulate
from tests.volumes import brain, save

SETTING = Setting(2.0, 1, "smooth", 0.01)


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Two volumes of one person, one of another, in units of a scanner."""
    folder = tmp_path_factory.mktemp("volumes")
    paths = [save(folder / f"{name}.nii.gz", brain(i)) for i, name in enumerate(("b", "a1", "a2"))]
    return [{"image": str(path), "subject": path.name[0]} for path in paths]


def test_slices_are_of_the_first_volume_of_each_person_and_have_much_anatomy(items):
    cases = find_cases(items, slice_axis=2, slices=3, subjects=None)
    assert [case.subject for case in cases] == ["a"] * 3 + ["b"] * 3
    assert all(10 < case.index < 34 for case in cases)  # of 44, the outer ones are small
    assert all(case.magnitude.shape == (1, 1, 48, 40) for case in cases)
    volume = torch.from_numpy(brain(1).astype("float32"))
    white = torch.quantile(volume[:, :, :].flatten(), 0.99)
    torch.testing.assert_close(cases[0].magnitude[0, 0], volume[:, :, cases[0].index] / white, rtol=1e-4, atol=1e-4)
    assert cases[0].largest == pytest.approx(float(volume.max() / white), rel=1e-4)
    assert [case.subject for case in find_cases(items, 2, 1, subjects=1)] == ["a"]


def test_a_scan_is_a_function_of_slice_setting_and_seed(items):
    case, other = find_cases(items, 2, 1, None)
    one, again = simulate(case, SETTING), simulate(case, SETTING)
    torch.testing.assert_close(one.kspace, again.kspace, rtol=0, atol=0)
    assert not torch.equal(one.operator.mask, simulate(other, SETTING).operator.mask)
    assert not torch.equal(one.operator.mask, simulate(case, SETTING, seed=1).operator.mask)
    assert int(one.operator.mask[0, 0, 0].sum()) == 20


def test_lines_that_are_common_to_two_accelerations_have_the_same_samples(items):
    case = find_cases(items, 2, 1, 1)[0]
    full, half = (simulate(case, Setting(r, 4, "rough", 0.03)) for r in (1.0, 2.0))
    lines = half.operator.mask[0, 0, 0].bool()
    expected = full.kspace[..., lines] * full.scale
    torch.testing.assert_close(half.kspace[..., lines] * half.scale, expected)
    image = half.operator.adjoint(half.kspace).abs()
    assert float(torch.quantile(image, 0.99)) == pytest.approx(1, rel=1e-3)
    assert half.noise_std * half.scale == pytest.approx(0.03)


def test_an_acceleration_that_is_too_high(items):
    case = find_cases(items, 2, 1, 1)[0]
    with pytest.raises(SettingsError, match=r"slice \d+ of a: acceleration 5 leaves 8 of 40 lines"):
        simulate(case, Setting(5.0, 1, "smooth", 0.0))
