"""A model of colour images, whose intensities are bytes."""

import numpy as np
import pytest
import torch
from PIL import Image

import monai_blurvae
from monai_blurvae.errors import DataError
from scripts import export, pack_bundle
from tests.photographs import CELEBA, TINY_IMAGES, make_photographs
from tests.volumes import ROOT
from tests.volumes import run as command


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return make_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def run(photographs, cache_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    command("training", CELEBA, dataset_dir=str(photographs), cache_dir=cache_dir, run_dir=str(folder), **TINY_IMAGES)
    return folder


def test_files_and_arrays_of_bytes(run, photographs):
    model = monai_blurvae.load(run)
    path = photographs / "000003.png"
    result = model.reconstruct(path)
    assert result.shape == (3, 32, 32)
    assert model.intensity(path) == (0, 255)
    pixels = np.moveaxis(np.asarray(Image.open(path)), -1, 0)
    whole = model.reconstruct(pixels)
    assert whole.shape == pixels.shape
    assert whole.min() >= 0
    assert whole.max() <= 255
    assert model.log_prob(path).shape == (1,)
    with pytest.raises(DataError, match=r"3 channel\(s\) first"):
        model.reconstruct(np.asarray(Image.open(path)))


def test_a_zip_infers_as_the_run_does(run, photographs, tmp_path):
    packed = pack_bundle.zip_folder(pack_bundle.pack(run, tmp_path / "packed"))
    for name, place in (("run", run), ("zip", packed)):
        given = {"run_dir": str(place), "dataset_dir": str(photographs), "image_pattern": "*.png", "device": "cpu"}
        command("inference", str(ROOT / "bundles/celeba/inference.json"), **given, output_dir=str(tmp_path / name))
    found = [sorted((tmp_path / name).rglob("*.png")) for name in ("run", "zip")]
    assert len(found[0]) == len(found[1]) == 10
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))


def test_an_export_in_colour(run):
    assert export.main([str(run), "--formats", "torchscript", "export"]) == 0
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    network, model = torch.jit.load(run / "export" / "model.ts"), monai_blurvae.load(run)
    torch.testing.assert_close(network(x), model.network.reconstruct(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        network.log_prob(x), model.log_prob((x + 1) * 127.5, intensity=(0, 255)), rtol=1e-5, atol=1e-2
    )
    card = (run / "export" / "model_card.md").read_text()
    assert "32×32 colour images" in card
    assert "0 to 255 become −1 to 1" in card
    assert "slices" not in card
