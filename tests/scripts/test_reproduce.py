"""The study's command, with trainings of an epoch on small volumes."""

import csv
import json
import os
import subprocess
import sys

import pytest

from scripts.reproduce import main, make_options, make_parser
from tests.volumes import ROOT, TINY, make_dataset

# The sizes of the smallest run; the study sets the rest itself.
SIZES = ("patch_size", "channels", "latent_size", "kernel_size", "batch_size")
COUNTS = ("patches_per_volume", "eval_patches_per_volume")
SMALL = {name: TINY[name] for name in SIZES + COUNTS}


def options(*arguments):
    parser = make_parser()
    return make_options(parser.parse_args(["--output", "out", *arguments]), parser)


def test_options():
    made = options(
        "--table", "1", "3", "--losses", "l2,exact", "--seeds", "0,2", "--patches", "64", "--slice_axis", "2"
    )
    assert (made.tables, made.rows, made.seeds) == (("1", "3"), ("l2", "exact"), (0, 2))
    assert made.budget.patches == 64
    assert made.multipliers == made.budget.multipliers
    assert made.settings == {"slice_axis": 2}
    assert options("--multipliers", "0.5,2").multipliers == (0.5, 2.0)
    assert len(options("--table", "3").rows) == 12


def test_a_gpu_is_given_one_training_at_a_time_and_a_cpu_one_for_each_core(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert [options("--device", device).jobs for device in ("cpu", "cuda", "cuda:1")] == [6, 1, 1]
    assert options("--device", "cuda", "--jobs", "3").jobs == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--losses", "l3"], "names 'l3', but the rows are l2, l1"),
        (["--losses", "exact"], "'exact', which is not in table 3"),
        (["--jobs", "0"], "have to be positive"),
        (["--rate", "-1"], "have to be positive"),
        (["--patches", "0"], "--patches is 0"),
        (["--settings", "[1]"], "JSON object"),
        (["--settings", '{"beta": 1}'], "'beta', which differs from cell to cell; use --multipliers"),
        (["--table", "2"], "invalid choice"),
        (["--seeds", "a"], "--seeds"),
    ],
)
def test_wrong_options_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit):
        options(*arguments)
    assert message in capsys.readouterr().err


def test_data_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["--output", str(tmp_path / "out"), "--dataset_dir", str(tmp_path / "none")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: dataset_dir")
    assert error.count("\n") == 1


def test_a_mistyped_setting_is_one_line(tmp_path, capsys):
    make_dataset(tmp_path / "data")
    arguments = ["--output", str(tmp_path / "out"), "--dataset_dir", str(tmp_path / "data")]
    assert main([*arguments, "--cache_dir", str(tmp_path / "cache"), "--settings", '{"latent_sise": 4}']) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: 'latent_sise' is no key")
    assert "latent_size" in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_two_losses_twice(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    make_dataset(tmp_path / "data")
    command = [sys.executable, str(ROOT / "scripts/reproduce.py"), "--table", "3", "--rate-distortion"]
    command += ["--budget", "tiny", "--patches", "24", "--losses", "l2,wiener", "--multipliers", "1"]
    command += ["--dataset_dir", str(tmp_path / "data"), "--cache_dir", str(tmp_path / "cache"), "--jobs", "2"]
    command += [
        "--output",
        str(tmp_path / "out"),
        "--weights_dir",
        str(tmp_path / "weights"),
        "--importance_samples",
        "2",
    ]
    command += ["--device", "cpu", "--settings", json.dumps(SMALL)]

    def run():
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
        logs = [path.read_text() for path in (tmp_path / "out").rglob("*.log")]
        assert done.returncode == 0, done.stdout + done.stderr + "".join(logs)
        return done.stdout

    said = run()
    assert "cell 2/2" in said
    assert "FAILED" not in said
    names = {f"{stem}.{kind}" for stem in ("table3", "table3_equal_rate") for kind in ("md", "csv", "tex")}
    names |= {f"{stem}.{kind}" for stem in ("rate_distortion", "spectra") for kind in ("png", "pdf")}
    assert names <= {path.name for path in (tmp_path / "out").iterdir()}
    cells = list(csv.DictReader((tmp_path / "out/cells.csv").open()))
    assert len(cells) == 4
    assert all(float(cell["psnr"]) > 5 and float(cell["kl"]) > 0 for cell in cells)
    assert all("lpips_alex.pt" in cell["lpips"] for cell in cells)
    rows = list(csv.DictReader((tmp_path / "out/table3.csv").open()))
    assert [row["row"] for row in rows[:1]] == ["L2"]
    assert all(float(row["psnr"]) > 5 for row in rows)
    assert "lpips_alex.pt" in (tmp_path / "out/table3.md").read_text()

    said = run()
    assert "2 cells: 2 finished before, 0 to train" in said
    assert "Nothing was left to train or to measure" in said
    assert "Measuring" not in said
