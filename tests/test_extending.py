"""docs/extending.md: its files are written as they stand there, and train."""

import re

import pytest

from tests.commands import RUN, command, options
from tests.volumes import ROOT, TINY, TRAIN

TEXT = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
BLOCKS = [(kind, code) for kind, code in re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)]
YAML = [code for kind, code in BLOCKS if kind == "yaml"]
PYTHON = {re.search(r"class (\w+)", code).group(1): code for kind, code in BLOCKS if kind == "python"}


@pytest.fixture
def folder(tmp_path):
    for name, code in (("my_loss", "CharbonnierLoss"), ("my_data", "Discs"), ("my_handler", "BestLossHandler")):
        (tmp_path / f"{name}.py").write_text(PYTHON[code])
    mse, data, handler, schedule = YAML
    files = {"mse": mse, "my_data": data, "my_handler": handler, "schedule": schedule}
    files["my_loss"] = mse.replace("torch.nn.MSELoss", "my_loss.CharbonnierLoss")
    for name, code in files.items():
        (tmp_path / f"{name}.yaml").write_text(code)
    return tmp_path


def train(folder, *overlays, **settings):
    given = {**TINY, "run_dir": "run", "cache_dir": "cache", **settings}
    files = str([TRAIN, *(f"{name}.yaml" for name in overlays)])
    return command(*RUN, "training", "--config_file", files, *options(**given), cwd=folder, path=["."])


def without(name):
    return {key: value for key, value in TINY.items() if key != name}


@pytest.mark.slow
def test_all_on_top_of_a_bundle(folder):
    done = train(folder, "my_loss", "my_data", "my_handler", max_epochs=3)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "epoch 1: lowest mean loss so far" in done.stdout
    assert (folder / "run" / "test" / "metrics.csv").read_text().count("\n") == 17  # 16 discs under a header


@pytest.mark.slow
def test_the_schedule_is_kept_by_the_checkpoint_and_refused_without(folder):
    done = train(folder, "mse", "my_data", "schedule")
    assert done.returncode == 0, done.stderr[-3000:]
    text = (folder / "schedule.yaml").read_text()
    (folder / "schedule.yaml").write_text(text.replace('+checkpoint: {lr_scheduler: "@lr_scheduler"}', ""))
    done = train(folder, "mse", "my_data", "schedule", run_dir="other")
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "lr_scheduler" in error


@pytest.mark.slow
def test_a_handler_is_left_out(folder):
    done = train(folder, "mse", "my_data", "my_handler", **{"train#handlers#9#_disabled_": "true"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lowest mean loss" not in done.stdout


@pytest.mark.slow
def test_what_does_not_meet_the_interface_is_one_sentence(folder):
    (folder / "my_loss.py").write_text(PYTHON["CharbonnierLoss"].replace(".sqrt()", ".sqrt().mean()"))
    (folder / "my_data.py").write_text(PYTHON["Discs"].replace('"image"', '"picture"'))
    for overlays, word in ((("my_loss", "my_data"), "image"), (("my_loss",), "batch")):
        done = train(folder, *overlays, run_dir=word, dataset_dir=str(folder))
        assert done.returncode == 1
        assert done.stderr.strip().splitlines()[-1].startswith("error: "), done.stderr[-3000:]
        assert "Traceback" not in done.stderr
