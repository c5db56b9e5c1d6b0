import json
import logging
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import (
    Compose,
    Flipd,
    Lambdad,
    RandFlipd,
    RandGaussianNoised,
    ScaleIntensityRange,
    ScaleIntensityRanged,
)
from PIL import Image
from torch.utils.data import DataLoader

from monai_blurvae.data import EndlessBatchSampler
from monai_blurvae.data.images import ImageDataset
from monai_blurvae.errors import DataError, RunFolderError, user_error
from monai_blurvae.transforms import PrepareImaged

SIZE = 4
COUNT = 10
TRANSFORM = Compose([PrepareImaged("image", SIZE)])
SCALE = ScaleIntensityRanged("image", 0, 255, -1, 1)
FLIP = RandFlipd("image", prob=0.5, spatial_axis=1)


def pixels():
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def data(tmp_path):
    """Ten images; image i is ``pixels()[i]``."""
    root = tmp_path / "images"
    root.mkdir()
    for i, image in enumerate(pixels()):
        Image.fromarray(image).save(root / f"{i}.png")
    return [{"image": str(root / f"{i}.png"), "subject": f"photo {i}"} for i in range(COUNT)]


def spoil(data, *numbers):
    for i in numbers:
        Path(data[i]["image"]).write_text("no image")


def make(data, tmp_path, *random_transforms, cache="cache", **options):
    return ImageDataset(data, TRANSFORM, Compose([SCALE, *random_transforms]), tmp_path / cache, **options)


def training(data, tmp_path, *random_transforms, **options):
    return make(data, tmp_path, *random_transforms, **{"seed": 3, "shuffle": True, **options})


def scaled(*numbers):
    """What a dataset gives of these images."""
    return torch.from_numpy(pixels()[list(numbers)].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)


def assert_identical(left, right):
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def numbers(subjects):
    return [int(subject.removeprefix("photo ")) for subject in subjects]


def subjects(batches):
    return [number for batch in batches for number in numbers(batch["subject"])]


def names(sentences):
    return [Path(sentence.split()[0]).name for sentence in sentences]


def training_batches(dataset, epochs, num_workers=0, batch_size=4, start=0):
    sampler = EndlessBatchSampler(len(dataset), batch_size)
    sampler.start_iteration = start
    batches = iter(DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers))
    return [next(batches) for _ in range(epochs * len(sampler) - start)]


