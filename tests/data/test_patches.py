import itertools
import pickle

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandFlipd, RandGaussianNoised, RandSpatialCropd

from monai_blurvae.data import TrainLoader, VolumePatchDataset, facts_of
from monai_blurvae.errors import DataError
from monai_blurvae.transforms import RandCubePatchd, RandSlicePatchd
from tests.pipelines import patches, prepare
from tests.volumes import brain, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("volumes")


@pytest.fixture(scope="module")
def items(folder):
    return [{"image": str(save(folder / f"{i}.nii.gz", brain(i))), "subject": f"s{i}"} for i in range(3)]


def dataset(items, folder, **arguments):
    defaults = {"patches_per_volume": 4, "min_foreground": 0.4, "shuffle": True}
    return patches(items, folder / "cache", **defaults | arguments)


def with_random(items, folder, *transforms, shuffle=True):
    return VolumePatchDataset(items, prepare(), Compose(transforms), folder / "cache", 4, shuffle=shuffle)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_patches_are_what_the_prepared_volume_holds_there(items, folder, slice_axis):
    data = dataset(items, folder, slice_axis=slice_axis)
    for i in range(12):
        sample = data[i]
        volume = prepare()({"image": sample["source"]})["image"].numpy().astype(np.float16).astype(np.float32)
        slice_, row, column = sample["position"]
        expected = np.moveaxis(volume, slice_axis + 1, 0)[slice_, :, row : row + 32, column : column + 32]
        assert type(sample["image"]) is torch.Tensor
        np.testing.assert_array_equal(sample["image"].numpy(), expected)
        assert (expected > -0.9).mean() >= 0.4


def test_cubes_are_what_the_prepared_volume_holds_there_one_by_one_and_in_a_batch(items, folder):
    data = VolumePatchDataset(items, prepare(), RandCubePatchd("image", 16, 0.4), folder / "cache", 4, shuffle=True)
    samples = data.__getitems__(range(12))
    for i, sample in enumerate(samples):
        volume = prepare()({"image": sample["source"]})["image"].numpy().astype(np.float16).astype(np.float32)
        x, y, z = sample["position"]
        expected = volume[:, x : x + 16, y : y + 16, z : z + 16]
        np.testing.assert_array_equal(sample["image"].numpy(), expected)
        np.testing.assert_array_equal(data[i]["image"].numpy(), expected)
        assert (expected > -0.9).mean() >= 0.4


def test_voxel_sizes_are_those_along_the_axes_of_a_patch(folder):
    item = [{"image": str(save(folder / "anisotropic.nii.gz", brain(7), voxel_size=(0.5, 1.0, 2.0)))}]
    for cut, sizes in ((RandSlicePatchd("image", 16, 1), (0.5, 2.0)), (RandCubePatchd("image", 16), (0.5, 1.0, 2.0))):
        facts = facts_of(VolumePatchDataset(item, prepare(), cut, folder / "cache"))
        assert facts.voxel_sizes == [pytest.approx(sizes)]


def test_a_volume_that_holds_no_cube_is_refused_by_its_header(items, folder):
    with pytest.raises(DataError, match=r"0\.nii\.gz has 48×40×44 voxels, less than the patch_size 41"):
        VolumePatchDataset(items, prepare(), RandCubePatchd("image", 41), folder / "other", 4)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_batch_is_the_same_as_its_samples_one_by_one(items, folder, shuffle):
    data = dataset(items, folder, shuffle=shuffle)
    for indices in ([3, 1, 11], range(12)):
        for together, alone in zip(data.__getitems__(indices), map(data.__getitem__, indices), strict=True):
            assert together.keys() == alone.keys()
            assert together["position"] == alone["position"]
            assert torch.equal(together["image"], alone["image"])


def test_a_patch_is_a_function_of_seed_epoch_and_index(items, folder):
    a, b = dataset(items, folder), dataset(items, folder)
    backwards = {n: b[n]["image"] for n in reversed(range(30))}
    assert all(torch.equal(a[n]["image"], backwards[n]) for n in range(30))
    assert not torch.equal(a[0]["image"], a[12]["image"])  # index 0 of the next epoch
    assert not torch.equal(a[0]["image"], dataset(items, folder, seed=1)[0]["image"])


def test_an_epoch_holds_every_volume_equally_often(items, folder):
    data = dataset(items, folder)
    for epoch in range(3):
        names = [data[epoch * 12 + i]["subject"] for i in range(12)]
        assert sorted(names) == ["s0"] * 4 + ["s1"] * 4 + ["s2"] * 4
    assert len({tuple(data[e * 12 + i]["subject"] for i in range(12)) for e in range(3)}) == 3


def test_evaluation_patches_depend_on_the_subject_alone(items, folder):
    all_three = dataset(items, folder, shuffle=False)
    last = dataset(items[2:], folder, shuffle=False, seed=7)
    assert all(torch.equal(all_three[8 + i]["image"], last[i]["image"]) for i in range(4))
    assert len(list(all_three)) == len(all_three) == 12


