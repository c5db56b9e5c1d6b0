"""A training that is interrupted ends where an undisturbed one does, bit for bit."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_blurvae.errors import RunFolderError
from monai_blurvae.handlers.checkpoint import load_safely, save_whole
from tests.commands import command
from tests.volumes import ROOT, TINY, TRAIN, cause, make_dataset, run

# Three iterations in an epoch, the last of them smaller; a learning rate that does not depend on the number of epochs.
SHORT = TINY | {"batch_size": 5, "max_epochs": 4, "warmup_epochs": 2, "lr_warmup": 0.0, "lr_final": 1.0}


@pytest.fixture
def settings(hcp_dir, cache_dir):
    return {"dataset_dir": str(hcp_dir), "cache_dir": cache_dir, **SHORT}


def interrupt(settings, iteration, number=signal.SIGUSR1, overlays=()):
    """Train in this process and send a signal during one iteration; returns the exit code."""
    workflow = ConfigWorkflow(config_file=[TRAIN, *overlays], run_id="training", logging_file=False, **settings)
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(Events.ITERATION_STARTED(once=iteration), lambda: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as stop:
        workflow.run()
    return stop.value.code


def scalars(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_equal(a, b, where=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f"{where}/{i}")
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, f"{where}: {a} and {b}"


def assert_same_run(a, b):
    for name in ("checkpoint.pt", "model.pt"):
        assert_equal(load_safely(a / name), load_safely(b / name))
    assert scalars(a) == scalars(b)
    assert json.loads((a / "summary.json").read_text())["test"] == json.loads((b / "summary.json").read_text())["test"]
    assert (a / "test" / "metrics.csv").read_text() == (b / "test" / "metrics.csv").read_text()


OVERLAYS = {
    "robust": [str(ROOT / "configs/losses/robust.yaml")],
    "fitted": [str(ROOT / "configs/ablations/wiener_spectrum.yaml"), str(ROOT / "configs/ablations/adversarial.yaml")],
}


def train(name, **settings):
    """The bundle with what has a state beside the two networks: learned, fitted likelihoods, an adversary."""
    run("training", [TRAIN, *OVERLAYS.get(name, [])], **settings)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("plain", {"num_workers": 0}, {"num_workers": 0}),
        ("plain", {"num_workers": 2}, {"num_workers": 2}),
        ("plain", {"num_workers": 0}, {"num_workers": 2}),
        ("plain", {"precision": "bfloat16"}, {"precision": "bfloat16"}),
        ("plain", {"precision": "float16"}, {"precision": "float16"}),
        ("fitted", {}, {}),
        ("robust", {}, {}),
    ],
    ids=["0 workers", "2 workers", "0 then 2 workers", "bfloat16", "float16", "fitted and adversary", "learned shape"],
)
@pytest.mark.parametrize("where", [5, 6, 7], ids=["in an epoch", "at its end", "at its start"])
def test_resume_to_the_bit(settings, tmp_path, name, before, after, where):
    """Straight, 2 + 2 epochs, and cut by a signal in iteration 5, 6 or 7 of 12; the warm-up ends after 6."""
    train(name, **settings | before, run_dir=str(tmp_path / "straight"))
    halves = settings | {"run_dir": str(tmp_path / "halves")}
    train(name, **halves | before | {"max_epochs": 2})
    train(name, **halves | after, resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "halves")
    cut = settings | {"run_dir": str(tmp_path / "cut")}
    assert interrupt(cut | before, where, overlays=OVERLAYS.get(name, [])) == 128 + signal.SIGUSR1
    assert load_safely(tmp_path / "cut" / "checkpoint.pt")["trainer"]["iteration"] == where
    train(name, **cut | after, resume="true")
    assert_same_run(tmp_path / "straight", tmp_path / "cut")


def test_resume_to_the_bit_along_the_cosine(settings, tmp_path):
    settings |= {"lr_warmup": 0.25, "lr_final": 0.0}
    train("plain", **settings, run_dir=str(tmp_path / "straight"))
    cut = settings | {"run_dir": str(tmp_path / "cut")}
    interrupt(cut, 5)
    train("plain", **cut, resume="true")
    assert_same_run(tmp_path / "straight", tmp_path / "cut")


def test_the_same_seed_gives_the_same_run_and_another_another(settings, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run("training", TRAIN, **settings, run_dir=str(tmp_path / name), seed=seed)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert scalars(tmp_path / "a") != scalars(tmp_path / "c")


@pytest.mark.parametrize(
    ("change", "value", "named"),
    [
        ("lr", 0.01, "lr is 0.01"),
        ("batch_size", 4, "batch_size is 4"),
        ("beta", 2.0, "beta is 2.0"),
        ("seed", 1, "seed is 1"),
        ("precision", "bfloat16", 'precision is "bfloat16"'),
        ("train#objective#beta", 2.0, "train#objective#beta is 2.0, but the run in"),
        ("train#term#weighting", "bounded_inverse", 'train#term#weighting is "bounded_inverse"'),
        ("train#trainer#train_kernel", False, "train#trainer#train_kernel is false"),
        ("optimizer#betas", [0.5, 0.9], "optimizer#betas#0 is 0.5"),
        ("train#handlers#0#interval", 3, "train#handlers#0#interval is 3"),
    ],
)
def test_whatever_changes_the_result_is_refused_by_name(settings, tmp_path, change, value, named):
    common = settings | {"run_dir": str(tmp_path / "run"), "max_epochs": 1}
    run("training", TRAIN, **common)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    with pytest.raises(RuntimeError) as error:
        run("training", TRAIN, **common | {change: value, "max_epochs": 2}, resume=True)
    assert named in str(cause(error.value))
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


def test_what_changes_no_result_may_change(settings, tmp_path):
    common = settings | {"run_dir": str(tmp_path / "run"), "max_epochs": 1}
    run("training", TRAIN, **common)
    free = {"num_workers": 1, "train#handlers#0#minutes": 7, "train#trainer#max_epochs": 2, "quarter_turns": 0}
    run("training", TRAIN, **common | free, resume=True)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 2


STEP = """
lr_warmup: 0.0
lr_final: 1.0
lr_scheduler: {_target_: torch.optim.lr_scheduler.StepLR, optimizer: "@optimizer", step_size: 1, gamma: 0.5}
+train#handlers:
  - {_target_: LrScheduleHandler, lr_scheduler: "@lr_scheduler"}
