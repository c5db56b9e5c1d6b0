"""The study's command, with trainings of an epoch on small volumes."""

import csv
import json
import os

import pytest

from scripts.reproduce import main, make_options, make_parser
from tests.commands import command
from tests.photographs import make_photographs
from tests.volumes import ROOT, TINY, make_dataset

# The sizes of the smallest run; the study sets the rest itself.
SIZES = ("patch_size", "channels", "latent_size", "kernel_size", "batch_size", "yardstick_images")
COUNTS = ("patches_per_volume", "eval_patches_per_volume")
SMALL = {name: TINY[name] for name in SIZES + COUNTS}


def options(*arguments):
    parser = make_parser()
    return make_options(parser.parse_args(["--output", "out", *arguments]), parser)


def test_options():
    made = options(
        "--table", "1", "2", "--losses", "l2,c_01", "--seeds", "0,2", "--patches", "64", "--settings", '{"lr": 1}'
    )
    assert (made.tables, made.rows, made.seeds) == (("1", "2"), ("l2", "c_01"), (0, 2))
    assert made.budget.patches == 64
    assert made.betas == (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
    assert made.settings == {"lr": 1}
    assert options("--betas", "0.5,2").betas == (0.5, 2.0)
    assert len(options("--table", "3").rows) == 8


def test_each_table_and_figure_has_its_images():
    images = {f"table {name}": options("--table", name).image_set.name for name in "123456"}
    images |= {f"figure {name}": options("--figure", name).image_set.name for name in "23456789"}
    assert {where for where, name in images.items() if name == "hcp"} == {"table 3", "figure 4", "figure 9"}
    assert {where for where, name in images.items() if name == "cifar10"} == {"table 5", "figure 5"}
    assert {where for where, name in images.items() if name == "celeba_hq"} == {"figure 3", "figure 7"}
    made = options("--table", "1", "3", "--bundle", "celeba_hq")
    assert made.base_files == (
        "bundles/celeba/train.json",
        "configs/architectures/narrow.yaml",
        "configs/celeba_256.yaml",
    )
    assert options().base_files[0] == "bundles/hcp/train.json"
    assert options("--table", "5", "--budget", "paper").base_files[1:] == (
        "configs/paper_celeba.yaml",
        "configs/cifar10.yaml",
    )


def test_a_figure_alone_needs_the_plain_bound_alone():
    made = options("--figure", "5")
    assert (made.tables, made.figures, made.betas) == ((), ("5",), (1.0,))
    assert made.rows == ("l2", "ffl", "ce", "wiener")


def test_four_trainings_share_a_gpu_and_a_cpu_has_one_for_each_core(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert [options("--device", device).jobs for device in ("cpu", "cuda", "cuda:1")] == [6, 4, 4]
    assert options("--device", "cuda", "--jobs", "3").jobs == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--losses", "l3"], "names 'l3', but the rows are l2, fixed_2"),
        (["--losses", "exact"], "'exact', which is not in table 3"),
        (["--jobs", "0"], "have to be positive"),
        (["--rate", "-1"], "have to be positive"),
        (["--patches", "0"], "--patches is 0"),
        (["--settings", "[1]"], "JSON object"),
        (["--settings", '{"beta": 1}'], "'beta', which differs from cell to cell; use --betas"),
        (["--table", "7"], "invalid choice"),
        (["--figure", "1"], "invalid choice"),
        (["--table", "3", "5"], "is of hcp and cifar10; name one of them as --bundle"),
        (["--betas", "0,1"], "--betas has to be positive"),
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


def small(folder, *arguments, settings=SMALL):
    """The command's arguments."""
    made = ["--cache_dir", str(folder / "cache"), "--jobs", "2", "--output", str(folder / "out"), "--device", "cpu"]
    made += ["--weights_dir", str(folder / "weights"), "--importance_samples", "2", "--settings", json.dumps(settings)]
    return [*made, *arguments]


def reproduce(folder, *arguments, settings=SMALL):
    """The command in a process of its own; what it said."""
    line = small(folder, *arguments, settings=settings)
    done = command(ROOT / "scripts/reproduce.py", *line, extras=("study",), timeout=900)
    logs = [path.read_text() for path in (folder / "out").rglob("*.log")]
    return done, done.stdout + done.stderr + "".join(logs)


@pytest.mark.slow
def test_two_losses_twice(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    make_dataset(tmp_path / "data")
    arguments = ["--table", "3", "--figure", "2", "4", "6", "--bundle", "hcp", "--rate-distortion", "--patches", "24"]
    arguments += ["--losses", "l2,wiener", "--betas", "1", "--dataset_dir", str(tmp_path / "data")]
    done, said = reproduce(tmp_path, *arguments)
    assert done.returncode == 0, said
    assert "cell 2/2" in said
    assert "FAILED" not in said
    stems = ("table3", "table3_beta1", "table3_beta1_against_l2", "table3_equal_rate")
    names = {f"{stem}.{kind}" for stem in stems for kind in ("md", "csv", "tex")}
    drawn = ("rate_distortion_table3", "figure2_beta1", "figure6_beta1", "figure6_beta1_radial")
    names |= {f"{stem}.{kind}" for stem in drawn for kind in ("png", "pdf")} | {"figure4_beta1.png"}
    assert names <= {path.name for path in (tmp_path / "out").iterdir()}
    cells = list(csv.DictReader((tmp_path / "out/cells.csv").open()))
    cells = [cell for cell in cells if cell["row"] != "linear"]
    assert len(cells) == 4
    assert all(float(cell["psnr"]) > 5 and float(cell["psnr_z"]) > 5 and float(cell["kl"]) > 0 for cell in cells)
    assert all("lpips_alex.pt" in cell["lpips"] for cell in cells)
    *rows, linear = csv.DictReader((tmp_path / "out/table3_beta1.csv").open())
    assert linear["row"] == "linear L2 model (exact)"
    assert [row["row"] for row in rows] == ["L2", "L2, HCP", "Wiener (the paper's)", "Ours, HCP"]
    assert [float(row["psnr"]) for row in rows[1::2]] == [18.09, 19.54]
    assert all(float(row["psnr"]) > 5 and float(row["nll_table6"]) for row in rows[::2])
    assert "lpips_alex.pt" in (tmp_path / "out/table3.md").read_text()

    assert main(small(tmp_path, *arguments)) == 0
    said = capsys.readouterr().out
    assert "2 cells: 2 finished before, 0 to train" in said
    assert "Nothing was left to train or to measure" in said
    assert "Measuring" not in said


@pytest.mark.slow
def test_a_figure_of_photographs(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    make_photographs(tmp_path / "data")
    photographs = {name: value for name, value in SMALL.items() if name not in COUNTS}
    arguments = ["--figure", "5", "--losses", "wiener", "--patches", "24", "--dataset_dir", str(tmp_path / "data")]
    done, said = reproduce(tmp_path, *arguments, settings=photographs)
    assert done.returncode == 0, said
    assert (tmp_path / "out/figure5_beta1.png").is_file()
    assert not list((tmp_path / "out").glob("table*"))
    cells = [c for c in csv.DictReader((tmp_path / "out/cells.csv").open()) if c["split"] == "test"]
    (cell,) = [c for c in cells if c["row"] != "linear"]
    assert float(cell["psnr"]) > 5


@pytest.mark.slow
def test_the_papers_budget_says_what_it_takes_and_waits(tmp_path, capsys):
    pytest.importorskip("pandas")
    make_dataset(tmp_path / "data")
    arguments = ["--table", "3", "--losses", "l2,wiener", "--budget", "paper", "--dataset_dir", str(tmp_path / "data")]
    settings = {name: value for name, value in SMALL.items() if name != "patch_size"}
    assert main(small(tmp_path, *arguments, settings=settings)) == 1
    said, error = capsys.readouterr()
    # 3 subjects for training with 4 patches each, in batches of 8, for 400 epochs
    assert "L2: 6 cells of 800 iterations" in said
    assert "12 cells are left to train" in said
    assert "give --yes" in error
    assert not list((tmp_path / "out/cells").iterdir())