def test_any_transforms_may_stand_around_the_cut(items, folder):
    cut = RandSlicePatchd("image", 32, 1)
    plain = with_random(items, folder, cut)
    behind = with_random(items, folder, cut, RandGaussianNoised("image", prob=1.0, std=0.5, sample_std=False))
    before = with_random(items, folder, RandFlipd("image", prob=1.0, spatial_axis=0), RandSlicePatchd("image", 32, 1))
    for i in range(6):
        noise = behind[i]["image"] - plain_at(items, behind[i], 1)
        assert 0.45 < noise.std() < 0.55
        assert torch.equal(behind[i]["image"], behind[i]["image"])
        s, r, c = before[i]["position"]
        flipped = prepare()({"image": before[i]["source"]})["image"].flip(1)[0, r : r + 32, s, c : c + 32]
        torch.testing.assert_close(before[i]["image"][0], flipped.as_tensor(), atol=3e-4, rtol=0)
    assert len(plain) == 12


def plain_at(items, sample, slice_axis):
    s, r, c = sample["position"]
    volume = prepare()({"image": sample["source"]})["image"].as_tensor().movedim(slice_axis + 1, 0)
    return volume[s, :, r : r + 32, c : c + 32]


def test_a_transform_that_is_not_ours_may_cut(items, folder):
    data = with_random(items, folder, RandSpatialCropd("image", (8, 9, 10), random_size=False))
    assert data.__getitems__([0])[0]["image"].shape == (1, 8, 9, 10)
    assert "position" not in data[0]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_change_nothing(items, folder, context):
    alone = TrainLoader(dataset(items, folder), 5)
    workers = TrainLoader(dataset(items, folder), 5, num_workers=2, multiprocessing_context=context)
    for a, b in itertools.islice(zip(alone, workers, strict=True), 7):
        assert torch.equal(a["image"], b["image"])
        assert a["source"] == b["source"]


def test_no_map_is_pickled(items, folder):
    data = dataset(items, folder)
    first = data[0]["image"]
    assert len(pickle.dumps(data)) < 60_000
    assert torch.equal(pickle.loads(pickle.dumps(data))[0]["image"], first)


def test_no_data_is_no_error(folder):
    data = patches([], folder / "nowhere")
    assert len(data) == 0
    assert facts_of(data).entries == []
    assert not (folder / "nowhere").exists()


def test_plain_dictionaries_and_remarks(folder):
    path = save(folder / "plain.nii.gz", brain(7), (1.0, 3.0, 2.0), description=b"synthetic: for a test")
    data = patches([{"image": str(path)}], folder / "cache")
    facts = data.facts()
    assert facts.entries[0].keys() == {"image", "subject", "sha256"}
    assert facts.entries[0]["subject"] == data[0]["subject"] == "plain"
    assert facts.remark == "SYNTHETIC images"
    assert facts.voxel_sizes == data.voxel_sizes == [(1.0, 2.0)]
    assert facts.count_text(8) == "8 patches of 1 subject"
    assert patches([{"image": str(path), "remark": "phantoms"}], folder / "cache").facts().remark == "phantoms"


def test_nan_is_counted_whenever_the_data_are_used(folder, caplog):
    caplog.set_level("INFO")
    array = brain(8).astype(np.float32)
    array[:2] = np.nan
    items = [{"image": str(save(folder / "nan.nii", array))}, {"image": str(save(folder / "whole.nii", brain(9)))}]
    for _ in range(2):
        caplog.clear()
        facts = patches(items, folder / "cache").facts()
        assert [entry.get("nan_voxels") for entry in facts.entries] == [str(2 * 40 * 44), None]
        assert f"1 of 2 volumes hold NaN, in {2 * 40 * 44} voxels in all, which are taken for" in caplog.messages[-1]


def test_the_digest_tells_contents_and_subjects_apart(items, folder):
    facts = dataset(items, folder).facts()
    assert facts.digest == dataset(items, folder, seed=3, slice_axis=2).facts().digest
    assert facts.digest != dataset(items[:2], folder).facts().digest
    assert facts.identities > dataset(items[:2], folder).facts().identities
    assert facts.count_text(32) == "32 patches of 3 subjects"
    assert (len(facts.digest), facts.remark, facts.skipped, facts.kind) == (16, "", [], "patches")


def test_a_dataset_without_facts_has_none():
    facts = facts_of([{"image": 1}])
    assert (facts.entries, facts.digest, facts.kind) == ([], "", "")
    assert [facts.count_text(n) for n in (1, 3)] == ["1 image", "3 images"]


def test_unsuitable_arguments(items, folder):
    with pytest.raises(ValueError, match="patches_per_volume"):
        patches(items, folder / "cache", patches_per_volume=0)
    with pytest.raises(DataError, match="smaller than the patch_size 64"):
        patches(items, folder / "cache", patch_size=64)
