import json
import logging
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from monai_blurvae.data.datalist import Datalist
from monai_blurvae.data.images import ImageDataset, prepare_images
from monai_blurvae.data.patches import make_train_loader
from monai_blurvae.errors import DataError, user_error
from monai_blurvae.transforms.prepare_image import PrepareImage

SIZE = 4
TRAINING, VALIDATION, TEST = 10, 5, 4
TRANSFORM = PrepareImage(SIZE)


def pixels():
    count = TRAINING + VALIDATION + TEST
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def datalist(tmp_path):
    """Ten training, five validation and four test images; image i of all is ``pixels()[i]``."""
    root = tmp_path / "images"
    root.mkdir()
    for i, image in enumerate(pixels()):
        Image.fromarray(image).save(root / f"{i}.png")
    entries = [{"image": f"{i}.png", "subject": f"photo {i}"} for i in range(len(pixels()))]
    return Datalist(root, entries[:TRAINING], entries[TRAINING : TRAINING + VALIDATION], entries[-TEST:])


def spoil(datalist, *numbers):
    for i in numbers:
        (datalist.dataset_dir / f"{i}.png").write_text("no image")


def prepare(datalist, cache, **options):
    return prepare_images(datalist, cache, TRANSFORM, **options)


def scaled(*numbers):
    """What a dataset gives of these images."""
    return torch.from_numpy(pixels()[list(numbers)].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)


def numbers(subjects):
    return [int(subject.removeprefix("photo ")) for subject in subjects]


def subjects(batches):
    return [number for batch in batches for number in numbers(batch["subject"])]


def training_batches(images, epochs, num_workers=0, seed=3, batch_size=4):
    loader = make_train_loader(ImageDataset(images.training, seed, shuffle=True), batch_size, num_workers)
    batches = iter(loader)
    return [next(batches) for _ in range(epochs * len(loader))]


def test_samples(tmp_path, datalist):
    images = prepare(datalist, tmp_path / "cache")
    assert [len(split) for split in (images.training, images.validation, images.test)] == [TRAINING, VALIDATION, TEST]
    first = TRAINING
    dataset = ImageDataset(images.validation)
    samples = list(dataset)
    torch.testing.assert_close(torch.stack([s["image"] for s in samples]), scaled(*range(first, first + VALIDATION)))
    assert samples[2]["subject"] == f"photo {first + 2}"
    assert samples[2]["source"] == str(datalist.dataset_dir / f"{first + 2}.png")
    assert samples[2]["image"].dtype == torch.float32
    assert [image.subject for image in images] == [f"photo {i}" for i in range(len(pixels()))]


def test_range_of_the_samples(tmp_path):
    for name, value in (("black", 0), ("white", 255)):
        Image.new("L", (9, 9), value).save(tmp_path / f"{name}.png")
    entries = [{"image": f"{name}.png", "subject": name} for name in ("black", "white")]
    images = prepare(Datalist(tmp_path, entries[:1], entries[1:], []), tmp_path / "cache")
    assert (ImageDataset(images.training)[0]["image"] == -1).all()
    assert (ImageDataset(images.validation)[0]["image"] == 1).all()


def test_no_image_is_read_before_it_is_asked_for(tmp_path, datalist):
    spoil(datalist, *range(len(pixels())))
    images = prepare(datalist, tmp_path / "cache")
    assert images.skipped == []
    images.digest()
    images.used(datalist)
    with pytest.raises(DataError, match=r"12\.png cannot be read"):
        ImageDataset(images.validation)[2]


