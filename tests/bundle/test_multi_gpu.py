"""Two processes that train one model, by the bundles' multi_gpu_train.json."""

import csv
import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_blurvae.errors import RunFolderError
from monai_blurvae.handlers.checkpoint import load_safely
from monai_blurvae.runs import TrainingRun
from tests.parallel import torchrun
from tests.volumes import EVALUATE, ROOT, TINY, TRAIN, cause, run

MULTI_GPU = str(ROOT / "bundles/hcp/multi_gpu_train.json")
SETTINGS = {name: value for name, value in TINY.items() if name != "device"} | {"max_epochs": 3, "val_interval": 2}
# Adam makes a step of full length of a gradient that is rounding alone, unless ε is above it.
SMOOTH = {"optimizer#eps": 1e-3, "kernel_optimizer#eps": 1e-3}
FROZEN = {"_target_": "tests.parallel.FrozenNorms", "network": "@network_def"}
KILLED = {"_target_": "tests.parallel.KilledOnce", "rank": 1, "iteration": 5}


def overlay(folder, *handlers, **settings):
    path = folder / "overlay.json"
    path.write_text(json.dumps({**SETTINGS, **SMOOTH, **settings, "+train#handlers": list(handlers)}))
    return str(path)


@pytest.fixture(scope="module")
def trained(hcp_dir, cache_dir, tmp_path_factory):
    """A function that trains in two processes, each of which takes four of a batch's eight images: the run's folder."""

    def train(*handlers, **launch):
        folder = tmp_path_factory.mktemp("processes")
        files = str([TRAIN, overlay(folder, *handlers, batch_size=4), MULTI_GPU])
        arguments = ("training", "--config_file", files, "--output_dir", folder / "out")
        done = torchrun(*arguments, **launch, HCP_DIR=hcp_dir, BLURVAE_CACHE_DIR=cache_dir)
        assert done.returncode == 0, done.stderr[-4000:]
        assert [path.name for path in (folder / "out").iterdir()] == ["0001"]
        return folder / "out" / "0001", done.stdout

    return train


@pytest.fixture(scope="module")
def together(trained):
    return trained(FROZEN)


def scalars(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("validation/")]
    return {f"{tag} {e.step}": e.value for tag in tags for e in events.Scalars(tag)}


@pytest.mark.slow
def test_two_processes_are_one_with_frozen_batch_norms(together, hcp_dir, cache_dir, tmp_path):
    """Weights, moments, validation, test; float32, whose sums the two round otherwise."""
    folder, log = together
    assert "A batch has 2 × 4 = 8 images." in log
    assert "the batch norms of each process see its own batch alone" in log
    config = [TRAIN, overlay(tmp_path, FROZEN, batch_size=8)]
    data = {"dataset_dir": str(hcp_dir), "cache_dir": cache_dir, "device": "cpu"}
    run("training", config, **data, run_dir=str(tmp_path / "alone"))
    objects, alone = (load_safely(path / "checkpoint.pt")["objects"] for path in (folder, tmp_path / "alone"))
    for part in ("network", "optimizer", "kernel_optimizer"):
        torch.testing.assert_close(objects[part], alone[part], atol=1e-5, rtol=1e-5)
    assert scalars(folder) == pytest.approx(scalars(tmp_path / "alone"), rel=1e-5)
    tests = [json.loads((path / "summary.json").read_text())["test"] for path in (folder, tmp_path / "alone")]
    assert tests[0] == pytest.approx(tests[1], rel=1e-5)


def table(folder):
    """Of each image the numbers of metrics.csv, which has six digits."""
    with (folder / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_one_process_evaluates_what_two_have_trained(together, cache_dir):
    folder, _ = together
    run("evaluating", EVALUATE, cache_dir=cache_dir, device="cpu", run_dir=str(folder))
    found, expected = table(folder / "evaluation" / "0001"), table(folder / "test")
    assert len(found) == len(expected) == 2
    for row, test in zip(found, expected, strict=True):
        assert row == pytest.approx(test, rel=1e-5)


@pytest.mark.slow
def test_a_process_that_is_killed_costs_no_bit(together, trained):
    """The other one ends too, torchrun starts both again, and they go on in their folder by themselves."""
    folder, _ = together
    killed, log = trained(FROZEN, KILLED, restarts=1)
    assert f"The processes were started again; they go on in {killed}." in log
    assert "Resuming" in log
    expected = load_safely(folder / "model.pt")
    assert all(torch.equal(value, expected[name]) for name, value in load_safely(killed / "model.pt").items())
    expected, found = (load_safely(path / "checkpoint.pt")["objects"]["kernel_optimizer"] for path in (folder, killed))
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_copies_of_a_training_are_refused(hcp_dir, cache_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError) as error:
        run("training", TRAIN, dataset_dir=str(hcp_dir), cache_dir=cache_dir, output_dir=str(tmp_path / "out"))
    overlay = ROOT / "bundles/hcp/multi_gpu_train.json"
    assert str(cause(error.value)) == (
        f"WORLD_SIZE is 2, but this config is for one process; add '{overlay}' behind the others in --config_file to "
        "train in 2, or start it without torchrun."
    )


def test_the_overlay_is_refused_without_torchrun(hcp_dir, tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(RuntimeError) as error:
        run("training", [TRAIN, MULTI_GPU], dataset_dir=str(hcp_dir), output_dir=str(tmp_path / "out"))
    assert "start it by torchrun --standalone" in str(cause(error.value))


@pytest.fixture
def launched(monkeypatch):
    """A function that sets what torchrun tells a process of its launch."""

    def launch(name, restarts=0):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))

    return launch


@pytest.mark.parametrize("name", ["a", "none"])
def test_processes_that_are_started_again_find_their_folder(tmp_path, launched, name):
    for launch in (name, "another"):
        launched(launch)
        first = TrainingRun(tmp_path)
        first.path.joinpath("config.json").touch()
        first.release()
    launched(name, restarts=1)
    assert TrainingRun(tmp_path).path == tmp_path / "0001"
    launched("a third", restarts=1)  # whose processes died before they had a folder
    assert TrainingRun(tmp_path).path == tmp_path / "0003"
    launched(name)
    assert TrainingRun(tmp_path).path == tmp_path / "0004"


def test_processes_that_are_started_again_leave_the_run_of_another_launch_alone(tmp_path, launched):
    launched("a")
    TrainingRun("", run_dir=tmp_path / "run").path.joinpath("config.json").touch()
    launched("another", restarts=1)
    with pytest.raises(RunFolderError, match="holds a run already"):
        TrainingRun("", run_dir=tmp_path / "run")
    launched("a", restarts=1)
    assert TrainingRun("", run_dir=tmp_path / "run").path == tmp_path / "run"
