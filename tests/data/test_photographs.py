from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from monai_blurvae.data import photographs
from monai_blurvae.data.datalist import SPLITS
from monai_blurvae.data.image_list import load_image_datalist
from monai_blurvae.data.photographs import PHOTOGRAPHS, draw_crop, main, make_photographs, sample_dir
from monai_blurvae.errors import DataError, SettingsError
from monai_blurvae.seeding import numpy_rng


@pytest.fixture
def small(monkeypatch):
    """A few crops, so that a sample is made in a moment."""
    monkeypatch.setattr(photographs, "CROPS", {"training": 6, "validation": 2, "test": 3})


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The whole sample at 64, and the messages that its making logs."""
    return make_photographs(tmp_path_factory.mktemp("cache") / "photographs64", 64)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def origins(entries):
    """The photographs that crops are from, by their names."""
    return {entry["subject"].rpartition("_")[0] for entry in entries}


@pytest.mark.slow
def test_the_sample_goes_the_way_of_a_users_folder(sample):
    made = load_image_datalist(sample, "**/*", None, None, 0).require()
    assert [len(getattr(made, split)) for split in SPLITS] == [256, 32, 64]
    for split in SPLITS:
        for item in made.items(split):
            with Image.open(item["image"]) as image:
                assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 64))


@pytest.mark.slow
def test_no_photograph_is_in_two_splits(sample):
    made = load_image_datalist(sample, "**/*", None, None, 0).require()
    assert origins(made.training) == {"astronaut", "motorcycle", "retina", "rocket"}
    assert origins(made.validation) == {"coffee"}
    assert origins(made.test) == {"chelsea"}


@pytest.mark.slow
def test_every_crop_shows_something_and_none_is_there_twice(sample):
    crops = [np.asarray(Image.open(path)) for path in sample.glob("*.png")]
    assert all(crop.mean(-1).std() > 10 for crop in crops)
    assert len({crop.tobytes() for crop in crops}) == len(crops)


def test_a_list_knows_the_sample(tmp_path, small):
    folder = sample_dir(tmp_path, 32)
    assert folder == tmp_path / "photographs32"
    for _ in range(2):
        make_photographs(folder, 32)
        made = load_image_datalist(folder, "img_align_celeba/*.jpg", None, None, 0)
        assert (made.problem, made.remark) == ("", "crops of the built-in photographs")
        assert [len(getattr(made, split)) for split in SPLITS] == [6, 2, 3]


def test_the_same_seed_and_size_give_the_same_bytes(tmp_path, small):
    first = content(make_photographs(tmp_path / "a", 32))
    assert content(make_photographs(tmp_path / "b", 32)) == first
    other = content(make_photographs(tmp_path / "c", 32, seed=1))
    assert other["chelsea_000.png"] != first["chelsea_000.png"]
    assert other["list_eval_partition.txt"] == first["list_eval_partition.txt"]


def test_a_crop_of_32_shows_what_a_crop_of_64_shows(tmp_path, small):
    halves, wholes = (make_photographs(tmp_path / str(size), size) for size in (32, 64))
    for path in halves.glob("*.png"):
        whole = np.asarray(Image.open(wholes / path.name), dtype=float)
        halved = whole.reshape(32, 2, 32, 2, 3).mean((1, 3))
        assert np.corrcoef(halved.ravel(), np.asarray(Image.open(path), dtype=float).ravel())[0, 1] > 0.97


def test_a_crop_is_a_reduced_region_of_the_photograph(tmp_path, small):
    folder = make_photographs(tmp_path, 150)
    photograph = np.asarray(Image.open(Path(skimage.__file__).parent / "data/chelsea.png"), dtype=float)
    left, top, side = draw_crop((451, 300), 150, numpy_rng(0, "photographs", "chelsea", 1))
    assert side >= 150
    region = photograph[top : top + side, left : left + side]
    crop = np.asarray(Image.open(folder / "chelsea_001.png"), dtype=float)
    centres = ((np.arange(150) + 0.5) * side / 150).astype(int)
    assert np.abs(region[np.ix_(centres, centres)] - crop).mean() < 8
    assert np.allclose(region.mean((0, 1)), crop.mean((0, 1)), atol=0.5)


@pytest.mark.parametrize("size", [(451, 300), (512, 512), (1411, 1411)])
@pytest.mark.parametrize("image_size", [8, 64, 256, 300])
def test_regions_lie_within_and_are_never_enlarged(size, image_size):
    regions = [draw_crop(size, image_size, numpy_rng(seed, "test")) for seed in range(300)]
    smallest = max(image_size, round(min(size) / 4))
    for left, top, side in regions:
        assert smallest <= side <= min(2 * smallest, min(size))
        assert 0 <= left <= size[0] - side
        assert 0 <= top <= size[1] - side
    largest = min(2 * smallest, min(size))
    assert len({region.side for region in regions}) > min(20, (largest - smallest) / 2)
    assert min(region.left for region in regions) < size[0] / 10


@pytest.mark.parametrize(("image_size", "expected"), [(32, (256, 32, 64)), (128, (256, 32, 64)), (256, (64, 8, 16))])
def test_larger_crops_are_fewer(image_size, expected):
    assert tuple(photographs._count(split, image_size) for split in SPLITS) == expected


def test_it_is_made_once(tmp_path, small):
    folder = make_photographs(tmp_path / "sample", 32)
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*.*")}
    assert make_photographs(folder, 32) == folder
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.glob("*.*")}


def test_what_a_killed_process_began_is_ended(tmp_path, small, monkeypatch):
    whole = content(make_photographs(tmp_path / "whole", 32))
    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(photographs, "LICENSE_NOTE", None)  # cannot be written
        with pytest.raises(TypeError):
            make_photographs(folder, 32)
    (folder / "rocket_000.png").write_bytes(b"half")
    (folder / ".rocket_001.png.0a1b2c3d.part").touch()
    assert not (folder / "list_eval_partition.txt").exists()
    with pytest.raises(DataError, match="another sample"):
        make_photographs(folder, 64)
    assert content(make_photographs(folder, 32)) == whole


def test_the_licence_credits_every_photograph(tmp_path, small):
    folder = make_photographs(tmp_path, 32)
    text = (folder / "LICENSE.txt").read_text(encoding="utf-8")
    for path in folder.glob("*.png"):
        assert path.stem.rpartition("_")[0] in text
    for credit in ("NASA", "Scharstein", "Häggström", "SpaceX", "Rachel Michetti", "Stefan van der Walt"):
        assert credit in text


def test_scikit_image_ships_the_photographs_in_colour():
    for split in SPLITS:
        for name in PHOTOGRAPHS[split]:
            with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
                assert image.mode == "RGB"
                assert min(image.size) >= photographs.LARGEST_IMAGE_SIZE


def test_a_photograph_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(PHOTOGRAPHS, "test", ("dachshund.png",))
    monkeypatch.setattr(photographs, "CROPS", {"training": 1, "validation": 1, "test": 1})
    with pytest.raises(DataError, match=r"dachshund\.png, a photograph of scikit-image, cannot be read"):
        make_photographs(tmp_path, 32)


@pytest.mark.parametrize("image_size", [0, 7, 301, 512])
def test_sizes_that_the_photographs_do_not_have(tmp_path, image_size):
    with pytest.raises(SettingsError, match=f"no images of image_size {image_size}; give 8 to 300"):
        make_photographs(tmp_path / "sample", image_size)
    assert not (tmp_path / "sample").exists()


@pytest.mark.parametrize(("image_size", "seed"), [(64, 0), (32, 1)])
def test_another_sample_is_not_overwritten(tmp_path, small, image_size, seed):
    before = content(make_photographs(tmp_path, 32))
    with pytest.raises(
        DataError, match=f"holds another sample than the one of image_size {image_size} and seed {seed}"
    ):
        make_photographs(tmp_path, image_size, seed)
    assert content(tmp_path) == before


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "rocket_000.png").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"already holds rocket_000\.png"):
        make_photographs(tmp_path, 32)
    assert (tmp_path / "rocket_000.png").read_bytes() == b"mine"


def test_command_line(tmp_path, capsys, small):
    assert main([str(tmp_path / "new"), "--image_size", "16", "--seed", "3"]) == 0
    assert f"--dataset_dir {tmp_path / 'new'}" in capsys.readouterr().out
    assert Image.open(tmp_path / "new/chelsea_000.png").size == (16, 16)
    assert main([str(tmp_path / "new"), "--image_size", "1000"]) == 1
    assert "error: the built-in sample has no images of image_size 1000" in capsys.readouterr().err