def test_every_epoch_has_its_own_order_of_all_images(tmp_path, datalist):
    images = prepare(datalist, tmp_path / "cache")
    batches = training_batches(images, 3)
    assert [len(batch["subject"]) for batch in batches] == [4, 4, 2] * 3
    orders = [subjects(batches[k : k + 3]) for k in (0, 3, 6)]
    assert all(sorted(order) == list(range(TRAINING)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert numbers(training_batches(images, 1, seed=4)[0]["subject"]) != orders[0][:4]
    for batch in batches:
        torch.testing.assert_close(batch["image"], scaled(*numbers(batch["subject"])))


def assert_same_batches(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a["subject"] == b["subject"]
        assert a["source"] == b["source"]
        torch.testing.assert_close(a["image"], b["image"], rtol=0, atol=0)


def test_workers_change_nothing(tmp_path, datalist):
    alone = training_batches(prepare(datalist, tmp_path / "a"), 3)
    images = prepare(datalist, tmp_path / "b")
    assert_same_batches(training_batches(images, 3, num_workers=2), alone)
    assert images.training.store.prepared() == TRAINING


def test_taken_up_in_the_middle(tmp_path, datalist):
    images = prepare(datalist, tmp_path / "cache")
    loader = make_train_loader(ImageDataset(images.training, seed=3, shuffle=True), 4)
    loader.batch_sampler.start_iteration = 5
    stream = iter(loader)
    assert_same_batches([next(stream) for _ in range(4)], training_batches(images, 3)[5:])


def test_a_bad_training_image_is_replaced_by_the_next_usable_one(tmp_path, datalist, caplog):
    spoil(datalist, 3, 4, 9)
    images = prepare(datalist, tmp_path / "a", skip_bad_files=True)
    assert images.skipped == []
    alone = training_batches(images, 2)
    assert sorted(subjects(alone)) == sorted(2 * [0, 1, 2, 5, 5, 5, 6, 7, 8, 0])
    for batch in alone:
        torch.testing.assert_close(batch["image"], scaled(*numbers(batch["subject"])))
        assert [Path(source).name for source in batch["source"]] == [f"{i}.png" for i in numbers(batch["subject"])]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 3
    assert all(warning.startswith("Skipping: ") for warning in warnings)
    assert sorted(Path(line.split()[0]).name for line in images.skipped) == ["3.png", "4.png", "9.png"]

    apart = prepare(datalist, tmp_path / "b", skip_bad_files=True)
    assert_same_batches(training_batches(apart, 2, num_workers=2), alone)
    assert apart.skipped == images.skipped  # the workers told
    lines = (apart.training.store.folder / "bad.jsonl").read_text().split("\n")
    assert sorted(json.loads(line)["index"] for line in lines if line) == [3, 4, 9]


def test_what_an_earlier_run_found_bad_is_said_at_once(tmp_path, datalist, caplog):
    spoil(datalist, 3)
    earlier = prepare(datalist, tmp_path / "cache", skip_bad_files=True)
    training_batches(earlier, 1)
    caplog.clear()
    images = prepare(datalist, tmp_path / "cache", skip_bad_files=True)
    assert images.skipped == earlier.skipped
    training_batches(images, 1)
    assert [record.getMessage() for record in caplog.records] == [f"Skipping: {images.skipped[0]}"]
    assert prepare(datalist, tmp_path / "cache").skipped == []


def test_lists_that_split_the_same_files_otherwise_share_the_store(tmp_path, datalist):
    spoil(datalist, TRAINING - 1)
    images = prepare(datalist, tmp_path / "cache", skip_bad_files=True)
    training_batches(images, 1)
    last = datalist.training[-1:]
    moved = replace(datalist, training=datalist.training[:-1], validation=last + datalist.validation)
    others = prepare(moved, tmp_path / "cache", skip_bad_files=True)
    assert others.training.store.folder == images.training.store.folder
    assert others.training.skipped() == {}
    assert others.skipped == images.skipped  # once, as one of the validation


def test_what_can_be_read_again_is_not_skipped(tmp_path, datalist):
    """A disk that was away for a moment."""
    images = prepare(datalist, tmp_path / "cache", skip_bad_files=True)
    images.training.store.note_bad(3, "3.png could not be read.")
    assert images.skipped == ["3.png could not be read."]
    assert prepare(datalist, tmp_path / "cache", skip_bad_files=True).skipped == []
    assert images.skipped == []


def test_bad_evaluation_images_are_left_out(tmp_path, datalist, caplog):
    spoil(datalist, 11, 16)
    images = prepare(datalist, tmp_path / "cache", skip_bad_files=True)
    assert numbers(images.validation.subjects) == [10, 12, 13, 14]
    assert numbers(images.test.subjects) == [15, 17, 18]
    assert [Path(line.split()[0]).name for line in images.skipped] == ["11.png", "16.png"]
    assert [record.getMessage() for record in caplog.records] == [f"Skipping: {line}" for line in images.skipped]
    assert images.training.store.prepared() == 7  # and nothing of the training
    torch.testing.assert_close(ImageDataset(images.test)[1]["image"], scaled(17)[0])


def test_used_leaves_out_what_was_skipped(tmp_path, datalist):
    spoil(datalist, 3, 11)
    images = prepare(datalist, tmp_path / "cache", skip_bad_files=True)
    training_batches(images, 1)
    used = images.used(replace(datalist, description="mine"))
    assert used.training == datalist.training[:3] + datalist.training[4:]
    assert used.validation == datalist.validation[:1] + datalist.validation[2:]
    assert (used.test, used.description) == (datalist.test, "mine")


def test_all_images_of_a_split_bad(tmp_path, datalist):
    spoil(datalist, *range(TRAINING + VALIDATION))
    with pytest.raises(DataError, match=r"no usable image is left for validation; .*10\.png cannot be read"):
        prepare(datalist, tmp_path / "cache", skip_bad_files=True)
    images = prepare(datalist, tmp_path / "cache", skip_bad_files=True, required=())
    with pytest.raises(DataError, match=r"none of the 10 images can be used; .*0\.png cannot be read"):
        ImageDataset(images.training)[5]


@pytest.mark.parametrize("split", ["training", "validation"])
def test_an_empty_split(tmp_path, datalist, split):
    short = replace(datalist, **{split: []})
    with pytest.raises(DataError, match=rf"no usable image is left for {split}; repair the data list or the files\."):
        prepare(short, tmp_path / "cache")
    test_only = replace(datalist, training=[], validation=[])
    images = prepare(test_only, tmp_path / "cache", required=["test"])
    assert not images.training
    assert len(images.test) == TEST
    assert images.used(test_only) == test_only


def test_a_missing_file(tmp_path, datalist):
    for i in (7, 12):
        (datalist.dataset_dir / f"{i}.png").unlink()
    with pytest.raises(DataError, match=r"7\.png is not there, as 2 of 19 listed images; .*--skip_bad_files"):
        prepare(datalist, tmp_path / "cache")
    images = prepare(datalist, tmp_path / "cache", skip_bad_files=True)
    assert numbers(images.validation.subjects) == [10, 11, 13, 14]
    assert images.training[7].subject == "photo 8"


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 3]), (5, range(5)), (9, range(5))])
def test_evaluation_images_are_evenly_spread(tmp_path, datalist, count, expected):
    images = prepare(datalist, tmp_path / "cache", eval_images=count)
    assert numbers(images.validation.subjects) == [TRAINING + i for i in expected]
    assert len(images.test) == min(count, TEST)
    assert len(images.training) == TRAINING
    for i, number in enumerate(numbers(images.validation.subjects)):
        torch.testing.assert_close(ImageDataset(images.validation)[i]["image"], scaled(number)[0])


