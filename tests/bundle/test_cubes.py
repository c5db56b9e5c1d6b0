"""The bundle of cubes by the commands that a user types."""

import csv
import json

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

import monai_blurvae
from monai_blurvae.handlers.evaluation_record import EvaluationRecord
from monai_blurvae.run_files import EVALUATION_NPZ
from tests.commands import RUN, command
from tests.parallel import torchrun
from tests.pipelines import prepare
from tests.volumes import HCP, ROOT, TINY, per_image

BUNDLE = ROOT / "bundles/hcp3d"
CUBES = TINY | {"patch_size": 16, "batch_size": 4, "yardstick_images": 16}

pytestmark = pytest.mark.slow


def succeed(*line, **more):
    done = command(*line, extras=("all",), **more)
    assert done.returncode == 0, done.stderr[-3000:]


def bundle_run(run_id, config, *arguments, **more):
    succeed(*RUN, run_id, "--config_file", config, *arguments, **more)


@pytest.fixture(scope="module")
def trained(hcp_dir, cache_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cubes")
    overlay = folder / "tiny.json"
    overlay.write_text(json.dumps(CUBES))
    here = {"HCP_DIR": hcp_dir, "BLURVAE_CACHE_DIR": cache_dir}
    bundle_run("training", [str(BUNDLE / "train.json"), str(overlay)], "--output_dir", folder / "out", **here)
    return folder / "out" / "0001"


@pytest.fixture(scope="module")
def packed(trained, tmp_path_factory):
    succeed(ROOT / "scripts/pack_bundle.py", trained, out := tmp_path_factory.mktemp("packed"))
    return out / "hcp3d"


def test_the_run_is_one_of_cubes(trained):
    rows = list(csv.DictReader((trained / "test/metrics.csv").open()))
    assert list(rows[0])[:6] == ["subject", "x", "y", "z", "psnr", "ssim"]
    assert "2 cubes of 1 subject, shown by the coronal section" in (trained / "test/metrics.md").read_text()
    weights = torch.load(trained / "model.pt", weights_only=True)
    torch.testing.assert_close(weights["voxel_size"], torch.ones(3))
    record = EvaluationRecord.read(trained / "test" / EVALUATION_NPZ)
    assert (record.images.shape, record.mean_kernel.shape) == ((2, 1, 16, 16), (5, 5, 5))
    assert record.about["draws"]["likelihoods"] == ["variance", "kernel", "spectrum"]
    assert (trained / "report.html").stat().st_size > 50_000
    metadata = json.loads((trained / "metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [16, 16, 16]


def test_the_figures_of_the_test_are_those_of_the_cubes_in_the_volume(trained, hcp_dir):
    model = monai_blurvae.load(trained)
    for row in csv.DictReader((trained / "test/metrics.csv").open()):
        volume = prepare()({"image": str(hcp_dir / row["subject"] / HCP)})["image"].as_tensor().half().float()
        x, y, z = (int(row[axis]) for axis in "xyz")
        cube = volume[None, :, x : x + 16, y : y + 16, z : z + 16]
        with torch.no_grad():
            found = model.network.reconstruct(cube)
        error = (((found.clamp(-1, 1) - cube) / 2) ** 2).mean()
        assert float(row["psnr"]) == pytest.approx(float(-10 * error.log10()), abs=1e-3)


def test_an_evaluation_measures_cubes(trained, cache_dir):
    more = ("--run_dir", trained, "--measures", "true", "--device", "cpu")
    bundle_run("evaluating", BUNDLE / "evaluate.json", *more, BLURVAE_CACHE_DIR=cache_dir)
    folder = trained / "evaluation/0001"
    assert per_image(folder / "metrics.csv") == per_image(trained / "test/metrics.csv")
    measures = json.loads((folder / "measures.json").read_text())["measures"]
    for name in ("psnr", "nll_spectrum", "nll_kernel", "spectrum_reconstruction", "resolution"):
        assert measures[name]["value"] is not None, name
    for name in ("lpips", "mmd_alexnet", "frechet_alexnet", "fid_64"):
        assert "(2, 1, 16, 16, 16)" in measures[name]["reason"]


def test_an_inference_is_monais_sliding_window(trained, hcp_dir, cache_dir, tmp_path):
    scan = hcp_dir / "104" / HCP
    more = ("--run_dir", trained, "--input", scan, "--output_dir", tmp_path, "--device", "cpu")
    bundle_run("inference", BUNDLE / "inference.json", *more, BLURVAE_CACHE_DIR=cache_dir)
    (made,) = tmp_path.rglob("*_reconstruction.nii.gz")
    for kind in ("error", "absolute_error", "blur_width", "neg_log_prob"):
        assert made.with_name(made.name.replace("reconstruction", kind)).is_file()
    about = json.loads(made.with_name(made.name.replace(".nii.gz", ".json")).read_text())
    volume = prepare()({"image": str(scan)})["image"].as_tensor()
    network = monai_blurvae.load(trained).network
    inferer = SlidingWindowInferer([16] * 3, 4, 0.5, mode="gaussian", cval=-1.0)
    with torch.no_grad():
        expected = inferer(volume[None], network.reconstruct)[0, 0].numpy()
    scaling = about["intensities"]
    found = np.asarray(nib.load(made).dataobj) * scaling["slope"] + scaling["offset"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    by_load = monai_blurvae.load(trained).reconstruct(str(scan))[0].numpy()
    np.testing.assert_allclose(by_load * scaling["slope"] + scaling["offset"], expected, atol=1e-3)


def test_monais_checks_and_exports_of_the_packed_bundle(packed, tmp_path, monkeypatch):
    monkeypatch.chdir(packed)
    files = {"meta_file": "configs/metadata.json", "config_file": "configs/inference.json"}
    monai.bundle.verify_net_in_out("network_def", **files, device="cpu")
    monai.bundle.ckpt_export("network_def", filepath=str(tmp_path / "model.ts"), config_file="configs/inference.json")
    x = torch.rand(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    network = monai_blurvae.load(packed).reconstructor()
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(x), network(x), rtol=0, atol=1e-5)
    succeed(ROOT / "scripts/export.py", packed, "--output", tmp_path / "export", "--formats", "torchscript", "export")
    exported = torch.jit.load(tmp_path / "export/model.ts")
    with torch.no_grad():
        torch.testing.assert_close(exported(x), network(x), rtol=0, atol=1e-5)
        program = torch.export.load(tmp_path / "export/model.pt2").module()
        torch.testing.assert_close(program(x), network(x), rtol=0, atol=1e-5)
    assert exported.log_prob(x).shape == (2,)
    assert "- cubes, with the voxel size 1 × 1 × 1 mm" in (tmp_path / "export/model_card.md").read_text()


def test_two_processes_train_on_cubes(hcp_dir, cache_dir, tmp_path):
    overlay = tmp_path / "tiny.json"
    overlay.write_text(json.dumps({name: value for name, value in CUBES.items() if name != "device"}))
    files = str([str(BUNDLE / "train.json"), str(overlay), str(BUNDLE / "multi_gpu_train.json")])
    arguments = ("training", "--config_file", files, "--output_dir", tmp_path / "out")
    done = torchrun(*arguments, HCP_DIR=hcp_dir, BLURVAE_CACHE_DIR=cache_dir)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "out/0001/summary.json").is_file()


OVERLAYS = {
    "losses/spectral_gaussian": {},
    "ablations/adversarial": {},
    "ablations/exact": {},
    "architectures/autoencoder_kl": {"spatial_dims": 3},
}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_take_cubes(hcp_dir, cache_dir, tmp_path, overlay):
    tiny = tmp_path / "tiny.json"
    tiny.write_text(json.dumps(CUBES | {"max_epochs": 1, "warmup_epochs": 0, **OVERLAYS[overlay]}))
    files = [str(BUNDLE / "train.json"), str(ROOT / f"configs/{overlay}.yaml"), str(tiny)]
    monai.bundle.run(
        "training", config_file=files, dataset_dir=str(hcp_dir), cache_dir=cache_dir, run_dir=str(tmp_path / "run")
    )
    assert (tmp_path / "run/summary.json").is_file()
