import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from scipy.stats import chisquare

from monai_blurvae.errors import DataError
from monai_blurvae.transforms import RandSlicePatchd
from monai_blurvae.transforms.rand_patch import TABLE_KEY, PatchRule, PatchTable


def volume(shape=(14, 11, 13)):
    """A ball of ones, off centre, in −1."""
    grid = np.meshgrid(*(np.linspace(-1, 1.3, n) for n in shape), indexing="ij")
    return np.where(sum(g**2 for g in grid) < 0.7, 1.0, -1.0).astype(np.float32)[None]


def valid_positions(array, axis, size, enough):
    """All of them by brute force."""
    slices = np.moveaxis(array[0], axis, 0) > -0.9
    windows = np.lib.stride_tricks.sliding_window_view(slices, (size, size), axis=(1, 2))
    return {tuple(int(n) for n in place) for place in np.argwhere(windows.mean((3, 4)) >= enough)}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("enough", [0.25, 0.9])
def test_slices_and_positions_are_uniform_over_the_valid_ones(axis, enough):
    array = volume()
    valid = sorted(valid_positions(array, axis, 5, enough))
    slices = sorted({place[0] for place in valid})
    cut = RandSlicePatchd("image", 5, axis, enough).set_random_state(3)
    table = PatchTable.complete(cut.slices_of(array), cut.rule)
    draws = [cut.draw(cut.slices_of(array), table)[0] for _ in range(20_000)]
    assert set(draws) <= set(valid)
    counts = np.array([draws.count(place) for place in valid])
    in_slice = [sum(place[0] == s for place in valid) for s in slices]
    expected = np.array([len(draws) / len(slices) / in_slice[slices.index(place[0])] for place in valid])
    assert chisquare(counts, expected).pvalue > 0.01


def test_rare_positions_come_from_the_enumeration_alike():
    array = np.full((1, 40, 3, 40), -1.0, np.float32)
    array[0, :4, 1, :4] = array[0, -4:, 1, -4:] = 1.0  # two valid positions in the corners of a box of 1369
    cut = RandSlicePatchd("image", 4, 1, 1.0).set_random_state(0)
    table = PatchTable.complete(cut.slices_of(array), cut.rule)
    draws = [cut.draw(cut.slices_of(array), table)[0] for _ in range(400)]
    assert set(draws) == {(1, 0, 0), (1, 36, 36)}
    assert 150 < draws.count((1, 0, 0)) < 250


@pytest.mark.parametrize("threshold", [-0.9, -0.30005, 0.0, 0.1, 0.25])
def test_foreground_of_float16_is_that_of_the_same_numbers_in_float32(threshold):
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    rule = PatchRule(4, 0.5, threshold)
    np.testing.assert_array_equal(rule.above(every), every.astype(np.float32) > np.float32(threshold))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_patch_is_what_the_volume_holds_there_in_every_kind_of_array(axis):
    array = np.random.default_rng(0).uniform(-1, 1, (2, 12, 13, 14)).astype(np.float32)
    found = []
    for kind in (array, torch.from_numpy(array), MetaTensor(array), np.moveaxis(array.copy(), 1, 0).swapaxes(0, 1)):
        cut = RandSlicePatchd("image", 6, axis).set_random_state(5)
        found.append(cut({"image": kind, "other": 3}))
    for sample in found:
        s, r, c = sample["position"]
        expected = np.moveaxis(array, axis + 1, 0)[s, :, r : r + 6, c : c + 6]
        assert sample["position"] == found[0]["position"]
        assert sample["image"].dtype == torch.float32
        assert sample["other"] == 3
        np.testing.assert_array_equal(np.asarray(sample["image"]), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_affine_of_a_patch_leads_to_its_voxels(axis):
    affine = torch.tensor([[0, 0, 2.0, 5], [3.0, 0, 0, -7], [0, 4.0, 0, 1], [0, 0, 0, 1]], dtype=torch.float64)
    cut = RandSlicePatchd("image", 6, axis).set_random_state(1)
    sample = cut({"image": MetaTensor(torch.ones(1, 12, 13, 14), affine=affine)})
    s, r, c = sample["position"]
    voxel = np.insert([r + 2, c + 4], axis, s)
    found = sample["image"].affine.numpy() @ [2, 4, 0, 1]
    np.testing.assert_allclose(found, affine.numpy() @ [*voxel, 1])


def test_a_table_changes_no_draw_and_compose_none_beyond_the_seed():
    array = volume()
    direct, composed = RandSlicePatchd("image", 5, 2, 0.6), Compose([RandSlicePatchd("image", 5, 2, 0.6)])
    table = PatchTable.complete(direct.slices_of(array), direct.rule)
    table = PatchTable.of(table.to_array(), direct.rule)
    for seed in range(30):
        composed.set_random_state(seed)
        direct.set_random_state(int(np.random.RandomState(seed).randint(2**32, dtype="uint32")))
        with_table = direct({"image": array.astype(np.float16), TABLE_KEY: table})
        without = composed({"image": array})
        assert with_table["position"] == without["position"]
        assert TABLE_KEY not in with_table
        np.testing.assert_array_equal(with_table["image"], without["image"])


def test_two_keys_are_cut_alike():
    array = volume()
    cut = RandSlicePatchd(["image", "label", "none"], 5, 0, allow_missing_keys=True)
    sample = cut({"image": array, "label": (array > 0).astype(np.uint8)})
    np.testing.assert_array_equal(sample["label"], sample["image"] > 0)


def test_what_cannot_be_cut_is_told_with_its_file():
    named = MetaTensor(torch.from_numpy(volume()), meta={"filename_or_obj": "a/b.nii"})
    with pytest.raises(DataError, match=r"a/b\.nii has slices of 14×13 .* smaller than the patch_size 14"):
        RandSlicePatchd("image", 14, 1)({"image": named})
    best = max(
        np.lib.stride_tricks.sliding_window_view(s, (9, 9)).mean((2, 3)).max() for s in volume()[0].swapaxes(0, 1) > 0
    )
    with pytest.raises(DataError, match=rf"a/b\.nii has no 9×9 patch with 100% foreground, the best has {best:.0%}"):
        RandSlicePatchd("image", 9, 1, 1.0)({"image": named})
    with pytest.raises(ValueError, match=r"\(C, X, Y, Z\)"):
        RandSlicePatchd("image", 4)({"image": torch.ones(1, 8, 8)})


@pytest.mark.parametrize("arguments", [{"patch_size": 0}, {"slice_axis": 3}, {"min_foreground": 1.5}])
def test_absurd_arguments(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        RandSlicePatchd("image", **arguments)