def test_eval_images_has_to_be_positive(tmp_path, datalist):
    with pytest.raises(ValueError, match="eval_images must be null or positive, but is 0"):
        prepare(datalist, tmp_path / "cache", eval_images=0)


def test_digest(tmp_path, datalist):
    first = prepare(datalist, tmp_path / "cache").digest()
    assert len(first) == 16
    copy = replace(datalist, dataset_dir=tmp_path / "copy")
    shutil.copytree(datalist.dataset_dir, copy.dataset_dir)
    (copy.dataset_dir / "3.png").touch()
    assert prepare(copy, tmp_path / "other").digest() == first
    assert prepare(replace(datalist, test=[]), tmp_path / "cache").digest() == first
    swapped = replace(datalist, training=datalist.training[::-1])
    fewer = replace(datalist, training=datalist.training[1:])
    moved = replace(datalist, training=datalist.training[:-1], validation=datalist.training[-1:] + datalist.validation)
    others = [prepare(changed, tmp_path / "cache").digest() for changed in (swapped, fewer, moved)]
    assert len({first, *others}) == 4
    with (datalist.dataset_dir / "3.png").open("ab") as handle:
        handle.write(b"x")
    assert prepare(datalist, tmp_path / "cache").digest() != first


def test_what_the_package_asks_of_volumes_too(tmp_path, datalist):
    images = prepare(replace(datalist, remark="a sample"), tmp_path / "cache")
    assert (images.voxel_size, images.voxel_sizes, images.remark) == (None, [], "a sample")
    assert [images.count_text(count) for count in (1, 2)] == ["1 image", "2 images"]
    assert len(images.identities()) == len(pixels())


def test_an_error_in_a_worker_reaches_the_user_as_its_sentence(tmp_path, datalist):
    spoil(datalist, 11)
    images = prepare(datalist, tmp_path / "cache")
    dataset = ImageDataset(images.validation)
    with pytest.raises(DataError) as here:
        dataset[1]
    batches = iter(DataLoader(dataset, batch_size=2, num_workers=1))
    shown = None
    try:
        next(batches)
    except DataError as error:
        shown = user_error(error)
        error.__traceback__ = None  # it leads back to the batches: the worker would be left to the garbage collector
    assert str(shown) == str(here.value)
    assert str(shown).startswith(str(datalist.dataset_dir / "11.png"))
    assert "\n" not in str(shown)


def test_an_error_made_in_the_main_process_keeps_its_text():
    assert str(DataError("x.png is bad: mend it.")) == "x.png is bad: mend it."


def test_datasets_pickle(tmp_path, datalist):
    spoil(datalist, 3)
    images = prepare(datalist, tmp_path / "cache", skip_bad_files=True)
    dataset = ImageDataset(images.training, seed=3, shuffle=True)
    before = [dataset[i]["subject"] for i in range(TRAINING)]
    again = pickle.loads(pickle.dumps(dataset))
    assert [again[i]["subject"] for i in range(TRAINING)] == before
