"""bundles/patch_prior: training, resuming, packing and loading a learned prior."""

import csv
import json
import re
import shutil
import zipfile

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_blurvae.errors import RunFolderError
from monai_blurvae.handlers.checkpoint import load_safely
from monai_blurvae.networks import PatchVAE
from monai_blurvae.networks.patch_models import SIGMAS
from monai_blurvae.priors import PatchVAEPrior
from tests.commands import RUN, command, options
from tests.report.html import Document
from tests.volumes import ROOT, brain, cause, run, save

TRAIN, EVALUATE, RECONSTRUCT = (
    str(ROOT / f"bundles/patch_prior/{name}.json") for name in ("train", "evaluate", "reconstruct")
)
SMALL = {
    "patch_size": 32,
    "batch_size": 8,
    "patches_per_volume": 4,
    "eval_patches_per_volume": 2,
    "device": "cpu",
    "max_epochs": 2,
    "val_interval": 1,
    "network_def#components": 4,
}


@pytest.fixture(scope="module")
def prior_run(hcp_dir, cache_dir, tmp_path_factory):
    """The folder of a finished tiny training, by the line that a user types."""
    folder = tmp_path_factory.mktemp("prior") / "run"
    settings = {"dataset_dir": hcp_dir, "cache_dir": cache_dir, "run_dir": folder, **SMALL}
    done = command(*RUN, "training", "--config_file", TRAIN, *options(**settings), extras=("study",))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def packed(prior_run, tmp_path_factory):
    """The zip of its bundle."""
    folder = tmp_path_factory.mktemp("packed")
    done = command(ROOT / "scripts/pack_bundle.py", prior_run, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "patch_prior.zip"


def images():
    return torch.rand(1, 1, 20, 18, generator=torch.Generator().manual_seed(0))


def test_a_run_leaves_log_densities_and_denoising(prior_run):
    summary = json.loads((prior_run / "summary.json").read_text())
    assert summary["epochs"] == 2
    rows = list(csv.DictReader((prior_run / "test" / "metrics.csv").open()))
    assert len(rows) == 2
    for sigma in SIGMAS:
        for name in ("elbo", "bank", "kl", "psnr"):
            mean = sum(float(row[f"{name}_{sigma:g}"]) for row in rows) / 2
            assert summary["test"][f"{name}_{sigma:g}"] == pytest.approx(mean, rel=1e-4)
    assert summary["test"]["log_p"] == summary["test"]["elbo_0.02"]
    table = (prior_run / "test" / "metrics.md").read_text()
    assert "2 patches of 1 subject." in table
    assert "| 0.02 |" in table
    assert not (prior_run / "inference.json").exists()


def test_the_model_takes_calibration_and_voxel_size_along(prior_run):
    weights = load_safely(prior_run / "model.pt")
    torch.testing.assert_close(weights["calibration"][:, 0], torch.tensor(SIGMAS))
    assert bool(torch.isfinite(weights["calibration"]).all())
    assert PatchVAEPrior.load(prior_run, chunk_size=7).voxel_size == (1.0, 1.0)


def test_the_best_model_is_that_of_the_best_bound(prior_run):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(prior_run / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/kl", "validation/log_p", "validation/bank_0.05"} <= set(events.Tags()["scalars"])
    best = max(event.value for event in events.Scalars("validation/log_p"))
    calibration = load_safely(prior_run / "model.pt")["calibration"]
    assert float(calibration[SIGMAS.index(0.02), 1]) == pytest.approx(best, rel=1e-5)


def test_run_bundle_zip_and_weights_load_the_same_prior(prior_run, packed, tmp_path):
    shutil.unpack_archive(packed, tmp_path)
    places = (prior_run, packed, tmp_path / "patch_prior", prior_run / "model.pt")
    priors = [PatchVAEPrior.load(place, intensity=(0.0, 1.0)) for place in places]
    values = [prior.log_prob(images(), 0.1) for prior in priors]
    assert all(torch.equal(value, values[0]) for value in values)
    names = {path.name for path in (tmp_path / "patch_prior" / "configs").iterdir()}
    assert names == {"train.json", "evaluate.json", "reconstruct.json", "metadata.json", "logging.conf"}
    parser = ConfigParser(ConfigParser.load_config_file(tmp_path / "patch_prior" / "configs" / "reconstruct.json"))
    parser.update({"bundle_root": str(tmp_path / "patch_prior")})
    prior = parser.get_parsed_content("prior")
    assert (prior.stride, prior.imaginary_std) == (4, 0.01)
    expected = PatchVAEPrior.load(prior_run, intensity=(0.0, 1.0), stride=4).log_prob(images(), 0.1)
    assert torch.equal(prior.log_prob(images(), 0.1), expected)


def test_a_continuous_latent_is_an_overlay_away(hcp_dir, cache_dir, tmp_path):
    more = str(ROOT / "configs/prior_vae.yaml")
    sizes = {name: value for name, value in SMALL.items() if name != "network_def#components"}
    settings = {"dataset_dir": str(hcp_dir), "cache_dir": cache_dir, "run_dir": str(tmp_path / "run"), **sizes}
    run("training", [TRAIN, more], **settings | {"max_epochs": 1, "latent_size": 3})
    prior = PatchVAEPrior.load(tmp_path / "run", inference="encoder", samples=1)
    assert isinstance(prior.network, PatchVAE)
    assert prior.network.latent_size == 3


def test_resume_continues_as_if_nothing_had_happened(hcp_dir, cache_dir, tmp_path):
    common = {"dataset_dir": str(hcp_dir), "cache_dir": cache_dir, **SMALL, "lr_warmup": 0.0, "lr_final": 1.0}
    run("training", TRAIN, run_dir=str(tmp_path / "straight"), **common | {"max_epochs": 3})
    run("training", TRAIN, run_dir=str(tmp_path / "cut"), **common)
    run("training", TRAIN, run_dir=str(tmp_path / "cut"), **common | {"max_epochs": 3}, resume="true")
    a, b = (load_safely(tmp_path / name / "checkpoint.pt") for name in ("straight", "cut"))
    for name in ("network", "optimizer"):
        torch.testing.assert_close(a["objects"][name], b["objects"][name], rtol=0, atol=0)
    assert a["trainer"] == b["trainer"]
    assert a["validator"] == b["validator"]


def test_what_is_no_trained_prior_is_refused(prior_run, finished_run, tmp_path):
    with pytest.raises(RunFolderError, match="holds no model of patches; give a run of bundles/patch_prior"):
        PatchVAEPrior.load(finished_run[1])
    with pytest.raises(RunFolderError, match=r"holds no model\.pt; give the folder of a training"):
        PatchVAEPrior.load(tmp_path)
    with pytest.raises(RunFolderError, match="is not there"):
        PatchVAEPrior.load(tmp_path / "none.pt")
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    with pytest.raises(RunFolderError, match="cannot be read"):
        PatchVAEPrior.load(tmp_path / "broken.pt")
    weights = load_safely(prior_run / "model.pt")
    torch.save({**weights, "calibration": torch.full_like(weights["calibration"], torch.nan)}, tmp_path / "new.pt")
    with pytest.raises(RunFolderError, match=r"new\.pt records no training of its weights; give the model of a run"):
        PatchVAEPrior.load(tmp_path / "new.pt")


def test_the_guides_example_runs_on_a_trained_prior(prior_run):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/prior.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    code = code.replace('"outputs/prior/0001"', repr(str(prior_run)))
    namespace = {}
    exec(compile(code, "docs/prior.md", "exec"), namespace)
    assert namespace["log_density"].shape == (2,)
    change = namespace["images"] + 0.05**2 * namespace["gradient"]
    torch.testing.assert_close(namespace["denoised"], change)


def test_the_report_of_a_run(prior_run):
    pytest.importorskip("matplotlib")
    page = Document((prior_run / "report.html").read_text(encoding="utf-8"))
    summary = json.loads((prior_run / "summary.json").read_text())["test"]
    assert f"{summary['bank_0.02']:.2f} nats a patch" in page.text.replace("−", "-")
    assert "latents, so that log p is exact" in page.text
    labels = [svg["aria-label"] for svg in page.all("svg")]
    for start in (
        "Training loss",
        "KL from",
        "Log-density of held-out patches at",
        "PSNR of images",
    ):
        assert any(label.startswith(start) for label in labels), start
    alts = [image["alt"] for image in page.all("img")]
    for start in ("image", *(f"{what} {s:g}" for s in SIGMAS for what in ("with noise of", "denoised at"))):
        assert sum(alt.startswith(f"{start}: ") for alt in alts) == 2, start  # images of the test
    assert sum("patches of the evaluated" in alt or "m(z)" in alt for alt in alts) == 3
    assert "npz cannot be read" not in page.text


def test_evaluating_again_gives_the_same_table(prior_run, cache_dir, tmp_path):
    settings = {"run_dir": str(prior_run), "cache_dir": cache_dir, "device": "cpu"}
    run("evaluating", EVALUATE, **settings, evaluation_dir=str(tmp_path / "again"))
    for name in ("metrics.md", "metrics.csv"):
        assert (tmp_path / "again" / name).read_text() == (prior_run / "test" / name).read_text()


def test_its_packed_card_has_its_own_figures(prior_run, packed):
    with zipfile.ZipFile(packed) as archive:
        card = archive.read("patch_prior/docs/model_card.md").decode()
        metadata = json.loads(archive.read("patch_prior/configs/metadata.json"))
    table = [line for line in (prior_run / "test" / "metrics.md").read_text().splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(SIGMAS)
    assert "\n".join(table) in card
    rows = list(csv.DictReader((prior_run / "test" / "metrics.csv").open()))
    held_out = sum(float(row["elbo_0.02"]) for row in rows) / len(rows)
    assert metadata["eval_metrics"]["log_p"] == pytest.approx(held_out, rel=1e-4)
    for text in ("8×8 patches of grey images", "| network | PatchMixture |", "| components | 4 |", "- slices: coronal"):
        assert text in card
    assert "percentiles 1 to 99 of the whole become −1 to 1\n" in card  # not clipped
    assert "architecture" not in card
    assert "no medical device" in card


def test_the_packed_bundle_evaluates_as_the_run_does(prior_run, packed, hcp_dir, cache_dir, tmp_path, monkeypatch):
    """From its folder, on images that are given, since it comes without any."""
    shutil.unpack_archive(packed, tmp_path)
    monkeypatch.chdir(tmp_path / "patch_prior")
    given = {"dataset_dir": str(hcp_dir), "image_pattern": "103/**/*.nii.gz", "cache_dir": cache_dir, "device": "cpu"}
    run("evaluating", "configs/evaluate.json", **given)
    run("evaluating", EVALUATE, **given, run_dir=str(prior_run), evaluation_dir=str(tmp_path / "own"))
    for name in ("metrics.md", "metrics.csv"):
        assert (tmp_path / "patch_prior/evaluation/0001" / name).read_text() == (tmp_path / "own" / name).read_text()


def test_a_zip_reconstructs_as_the_run_does(prior_run, packed, tmp_path):
    scan = save(tmp_path / "a.nii.gz", brain(3, (24, 3, 24)))
    for name, place in (("run", prior_run), ("zip", packed)):
        settings = {"input": str(scan), "output_dir": str(tmp_path / name), "device": "cpu", "run_dir": str(place)}
        settings |= {"acceleration": 2, "centre_lines": 9, "steps": 2}
        run("reconstructing", RECONSTRUCT, **settings)
    found = [sorted((tmp_path / name).rglob("*.nii.gz")) for name in ("run", "zip")]
    assert found[0]
    for one, other in zip(*found, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(nib.load(one).get_fdata(), nib.load(other).get_fdata())


def test_evaluating_on_other_data(prior_run, cache_dir, tmp_path):
    """By the line that a user types; every image is another one."""
    save(tmp_path / "data" / "new.nii.gz", brain(99))
    settings = {"run_dir": prior_run, "cache_dir": cache_dir, "device": "cpu", "dataset_dir": tmp_path / "data"}
    settings |= {"image_pattern": "*.nii.gz", "evaluation_dir": tmp_path / "other"}
    done = command(*RUN, "evaluating", "--config_file", EVALUATE, *options(**settings), extras=("study",))
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "other" / "metrics.md").read_text()
    assert "2 patches of 1 subject." in text
    assert text != (prior_run / "test" / "metrics.md").read_text()
    assert {row["subject"] for row in csv.DictReader((tmp_path / "other" / "metrics.csv").open())} == {"new"}
    assert "Denoising" in (tmp_path / "other" / "report.html").read_text(encoding="utf-8")


def test_a_prior_is_no_model_of_an_inference(prior_run, tmp_path):
    save(tmp_path / "data" / "a.nii.gz", brain())
    settings = {"run_dir": str(prior_run), "dataset_dir": str(tmp_path / "data"), "image_pattern": "*.nii.gz"}
    with pytest.raises(RuntimeError) as error:
        run("inference", str(ROOT / "bundles/hcp/inference.json"), **settings, output_dir=str(tmp_path / "out"))
    assert "another network than BlurVAE" in str(cause(error.value))