+checkpoint: {lr_scheduler: "@lr_scheduler"}
"""


def test_the_overlays_of_configs_training_resume_to_the_bit(settings, tmp_path):
    """All that go together; also cut within an epoch, where the average has to be that of the same iteration."""
    names = ("ema", "kl_annealing", "step_schedule", "amp", "accumulation")
    files = [TRAIN, *(str(ROOT / f"configs/training/{name}.yaml") for name in names)]
    settings |= {"ema_decay": 0.6, "annealing_epochs": 3, "lr_steps": 1}
    run("training", files, **settings, run_dir=str(tmp_path / "straight"))
    run("training", files, **settings | {"max_epochs": 2}, run_dir=str(tmp_path / "halves"))
    run("training", files, **settings, run_dir=str(tmp_path / "halves"), resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "halves")
    cut = settings | {"run_dir": str(tmp_path / "cut")}
    assert interrupt(cut, 5, overlays=files[1:]) == 128 + signal.SIGUSR1
    run("training", files, **cut, resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "cut")
    state = load_safely(tmp_path / "cut" / "checkpoint.pt")["objects"]
    for name in ("", "kernel_"):
        assert state[f"{name}scheduler"]["last_epoch"] == 4
        assert state[f"{name}optimizer"]["param_groups"][0]["lr"] == pytest.approx(SHORT["lr"] / 10**4)
    best = load_safely(tmp_path / "cut" / "model.pt")
    assert best.keys() == state["ema"].keys()
    assert not torch.equal(*(max(state[name].values(), key=torch.numel) for name in ("ema", "network")))


def test_the_schedule_of_both_and_early_stopping(settings, tmp_path):
    """With a learning rate of nearly nothing, validations soon get no better."""
    names = ("kernel_schedule", "early_stopping")
    files = [TRAIN, *(str(ROOT / f"configs/training/{name}.yaml") for name in names)]
    settings |= {"lr": 1e-12, "lr_final": 0.5, "patience": 2, "val_interval": 1, "max_epochs": 9}
    run("training", files, **settings, run_dir=str(tmp_path / "run"))
    checkpoint = load_safely(tmp_path / "run" / "checkpoint.pt")
    epochs = json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"]
    assert epochs == checkpoint["validator"]["best_metric_epoch"] + 2 < 9
    state = checkpoint["objects"]
    rates = [state[name]["param_groups"][0]["lr"] for name in ("optimizer", "kernel_optimizer")]
    assert rates[0] == rates[1] < 1e-12


def test_two_schedules_are_refused(settings, tmp_path):
    overlay = tmp_path / "step.yaml"
    overlay.write_text(STEP.replace("lr_final: 1.0", "lr_final: 0.5"))
    with pytest.raises(RuntimeError) as error:
        run("training", [TRAIN, str(overlay)], **settings | {"lr_final": 0.5}, run_dir=str(tmp_path / "run"))
    assert "set lr_warmup to 0 and lr_final to 1 for a schedule of your own" in str(cause(error.value))


def test_a_schedule_that_no_checkpoint_would_hold_is_refused(settings, tmp_path):
    overlay = tmp_path / "step.yaml"
    overlay.write_text("".join(STEP.splitlines(keepends=True)[:-1]))
    with pytest.raises(RuntimeError) as error:
        run("training", [TRAIN, str(overlay)], **settings, run_dir=str(tmp_path / "run"))
    assert "add it to the section checkpoint" in str(cause(error.value))


def test_other_data_is_refused(settings, tmp_path):
    common = settings | {"run_dir": str(tmp_path / "run"), "max_epochs": 1}
    run("training", TRAIN, **common)
    other = str(make_dataset(tmp_path / "other", voxel_size=(1.0, 1.0, 2.0)))
    with pytest.raises(RuntimeError) as error:
        run("training", TRAIN, **common | {"dataset_dir": other, "max_epochs": 2}, resume=True)
    assert 'data is "data with checksum' in str(cause(error.value))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_end_the_run_with_their_code_and_are_given_back(settings, tmp_path, number):
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    assert interrupt(settings | {"run_dir": str(tmp_path / "run")}, 2, number) == 128 + number
    assert load_safely(tmp_path / "run" / "checkpoint.pt")["trainer"]["iteration"] == 2
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_second_sigint_stops_at_once(settings, tmp_path):
    workflow = ConfigWorkflow(
        config_file=TRAIN, run_id="training", logging_file=False, **settings, run_dir=str(tmp_path / "run")
    )
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")

    @trainer.on(Events.ITERATION_STARTED(once=2))
    def twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        workflow.run()
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_checkpoints_between_epochs_by_the_clock(settings, tmp_path):
    common = settings | {"run_dir": str(tmp_path / "run"), "val_interval": 4}
    workflow = ConfigWorkflow(
        config_file=TRAIN, run_id="training", logging_file=False, **common | {"checkpoint_minutes": 1e-6}
    )
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    seen = []

    @trainer.on(Events.ITERATION_STARTED)
    def look():
        path = tmp_path / "run" / "checkpoint.pt"
        seen.append(load_safely(path)["trainer"]["iteration"] if path.is_file() else 0)

    workflow.run()
    assert seen == list(range(12))


def test_two_runs_into_one_folder(settings, tmp_path):
    common = settings | {"run_dir": str(tmp_path / "run"), "max_epochs": 1}
    run("training", TRAIN, **common)
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(RuntimeError) as error:
        run("training", TRAIN, **common | {"max_epochs": 2}, resume=True)
    assert "another process is writing to" in str(cause(error.value))
    run("training", TRAIN, **common | {"max_epochs": 2}, resume=True)


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from monai_blurvae.handlers.checkpoint import save_whole
path = Path(sys.argv[1])
save_whole({"weights": torch.zeros(10)}, path)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
save_whole({"weights": torch.zeros(100_000)}, path)
"""