def assert_same_batches(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a["subject"] == b["subject"]
        assert a["source"] == b["source"]
        assert_identical(a["image"], b["image"])


def test_samples(tmp_path, data):
    dataset = make(data, tmp_path)
    samples = list(dataset)
    assert len(dataset) == COUNT
    assert_identical(torch.stack([sample["image"] for sample in samples]), scaled(*range(COUNT)))
    assert samples[2].keys() == {"image", "subject", "source"}
    assert (samples[2]["subject"], samples[2]["source"]) == ("photo 2", data[2]["image"])
    assert type(samples[2]["image"]) is torch.Tensor
    for index in (COUNT, -1):
        with pytest.raises(IndexError):
            dataset[index]


def test_every_grey_level_has_the_bits_of_the_definition(tmp_path):
    """MONAI's v / 255 · 2 − 1 is v / 127.5 − 1 to the bit: to double and to halve is exact."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / "levels.png")
    data = [{"image": str(tmp_path / "levels.png")}]
    dataset = ImageDataset(data, PrepareImaged("image", 16, channels=1), SCALE, tmp_path / "cache")
    expected = levels.astype(np.float32) / np.float32(127.5) - np.float32(1)
    np.testing.assert_array_equal(dataset[0]["image"][0].numpy(), expected, strict=True)
    assert (expected.min(), expected.max()) == (-1, 1)
    assert dataset[0]["subject"] == "levels.png"


def test_no_image_is_read_before_it_is_asked_for(tmp_path, data):
    spoil(data, *range(COUNT))
    dataset = make(data, tmp_path)
    assert dataset.facts().skipped == []
    with pytest.raises(DataError, match=r"2\.png cannot be read"):
        dataset[2]


def test_an_empty_list(tmp_path):
    for options in ({}, {"shuffle": True}, {"shuffle": True, "skip_bad_files": True}, {"skip_bad_files": True}):
        dataset = make([], tmp_path, **options)
        assert len(dataset) == 0
        with pytest.raises(IndexError):
            dataset[0]
        facts = dataset.facts()
        assert (facts.entries, facts.skipped, facts.remark, facts.voxel_sizes) == ([], [], "", [])
    assert not (tmp_path / "cache").exists()


def test_every_epoch_has_its_own_order_of_all_images(tmp_path, data):
    batches = training_batches(training(data, tmp_path), 3)
    assert [len(batch["subject"]) for batch in batches] == [4, 4, 2] * 3
    orders = [subjects(batches[k : k + 3]) for k in (0, 3, 6)]
    assert all(sorted(order) == list(range(COUNT)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert numbers(training_batches(training(data, tmp_path, seed=4), 1)[0]["subject"]) != orders[0][:4]
    for batch in batches:
        assert_identical(batch["image"], scaled(*numbers(batch["subject"])))


@pytest.mark.parametrize("chance", [[], [FLIP]])
def test_workers_change_nothing(tmp_path, data, chance):
    alone = training_batches(training(data, tmp_path, *chance), 3)
    dataset = training(data, tmp_path, *chance, cache="other")
    assert_same_batches(training_batches(dataset, 3, num_workers=2), alone)
    assert dataset.store.prepared() == COUNT


def test_taken_up_in_the_middle(tmp_path, data):
    dataset = training(data, tmp_path, FLIP)
    assert_same_batches(training_batches(dataset, 3, start=5), training_batches(dataset, 3)[5:])


# Random transforms


def flipped(sample):
    """Whether an image was flipped, which has to be the only thing that was done to it."""
    plain = scaled(*numbers([sample["subject"]]))[0]
    turned = not torch.equal(sample["image"], plain)
    assert_identical(sample["image"], plain.flip(2) if turned else plain)
    return turned


def test_the_random_state_of_a_training_is_a_function_of_seed_epoch_and_index(tmp_path, data):
    many = 20 * COUNT
    dataset = training(data, tmp_path, FLIP)
    flips = [flipped(dataset[n]) for n in range(many)]
    again = training(data, tmp_path, FLIP)
    assert [flipped(again[n]) for n in reversed(range(many))] == flips[::-1]
    assert 0.35 * many < sum(flips) < 0.65 * many  # four standard deviations
    epochs = [tuple(flips[k : k + COUNT]) for k in range(0, many, COUNT)]
    assert len(set(epochs)) > 15
    other = training(data, tmp_path, FLIP, seed=4)
    assert [flipped(other[n]) for n in range(many)] != flips


def test_the_random_state_of_an_evaluation_is_a_function_of_the_subject(tmp_path, data):
    noise = RandGaussianNoised("image", prob=1.0)
    dataset = make(data, tmp_path, noise)
    fewer = make(data, tmp_path, noise, max_images=3, seed=7)
    samples = {sample["subject"]: sample["image"] for sample in dataset}
    assert len(fewer) == 3
    for sample in fewer:
        assert_identical(sample["image"], samples[sample["subject"]])
    assert_identical(dataset[4]["image"], samples["photo 4"])
    noises = torch.stack([samples[f"photo {i}"] for i in range(COUNT)]) - scaled(*range(COUNT))
    assert len({tuple(noise.flatten().tolist()) for noise in noises}) == COUNT


@pytest.mark.parametrize(
    "transforms",
    [[], [SCALE], [SCALE, SCALE], [Compose([SCALE])], [Flipd("image", spatial_axis=0), SCALE]],
    ids=["none", "scale", "twice", "nested", "flip"],
)
@pytest.mark.parametrize("stored", [TRANSFORM, Compose([TRANSFORM, SCALE])], ids=["uint8", "float32"])
def test_a_sample_has_the_bits_that_the_transforms_give(tmp_path, data, stored, transforms):
    dataset = ImageDataset(data, stored, Compose(transforms), tmp_path / "cache")
    for i, sample in enumerate(dataset):
        expected = Compose([stored, *transforms])(data[i])["image"].as_tensor().float()
        assert type(sample["image"]) is torch.Tensor
        assert sample.keys() == {"image", "subject", "source"}
        assert_identical(sample["image"], expected)


@pytest.mark.parametrize(("chance", "calls"), [([], 1), ([FLIP], COUNT)])
def test_grey_levels_are_scaled_once_where_nothing_else_is_done(tmp_path, data, monkeypatch, chance, calls):
    dataset = make(data, tmp_path, *chance)
    shapes = []
    scale = ScaleIntensityRange.__call__

    def noting(self, image):
        shapes.append(tuple(image.shape))
        return scale(self, image)

    monkeypatch.setattr(ScaleIntensityRange, "__call__", noting)
    assert len(list(dataset)) == COUNT
    assert len(shapes) == calls


def test_transforms_of_the_users_own(tmp_path, data):
    """Any callable, also one that adds a key, or looks at the subject."""

    def own(item):
        return {**SCALE(item), "number": int(item["subject"].removeprefix("photo "))}

    dataset = ImageDataset(data, TRANSFORM, own, tmp_path / "cache")
    sample = dataset[7]
    assert sample["number"] == 7
    assert_identical(sample["image"], scaled(7)[0])
    halves = Compose([SCALE, Lambdad("image", lambda image: image / 2)])
    half = ImageDataset(data, TRANSFORM, halves, tmp_path / "cache")[1]
    assert_identical(half["image"], scaled(1)[0] / 2)


# Files that cannot be used


def test_a_bad_training_image_is_replaced_by_the_next_usable_one(tmp_path, data, caplog):
    spoil(data, 3, 4, 9)
    dataset = training(data, tmp_path, skip_bad_files=True)
    assert dataset.facts().skipped == []
    alone = training_batches(dataset, 2)
    assert sorted(subjects(alone)) == sorted(2 * [0, 1, 2, 5, 5, 5, 6, 7, 8, 0])
    for batch in alone:
        assert_identical(batch["image"], scaled(*numbers(batch["subject"])))
        assert [Path(source).name for source in batch["source"]] == [f"{i}.png" for i in numbers(batch["subject"])]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 3
    assert all(warning.startswith("Skipping: ") for warning in warnings)
    facts = dataset.facts()
    assert sorted(names(facts.skipped)) == ["3.png", "4.png", "9.png"]
    assert numbers(entry["subject"] for entry in facts.entries) == [0, 1, 2, 5, 6, 7, 8]

    apart = training(data, tmp_path, skip_bad_files=True, cache="other")
    assert_same_batches(training_batches(apart, 2, num_workers=2), alone)
    assert apart.facts() == facts  # the workers told
    lines = (apart.store.folder / "bad.jsonl").read_text().split("\n")
    assert sorted(json.loads(line)["index"] for line in lines if line) == [3, 4, 9]


def test_what_an_earlier_run_found_bad_is_said_at_once(tmp_path, data, caplog):
    spoil(data, 3)
    earlier = training(data, tmp_path, skip_bad_files=True)
    training_batches(earlier, 1)
    caplog.clear()
    dataset = training(data, tmp_path, skip_bad_files=True)
    assert names(dataset.facts().skipped) == ["3.png"]
    training_batches(dataset, 1)
    assert [record.getMessage() for record in caplog.records] == [f"Skipping: {dataset.facts().skipped[0]}"]
    assert training(data, tmp_path).facts().skipped == []


def test_what_can_be_read_again_is_not_skipped(tmp_path, data):
    """A disk that was away for a moment."""
    dataset = training(data, tmp_path, skip_bad_files=True)
    dataset.store.note_bad(3, "3.png could not be read.")
    assert dataset.facts().skipped == ["3.png could not be read."]
    assert training(data, tmp_path, skip_bad_files=True).facts().skipped == []
    assert dataset.facts().skipped == []


def test_bad_evaluation_images_are_left_out(tmp_path, data, caplog):
    spoil(data, 1, 6)
    dataset = make(data, tmp_path, skip_bad_files=True)
    left = [0, 2, 3, 4, 5, 7, 8, 9]
    assert subjects([{"subject": [sample["subject"]]} for sample in dataset]) == left
    facts = dataset.facts()
    assert names(facts.skipped) == ["1.png", "6.png"]
    assert numbers(entry["subject"] for entry in facts.entries) == left
    assert [record.getMessage() for record in caplog.records] == [f"Skipping: {line}" for line in facts.skipped]
    assert_identical(dataset[5]["image"], scaled(7)[0])
    few = make(data, tmp_path, skip_bad_files=True, max_images=5, cache="other")  # 0, 2, 4, 6 and 8
    assert (len(few), names(few.facts().skipped), few.store.prepared()) == (4, ["6.png"], 4)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_full_disk_is_no_fault_of_an_image(tmp_path, data, shuffle, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(RunFolderError, match="but the images need"):
        make(data, tmp_path, shuffle=shuffle, skip_bad_files=True)[0]
    assert not list(tmp_path.rglob("bad.jsonl"))


@pytest.mark.parametrize("shuffle", [False, True])
def test_all_images_bad(tmp_path, data, shuffle):
    spoil(data, *range(COUNT))
    with pytest.raises(DataError, match=r"none of the 10 images can be used; .*\.png cannot be read"):
        make(data, tmp_path, shuffle=shuffle, skip_bad_files=True)[5]


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_missing_file_is_named_before_anything_is_read(tmp_path, data, shuffle):
    for i in (7, 8):
        Path(data[i]["image"]).unlink()
    with pytest.raises(DataError, match=r"7\.png is not there, as 2 of 10 listed images; .* set skip_bad_files to"):
        make(data, tmp_path, shuffle=shuffle)
    dataset = make(data, tmp_path, shuffle=shuffle, skip_bad_files=True)
    seen = [number for n in range(len(dataset)) for number in numbers([dataset[n]["subject"]])]
    assert sorted(seen) == ([0, 1, 2, 3, 4, 5, 6, 9, 9, 9] if shuffle else [0, 1, 2, 3, 4, 5, 6, 9])


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0]), (2, [0, 5]), (3, [0, 3, 6]), (4, [0, 2, 5, 7]), (COUNT, range(COUNT)), (99, range(COUNT))],
)
def test_images_are_evenly_spread(tmp_path, data, count, expected):
    dataset = make(data, tmp_path, max_images=count)
    assert numbers(sample["subject"] for sample in dataset) == list(expected)
    for i, number in enumerate(expected):
        assert_identical(dataset[i]["image"], scaled(number)[0])
    assert dataset.store.folder == make(data, tmp_path).store.folder
    order = training_batches(training(data, tmp_path, max_images=count), 1)
    assert sorted(subjects(order)) == list(expected)


def test_max_images_has_to_be_positive(tmp_path, data):
    with pytest.raises(ValueError, match="max_images must be None or positive, but is 0"):
        make(data, tmp_path, max_images=0)


# Facts


def test_facts(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = [{"image": "images/0.png", "remark": "a sample"}, {**data[1], "remark": "a sample"}, data[2]]
    facts = make(listed, tmp_path, max_images=2).facts()
    assert facts.entries == [
        {"image": data[0]["image"], "subject": "0.png"},
        {"image": data[1]["image"], "subject": "photo 1"},
        {"image": data[2]["image"], "subject": "photo 2"},  # in the list, though max_images leaves it unseen
    ]
    assert (facts.kind, facts.remark, facts.voxel_sizes, facts.skipped) == ("images", "a sample", [], [])
    size = Path(data[0]["image"]).stat().st_size
    assert f"{data[0]['image']} {size}" in facts.identities
    assert len(facts.identities) == 2
    assert [facts.count_text(count) for count in (1, 2)] == ["1 image", "2 images"]


def test_digest(tmp_path, data):
    def digest(data, **options):
        return make(data, tmp_path, **options).facts().digest

    first = digest(data)
    assert len(first) == 16
    assert training(data, tmp_path).facts().digest == first
    copy = [{**item, "image": item["image"].replace("/images/", "/copy/")} for item in data]
    shutil.copytree(tmp_path / "images", tmp_path / "copy")
    (tmp_path / "copy/3.png").touch()
    assert digest(copy) == first
    others = [digest(data[::-1]), digest(data[1:]), digest(data, max_images=5)]
    assert len({first, *others}) == 4
    with Path(data[3]["image"]).open("ab") as handle:
        handle.write(b"x")
    assert digest(data) != first


def sentence_of_an_error(ask):
    try:
        ask()
    except DataError as error:
        error.__traceback__ = None  # it leads back to the batches: the worker would be left to the garbage collector
        return str(user_error(error))
    return pytest.fail("no DataError was raised")


def test_an_error_in_a_worker_reaches_the_user_as_its_sentence(tmp_path, data):
    spoil(data, 1)
    dataset = make(data, tmp_path)
    sentence = sentence_of_an_error(lambda: dataset[1])
    assert sentence.startswith(data[1]["image"])
    assert "\n" not in sentence
    batches = iter(DataLoader(dataset, batch_size=2, num_workers=1))
    assert sentence_of_an_error(lambda: next(batches)) == sentence


def test_an_error_made_in_the_main_process_keeps_its_text():
    assert str(DataError("x.png is bad: mend it.")) == "x.png is bad: mend it."


def test_datasets_pickle(tmp_path, data):
    spoil(data, 3)
    dataset = training(data, tmp_path, FLIP, skip_bad_files=True)
    before = [dataset[i] for i in range(COUNT)]
    again = pickle.loads(pickle.dumps(dataset))
    for i, sample in enumerate(before):
        assert again[i]["subject"] == sample["subject"]
        assert_identical(again[i]["image"], sample["image"])


def test_a_config_parses_with_and_without_images(tmp_path, data):
    """As a bundle has it: each part by its ``_target_``, before anything else ran."""
    scale = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 255, "b_min": -1, "b_max": 1}
    prepare = {"_target_": "monai_blurvae.transforms.PrepareImaged", "keys": "image", "image_size": SIZE}
    config = {
        "data": {
            "_target_": "monai_blurvae.data.load_image_datalist",
            "dataset_dir": str(tmp_path / "images"),
            "image_pattern": "*",
            "datalist": None,
            "partition_file": None,
            "seed": 0,
        },
        "dataset": {
            "_target_": "monai_blurvae.data.ImageDataset",
            "data": "$@data.items('training')",
            "transform": {"_target_": "Compose", "transforms": [prepare]},
            "random_transform": {"_target_": "Compose", "transforms": [scale]},
            "cache_dir": str(tmp_path / "cache"),
            "seed": 0,
            "shuffle": True,
        },
    }
    dataset = ConfigParser(config).get_parsed_content("dataset")
    assert len(dataset) == 7
    sample = dataset[0]
    assert_identical(sample["image"], scaled(int(sample["subject"]))[0])
    config["data"]["dataset_dir"] = str(tmp_path / "nowhere")
    assert len(ConfigParser(config).get_parsed_content("dataset")) == 0
    config["dataset"]["data"] = [{"image": data[4]["image"]}]  # MONAI Label's override
    assert_identical(ConfigParser(config).get_parsed_content("dataset")[0]["image"], scaled(4)[0])
