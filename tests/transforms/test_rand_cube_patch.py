import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.stats import chisquare

from monai_blurvae.errors import DataError
from monai_blurvae.transforms import RandCubePatchd
from monai_blurvae.transforms.rand_patch import TABLE_KEY, PatchTable
from tests.transforms.test_rand_slice_patch import volume


def valid_positions(array, size, enough):
    """All of them by brute force."""
    windows = np.lib.stride_tricks.sliding_window_view(array[0] > -0.9, (size,) * 3)
    return {tuple(int(n) for n in place) for place in np.argwhere(windows.mean((3, 4, 5)) >= enough)}


@pytest.mark.parametrize("enough", [0.25, 0.9])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_planes_and_positions_are_uniform_over_the_valid_ones(enough, dtype):
    array = volume()
    valid = sorted(valid_positions(array, 5, enough))
    planes = [place[0] for place in valid]
    cut = RandCubePatchd("image", 5, enough).set_random_state(3)
    slices = cut.slices_of(array.astype(dtype))
    table = PatchTable.complete(slices, cut.rule)
    draws = [cut.draw(slices, table)[0] for _ in range(20_000)]
    assert set(draws) <= set(valid)
    counts = np.array([draws.count(place) for place in valid])
    expected = np.array([len(draws) / len(set(planes)) / planes.count(place[0]) for place in valid])
    assert chisquare(counts, expected).pvalue > 0.01


def test_a_complete_table_is_what_is_found_one_by_one_and_leaves_nothing_out():
    array = volume()
    cut = RandCubePatchd("image", 5, 0.6)
    slices = cut.slices_of(array)
    begun, complete = PatchTable.begin(slices, cut.rule), PatchTable.complete(slices, cut.rule)
    assert {index: begun.box(slices, index) for index in begun.candidates} == complete.boxes
    back = PatchTable.of(complete.to_array(), cut.rule)
    assert (back.candidates, back.boxes) == (complete.candidates, complete.boxes)
    valid = valid_positions(array, 5, 0.6)
    assert {index for index, box in complete.boxes.items() if box} == {place[0] for place in valid}


def test_rare_positions_come_from_the_enumeration_alike():
    array = np.full((1, 3, 40, 40), -1.0, np.float32)
    array[0, :, :3, :3] = array[0, :, -3:, -3:] = 1.0  # two valid positions in the corners of a box of 1444
    cut = RandCubePatchd("image", 3, 1.0).set_random_state(0)
    slices = cut.slices_of(array)
    draws = [cut.draw(slices, PatchTable.complete(slices, cut.rule))[0] for _ in range(400)]
    assert set(draws) == {(0, 0, 0), (0, 37, 37)}
    assert 150 < draws.count((0, 0, 0)) < 250


def test_the_cube_is_what_the_volume_holds_there_in_every_kind_of_array():
    array = np.random.default_rng(0).uniform(-1, 1, (2, 12, 13, 14)).astype(np.float32)
    kinds = (array, torch.from_numpy(array), MetaTensor(array), np.moveaxis(array.copy(), 1, 0).swapaxes(0, 1))
    found = [RandCubePatchd("image", 6).set_random_state(5)({"image": kind}) for kind in kinds]
    x, y, z = found[0]["position"]
    for sample in found:
        assert sample["position"] == (x, y, z)
        assert sample["image"].dtype == torch.float32
        np.testing.assert_array_equal(np.asarray(sample["image"]), array[:, x : x + 6, y : y + 6, z : z + 6])


def test_the_affine_of_a_cube_leads_to_its_voxels():
    affine = torch.tensor([[0, 0, 2.0, 5], [3.0, 0, 0, -7], [0, 4.0, 0, 1], [0, 0, 0, 1]], dtype=torch.float64)
    sample = RandCubePatchd("image", 6).set_random_state(1)({"image": MetaTensor(torch.ones(1, 12, 13, 14), affine)})
    found = sample["image"].affine.numpy() @ [2, 4, 1, 1]
    np.testing.assert_allclose(found, affine.numpy() @ [*np.add(sample["position"], [2, 4, 1]), 1])


def test_a_table_changes_no_draw():
    cut = RandCubePatchd("image", 5, 0.6)
    table = PatchTable.complete(cut.slices_of(volume()), cut.rule)
    for seed in range(10):
        with_table = cut.set_random_state(seed)({"image": volume().astype(np.float16), TABLE_KEY: table})
        assert with_table["position"] == cut.set_random_state(seed)({"image": volume()})["position"]


def test_what_cannot_be_cut_is_told_with_its_file():
    named = MetaTensor(torch.from_numpy(volume()), meta={"filename_or_obj": "a/b.nii"})
    with pytest.raises(DataError, match=r"a/b\.nii has 14×11×13 voxels, less than the patch_size 12"):
        RandCubePatchd("image", 12)({"image": named})
    best = np.lib.stride_tricks.sliding_window_view(volume()[0] > 0, (9, 9, 9)).mean((3, 4, 5)).max()
    with pytest.raises(DataError, match=rf"a/b\.nii has no 9×9×9 patch with 100% foreground, the best has {best:.0%}"):
        RandCubePatchd("image", 9, 1.0)({"image": named})
    with pytest.raises(ValueError, match=r"RandCubePatchd takes volumes \(C, X, Y, Z\)"):
        RandCubePatchd("image", 4)({"image": torch.ones(1, 8, 8)})
    with pytest.raises(ValueError, match="patch_size"):
        RandCubePatchd("image", 0)
