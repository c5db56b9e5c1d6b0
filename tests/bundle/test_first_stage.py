"""A run of MONAI's AutoencoderKL goes where a run of a BlurVAE goes: inference, zip, exports, MONAI's own tools."""

import json
import zipfile
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

import monai_blurvae
from monai_blurvae.errors import RunFolderError
from monai_blurvae.metrics import evidence_bounds
from monai_blurvae.metrics.likelihood import SpectrumLikelihood
from monai_blurvae.runs import Run
from scripts import export, pack_bundle
from tests.photographs import CELEBA, TINY_IMAGES, make_photographs
from tests.volumes import ROOT, TINY, TRAIN, brain, run, save

OVERLAY = str(ROOT / "configs/architectures/autoencoder_kl.yaml")
SMALL = {"network_def#autoencoder#channels": [16, 16, 16]}


@pytest.fixture(scope="module")
def folder(hcp_dir, cache_dir, tmp_path_factory):
    """Of a finished tiny run, with attention in the last level."""
    folder = tmp_path_factory.mktemp("first_stage") / "run"
    attention = {"network_def#autoencoder#attention_levels": [False, False, True]}
    given = {"dataset_dir": str(hcp_dir), "cache_dir": cache_dir, "run_dir": str(folder)}
    run("training", [TRAIN, OVERLAY], **TINY, **SMALL, **attention, **given)
    return folder


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    """The zip."""
    return pack_bundle.zip_folder(pack_bundle.pack(folder, tmp_path_factory.mktemp("packed"), scores=False))


def images(count=3):
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_zip_is_the_network(folder, packed):
    network, model = Run(folder).network(), monai_blurvae.load(packed)
    x = images()
    assert torch.equal(model.network.reconstruct(x), network.reconstruct(x))
    assert torch.equal(model.reconstructor()(x), network.reconstruct(x))
    assert isinstance(model.network(x), tuple)  # the copy has its forward alone
    assert "| network | AutoencoderKL |\n" in (packed.with_suffix("") / "docs/model_card.md").read_text()
    assert "| channels | 16-16-16 |" in (packed.with_suffix("") / "docs/model_card.md").read_text()


def test_every_export_gives_the_network_and_its_density(folder, packed, tmp_path):
    pytest.importorskip("onnx")
    import onnxruntime

    assert export.main([str(packed), "--output", str(tmp_path / "out")]) == 0
    network, model = Run(folder).network(), monai_blurvae.load(folder)
    scripted = torch.jit.load(tmp_path / "out/model.ts")
    program = torch.export.load(tmp_path / "out/model.pt2").module()
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 5):
        x = images(count)
        expected = network.reconstruct(x)
        for found in (scripted(x), program(x), torch.from_numpy(session.run(None, {"image": x.numpy()})[0])):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        mu, log_var = network.encode(x)
        torch.testing.assert_close(scripted.encode(x), (mu, log_var), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(scripted.kernel(mu), network.kernel(mu), rtol=1e-5, atol=1e-6)
    likelihood = SpectrumLikelihood(model.densities().variances["spectrum"])
    bound = evidence_bounds(network, x[:1], {"spectrum": likelihood})["spectrum"].importance
    torch.testing.assert_close(scripted.log_prob(x[:1]), bound, rtol=1e-6, atol=1e-3)
    with pytest.raises(torch.jit.Error, match=r"takes images of shape \(B, \[1, 32, 32\]\)"):
        scripted(torch.zeros(1, 1, 64, 64))


@pytest.mark.parametrize("config", ["configs/inference.json", None])
def test_monais_tools_find_an_image_for_an_image(config, folder, packed, tmp_path):
    """``verify_net_in_out`` of the packed bundle, ``ckpt_export`` by a trace, and the evaluator of its config."""
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path)
    place = tmp_path / "hcp" if config else folder
    inference = str(place / (config or "inference.json"))
    meta = str(place / ("configs/metadata.json" if config else "metadata.json"))
    root = {"bundle_root": str(place)}
    monai.bundle.verify_net_in_out("network_def", meta_file=meta, config_file=inference, device="cpu", **root)
    monai.bundle.ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(folder / "model.pt"),
        meta_file=meta,
        config_file=inference,
        use_trace=True,
        input_shape=[1, 1, 32, 32],
        **root,
    )
    x = images()
    expected = Run(folder).network().reconstruct(x)
    torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(x), expected, rtol=0, atol=1e-5)
    scan = save(tmp_path / "scan.nii.gz", brain(7, (36, 6, 36)))
    parser = ConfigParser(json.loads(Path(inference).read_text()) | root)
    parser["input"], parser["output_dir"], parser["device"] = str(scan), str(tmp_path / "out"), "cpu"
    parser.get_parsed_content("evaluator").run()
    assert list((tmp_path / "out").rglob("*_reconstruction.nii.gz"))


def test_photographs(tmp_path, cache_dir):
    photographs, folder = make_photographs(tmp_path / "in"), tmp_path / "run"
    given = {"dataset_dir": str(photographs), "cache_dir": cache_dir}
    run("training", [CELEBA, OVERLAY], **TINY_IMAGES, **SMALL, **given, run_dir=str(folder))
    made = {"image_pattern": "*.png", "device": "cpu", "output_dir": str(tmp_path / "out"), "run_dir": str(folder)}
    run("inference", str(ROOT / "bundles/celeba/inference.json"), dataset_dir=str(photographs), **made)
    written = sorted((tmp_path / "out").rglob("*.png"))
    assert len(written) == 10
    model = monai_blurvae.load(folder)
    for path, source in zip(written, sorted(photographs.glob("*.png")), strict=True):
        found = np.moveaxis(np.asarray(Image.open(path)).astype(float), -1, 0)
        np.testing.assert_allclose(found, model.reconstruct(source).clip(0, 255), atol=1.01)  # PNG cuts


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kernel_size", "$3 + 2", "has '\\$3 \\+ 2' as kernel_size of its network"),
        ("autoencoder", {"_target_": "os.system", "command": "false"}, "holds weights of another network"),
    ],
)
def test_a_config_is_not_run_to_load_a_model(folder, tmp_path, name, value, message):
    other = tmp_path / "run"
    other.mkdir()
    for path in folder.iterdir():
        if path.name != "config.json" and path.is_file():
            (other / path.name).symlink_to(path)
    config = json.loads((folder / "config.json").read_text())
    config["network_def"][name] = value
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunFolderError, match=message):
        monai_blurvae.load(other)
