"""What an inference calls its results, whatever the inputs are called."""

import numpy as np
import pytest
import torch
from PIL import Image

from monai_blurvae.networks import BlurVAEReconstructor
from tests.cifar import make_cifar
from tests.volumes import ROOT, run

INFERENCE = str(ROOT / "bundles/celeba/inference.json")
NETWORK = {"patch_size": 32, "channels": [4, 8], "latent_size": 4, "kernel_size": 5}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    torch.manual_seed(0)
    network = BlurVAEReconstructor(in_channels=3, image_size=32, channels=(4, 8), latent_size=4, kernel_size=5)
    path = tmp_path_factory.mktemp("model") / "model.pt"
    torch.save(network.state_dict(), path)
    return path


def infer(dataset_dir, output_dir, model_file):
    settings = {"output_dir": str(output_dir), "model_file": str(model_file), "crop_size": "null", "device": "cpu"}
    run("inference", INFERENCE, dataset_dir=str(dataset_dir), **settings, **NETWORK)
    return sorted(path.relative_to(output_dir).as_posix() for path in output_dir.rglob("*.*"))


def test_every_image_has_a_result_of_its_own_also_by_way_of_a_link(model_file, tmp_path):
    images = {"a/x.png": 0, "a/x.bmp": 80, "b/x.png": 160}
    for name, grey in images.items():
        (tmp_path / "store" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), grey, np.uint8)).save(tmp_path / "store" / name)
    (tmp_path / "link").symlink_to(tmp_path / "store", target_is_directory=True)
    out = tmp_path / "deep" / "out"
    written = infer(tmp_path / "link", out, model_file)
    assert written == ["a/x_bmp_reconstruction.png", "a/x_png_reconstruction.png", "b/x_reconstruction.png"]
    assert sorted(path.name for path in (tmp_path / "store").rglob("*.*")) == ["x.bmp", "x.png", "x.png"]
    network = BlurVAEReconstructor(in_channels=3, image_size=32, channels=(4, 8), latent_size=4, kernel_size=5).eval()
    network.load_state_dict(torch.load(model_file, weights_only=True))
    for name, grey in zip(written, (80, 0, 160), strict=True):
        with torch.no_grad():
            expected = (network(torch.full((1, 3, 32, 32), grey / 127.5 - 1))[0].permute(1, 2, 0).numpy() + 1) * 127.5
        np.testing.assert_allclose(np.asarray(Image.open(out / name), float), expected.clip(0, 255), atol=1.01)


def test_cifars_batches_go_through_inference(model_file, tmp_path):
    make_cifar(tmp_path / "cifar-10-batches-py", rows=1)
    written = infer(tmp_path, tmp_path / "out", model_file)
    batches = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
    assert written == [f"cifar-10-batches-py/{batch}#0_reconstruction.png" for batch in batches]