def test_a_write_that_fails_leaves_the_previous_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    done = command("-c", LIMITED, path)
    assert done.returncode != 0
    assert f"{path} cannot be written" in done.stderr
    assert torch.equal(load_safely(path)["weights"], torch.zeros(10))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_folder_that_vanished_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"nowhere/checkpoint\.pt cannot be written"):
        save_whole({}, tmp_path / "nowhere" / "checkpoint.pt")


def test_a_broken_checkpoint_is_named_and_kept(settings, tmp_path):
    common = settings | {"run_dir": str(tmp_path / "run"), "max_epochs": 1}
    run("training", TRAIN, **common)
    path = tmp_path / "run" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-500])
    broken = path.read_bytes()
    with pytest.raises(RuntimeError) as error:
        run("training", TRAIN, **common | {"max_epochs": 2}, resume=True)
    assert f"the checkpoint {path} cannot be read" in str(cause(error.value))
    assert path.read_bytes() == broken


def test_nothing_grows(settings, tmp_path):
    """Threads and open files are the same after one epoch and after many; the soak script watches memory."""
    workflow = ConfigWorkflow(
        config_file=TRAIN,
        run_id="training",
        logging_file=False,
        **settings | {"max_epochs": 30, "num_workers": 1},
        run_dir=str(tmp_path / "run"),
    )
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    counts = []

    @trainer.on(Events.EPOCH_STARTED)
    def count():
        counts.append([len(list(Path("/proc/self", name).iterdir())) for name in ("fd", "task")])

    workflow.run()
    assert counts[5] == counts[-1]
