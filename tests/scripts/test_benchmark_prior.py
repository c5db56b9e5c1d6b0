"""The comparison's command on small volumes."""

import csv
import json

import pytest
import torch

from monai_blurvae.networks import PatchVAE
from monai_blurvae.priors import BlurVAEPrior
from scripts.benchmark_prior import load_prior, main
from tests.commands import command
from tests.volumes import ROOT, make_dataset

OPTIONS = ["--accelerations", "2", "--coils", "1", "--phase", "smooth", "--noise", "0.01", "--threads", "1"]
SMALL = ["--slice_axis", "2", "--steps", "3", "--validation_subjects", "1", "--crop_size", "32"]
FAST = ["--methods", "zero_filled", "least_squares", "tiny"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A PatchVAE that says of itself that it was trained."""
    torch.manual_seed(0)
    network = PatchVAE(latent_size=3, hidden_size=8, bank_size=8)
    network.calibration.copy_(torch.tensor([[sigma, 1.0, 2.0] for sigma in (0.01, 0.02, 0.05, 0.1)]))
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(network.state_dict(), path)
    return path


def arguments(folder, hcp_dir, cache_dir, weights, *more):
    data = ["--dataset_dir", str(hcp_dir), "--cache_dir", str(cache_dir), "--output", str(folder)]
    return [*data, "--priors", f"tiny={weights}", *OPTIONS, *SMALL, *more]


def test_the_command_and_again(hcp_dir, cache_dir, weights, tmp_path):
    """A page, tables and figures; a second call makes nothing anew, and a third adds other data."""
    line = [ROOT / "scripts/benchmark_prior.py", *arguments(tmp_path / "out", hcp_dir, cache_dir, weights, *FAST)]
    results = {}
    for _ in range(2):
        done = command(*line, extras=("all",))
        assert done.returncode == 0, done.stdout + done.stderr
        files = sorted((tmp_path / "out/results").rglob("*.json"))
        assert len(files) == 8 + 8 + 3  # trials of two methods, and one test subject
        results = results or {path: path.stat().st_mtime_ns for path in files}
        assert results == {path: path.stat().st_mtime_ns for path in files}
    page = (tmp_path / "out/comparison.md").read_text()
    assert "## R = 2, one coil, smooth phase, noise 0.01: test subjects" in page
    assert "| least squares, real | iterations " in page
    assert "Not compared: DRUNet" in page
    rows = list(csv.DictReader((tmp_path / "out/slices.csv").open()))
    assert [row["method"] for row in rows] == ["zero_filled", "least_squares", "tiny"]
    assert float(rows[1]["psnr"]) > float(rows[0]["psnr"])
    make_dataset(tmp_path / "other", subjects=2)
    line += ["--cross_dir", str(tmp_path / "other")]
    done = command(*line, extras=("all",))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader((tmp_path / "out/slices.csv").open()))
    assert [row["data"] for row in rows] == ["test"] * 3 + ["cross"] * 6
    tuned = {row["method"]: row["parameters"] for row in csv.DictReader((tmp_path / "out/summary.csv").open())}
    assert tuned["zero_filled"] == ""
    assert "imaginary_std=" in tuned["tiny"]


@pytest.mark.slow
def test_every_method(hcp_dir, cache_dir, weights, tmp_path):
    for needed in ("deepinv", "sklearn", "pywt", "matplotlib"):
        pytest.importorskip(needed)
    line = arguments(tmp_path, hcp_dir, cache_dir, weights, "--mixture_patches", "2000")
    assert main(line) == 0
    summary = list(csv.DictReader((tmp_path / "summary.csv").open()))
    names = ["zero_filled", "least_squares", "tv_complex", "tv_real", "wavelets_complex", "wavelets_real"]
    assert [row["method"] for row in summary] == [*names, "epll_gmm", "tiny", "tiny_ddp"]
    assert float(summary[3]["gain_over_tv_real_mean"]) == 0
    gain = float(summary[3]["psnr"]) - float(summary[6]["psnr"])
    assert float(summary[3]["gain_over_epll_gmm_mean"]) == pytest.approx(gain, abs=1e-3)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {f"{kind}_test_r2_coils1_smooth_noise0.01.png" for kind in ("reconstructions", "convergence")}


def test_a_folder_of_another_comparison_is_left_alone(hcp_dir, cache_dir, weights, tmp_path, capsys):
    line = arguments(tmp_path, hcp_dir, cache_dir, weights, "--methods", "zero_filled", "tiny")
    assert main(line) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")}
    assert main([*line, "--steps", "2"]) == 1
    assert "in which steps was another; choose another --output" in capsys.readouterr().err
    other = torch.load(weights, weights_only=True)
    other["bank"] = other["bank"] + 1
    torch.save(other, tmp_path / "other.pt")
    assert main([*line, "--priors", f"tiny={tmp_path / 'other.pt'}"]) == 1
    assert "in which the model tiny was another" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")}
    assert list(json.loads((tmp_path / "settings.json").read_text())["priors"]) == ["tiny"]


def test_a_blurvae_is_a_prior(finished_run):
    prior = load_prior(finished_run[1], "variance")
    assert isinstance(prior, BlurVAEPrior)
    assert prior.patch_size == 32
    assert prior.denoise(torch.rand(1, 1, 40, 36), 0.1).shape == (1, 1, 40, 36)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "bm3d"], "names 'bm3d', but the methods are zero_filled"),
        (["--priors", "tiny"], "'tiny' is not NAME=RUN"),
        (["--priors", "a=x", "a=y"], "--priors names 'a' twice"),
        (["--priors", "tv_real=x"], "names a run 'tv_real', which is a method"),
        (["--subjects", "0"], "--subjects is 0"),
        (["--noise", "-1"], "--noise at least 0"),
        (["--crop_size", "30"], "--crop_size is 30"),
    ],
)
def test_wrong_options_are_named(more, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--output", str(tmp_path), *more])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dataset_dir", "nowhere"], "dataset_dir"),
        (["--priors", "tiny=nowhere"], "nowhere"),
        (["--accelerations", "8"], "leaves 5 of 40 lines"),
    ],
)
def test_what_cannot_be_used_is_one_line(more, message, hcp_dir, cache_dir, weights, tmp_path, capsys):
    line = arguments(tmp_path, hcp_dir, cache_dir, weights, "--methods", "tiny")
    assert main([*line, *more]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_methods_are_listed(capsys):
    assert main(["--priors", "mine=somewhere", "--list"]) == 0
    said = capsys.readouterr().out
    assert "tv_real: TV, real (weight 0.0005; weight 0.001" in said
    assert "mine: HQS, mine (phase_cycles 0, imaginary_std 0.005;" in said
    assert "mine_ddp" in said
    assert "epll_gmm_ddp" not in said
