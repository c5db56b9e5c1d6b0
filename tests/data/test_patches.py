import itertools

import numpy as np
import pytest
import torch

from monai_blurvae.data import EndlessBatchSampler, SlicePatchDataset, VolumeStore, make_train_loader
from monai_blurvae.data.patches import draw_patch, foreground_map
from monai_blurvae.data.store import FOREGROUND_THRESHOLD
from monai_blurvae.transforms import PrepareVolume
from tests.volumes import brain, save


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    store = VolumeStore(folder / "cache", PrepareVolume(1))
    return [store.add(save(folder / f"{i}.nii.gz", brain(i)), f"s{i}") for i in range(3)]


def dataset(stored, **arguments):
    defaults = {"patch_size": 32, "patches_per_volume": 4, "min_foreground": 0.4, "shuffle": True}
    return SlicePatchDataset(stored, **defaults | arguments)


def test_foreground_map_counts(stored):
    slice_ = np.asarray(stored[0].array()[20])
    counts = foreground_map(slice_, 32)
    assert counts.shape == (17, 13)
    for row, column in ((0, 0), (16, 12), (5, 7)):
        assert counts[row, column] == (slice_[row : row + 32, column : column + 32] > FOREGROUND_THRESHOLD).sum()


def test_patches_are_what_the_volume_holds_there(stored):
    for i in range(12):
        sample = dataset(stored)[i]
        volume = next(v for v in stored if v.subject == sample["subject"])
        slice_, row, column = sample["position"]
        expected = volume.array()[slice_, row : row + 32, column : column + 32].astype(np.float32) * 2 - 1
        np.testing.assert_array_equal(sample["image"][0].numpy(), expected)
        assert (expected > 2 * FOREGROUND_THRESHOLD - 1).mean() >= 0.4


def test_every_position_with_enough_foreground_is_drawn_alike(stored):
    volume = stored[0]
    rng = np.random.default_rng(0)
    draws = [draw_patch(volume, 32, 0.6, rng)[1] for _ in range(3000)]
    counts = {s: foreground_map(np.asarray(volume.array()[s]), 32) for s in range(len(volume.foreground))}
    usable = [s for s, c in counts.items() if (c >= 0.6 * 32**2).any()]
    assert {s for s, _, _ in draws} == set(usable)
    # chi-square of the slice, uniform among the usable ones
    observed = np.bincount([usable.index(s) for s, _, _ in draws], minlength=len(usable))
    expected = len(draws) / len(usable)
    assert ((observed - expected) ** 2 / expected).sum() < len(usable) + 5 * np.sqrt(2 * len(usable))


def test_a_patch_is_a_function_of_seed_epoch_and_index(stored):
    a, b = dataset(stored), dataset(stored)
    backwards = {n: b[n]["image"] for n in reversed(range(30))}
    assert all(torch.equal(a[n]["image"], backwards[n]) for n in range(30))
    assert not torch.equal(a[0]["image"], a[12]["image"])  # index 0 of the next epoch
    assert not torch.equal(a[0]["image"], dataset(stored, seed=1)[0]["image"])


def test_an_epoch_holds_every_volume_equally_often(stored):
    data = dataset(stored)
    for epoch in range(3):
        names = [data[epoch * 12 + i]["subject"] for i in range(12)]
        assert sorted(names) == ["s0"] * 4 + ["s1"] * 4 + ["s2"] * 4
    orders = {tuple(data[e * 12 + i]["subject"] for i in range(12)) for e in range(3)}
    assert len(orders) == 3


def test_evaluation_patches_depend_on_the_subject_alone(stored):
    all_three = dataset(stored, shuffle=False)
    last = dataset(stored[2:], shuffle=False, seed=7)
    assert all(torch.equal(all_three[8 + i]["image"], last[i]["image"]) for i in range(4))
    assert len(list(all_three)) == len(all_three) == 12


def test_the_stream_of_batches():
    sampler = EndlessBatchSampler(10, 4)
    assert len(sampler) == 3
    stream = list(itertools.islice(sampler, 7))
    assert [len(batch) for batch in stream] == [4, 4, 2, 4, 4, 2, 4]
    assert [i for batch in stream for i in batch] == list(range(24))
    sampler.start_iteration = 4
    assert list(itertools.islice(sampler, 3)) == stream[4:]
    with pytest.raises(ValueError, match="positive"):
        EndlessBatchSampler(0, 4)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_change_nothing(stored, context):
    alone = make_train_loader(dataset(stored), 5)
    workers = make_train_loader(dataset(stored), 5, num_workers=2)
    workers.multiprocessing_context = context
    for a, b in itertools.islice(zip(alone, workers, strict=True), 7):
        assert torch.equal(a["image"], b["image"])
        assert a["source"] == b["source"]
