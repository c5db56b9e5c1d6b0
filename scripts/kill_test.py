"""Kill a real training with SIGKILL at random moments, resume it, and compare its end with an undisturbed one.

Half of the moments are drawn inside the writing of a checkpoint, a model or a store entry: the child process pauses
there and says so, which takes the place of waiting for a rare coincidence. After every kill each file that the run
announced has to load, the checkpoint may not be older than the last one announced, and after the last resume the
weights, optimisers, best metric and TensorBoard scalars have to be those of the undisturbed run, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parents[1]
PAUSE = "BLURVAE_TEST_PAUSE"


def child(arguments: list[str]) -> None:
    """Run the bundle command with a pause at the chosen synchronisation of a file."""
    from monai.bundle import run

    countdown = int(os.environ.get(PAUSE, "0"))
    real_fsync = os.fsync

    def pausing_fsync(handle: int) -> None:
        nonlocal countdown
        countdown -= 1
        if countdown == 0:
            print("PAUSED", flush=True)
            time.sleep(60)
        real_fsync(handle)

    with patch("os.fsync", pausing_fsync):
        run("training", config_file=str(ROOT / "bundles/hcp/train.json"), **json.loads(arguments[0]))


def start(settings: dict[str, Any], log: Path, pause: int = 0) -> subprocess.Popen[bytes]:
    """Start a training in a new process that writes to a log."""
    env = {**os.environ, PAUSE: str(pause), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, __file__, "--child", json.dumps(settings)]
    with log.open("wb") as output:
        return subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)


def finish(settings: dict[str, Any], log: Path) -> None:
    """Train to the end."""
    process = start(settings, log)
    if process.wait() != 0:
        raise SystemExit(f"FAILED: the training ended with {process.returncode}:\n{log.read_text()[-2000:]}")


def kill_once(settings: dict[str, Any], log: Path, generator: random.Random, longest: float) -> tuple[str, int, bool]:
    """Run until a random moment, then kill; returns the moment, the last iteration announced, and if the run ended."""
    inside = generator.random() < 0.5
    process = start(settings, log, pause=generator.randint(1, 40) if inside else 0)
    deadline = time.monotonic() + (60 if inside else generator.uniform(0, longest))
    moment = "at a random time"
    while process.poll() is None and time.monotonic() < deadline:
        if "PAUSED" in log.read_text():
            moment = "while writing a file"
            break
        time.sleep(0.01)
    ended = process.poll() is not None
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    text = log.read_text()
    announced = [int(n) for n in re.findall(r"Checkpoint after iteration (\d+)", text)]
    if ended and process.returncode != 0:
        raise SystemExit(f"FAILED: the training ended with {process.returncode}:\n{text[-2000:]}")
    return ("after the end" if ended else moment), max(announced, default=0), ended


def check_files(folder: Path, announced: int) -> None:
    """Whatever is there has to load, and the checkpoint may not be older than announced."""
    checkpoint = folder / "checkpoint.pt"
    if announced and not checkpoint.is_file():
        raise SystemExit(f"FAILED: iteration {announced} was announced, but {checkpoint} is not there")
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)["trainer"]["iteration"]
        if saved < announced:
            raise SystemExit(f"FAILED: {checkpoint} holds iteration {saved}, but {announced} was announced")
    if (folder / "model.pt").is_file():
        torch.load(folder / "model.pt", weights_only=True)


def result(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, list[tuple[int, float]]]]:
    """Checkpoint, model and TensorBoard scalars of a run."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    return checkpoint, torch.load(folder / "model.pt", weights_only=True), scalars


def equal(a: Any, b: Any) -> bool:
    """Equality to the bit of nested dictionaries and lists of tensors and numbers."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_dir", required=True, help="HCP layout, or see --image_pattern")
    parser.add_argument("--image_pattern", default="*/T1w/T1w_acpc_dc_restore_brain.nii.gz")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=25.0, help="seconds until a kill at a random time")
    parser.add_argument("--settings", default="{}", help="more settings, as JSON")
    options = parser.parse_args()
    generator = random.Random(options.seed)

    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        settings = {
            "dataset_dir": str(Path(options.dataset_dir).resolve()),
            "image_pattern": options.image_pattern,
            "device": "cpu",
            "patch_size": 32,
            "channels": [4, 8],
            "latent_size": 4,
            "kernel_size": 5,
            "batch_size": 4,
            "num_workers": 0,
            "max_epochs": 30,
            "warmup_epochs": 5,
            "val_interval": 2,
            "checkpoint_minutes": 0.01,
            **json.loads(options.settings),
        }
        calm = {**settings, "run_dir": str(work / "calm"), "cache_dir": str(work / "calm_cache")}
        log = work / "log"
        finish(calm, log)

        # Each life is a training from its start; when one ends in spite of the kills, the next begins.
        moments: dict[str, int] = {}
        kills, life = 0, 0
        while kills < options.kills:
            life += 1
            folder = work / f"life{life}"
            stormy = {**settings, "run_dir": str(folder), "cache_dir": str(work / f"cache{life}")}
            last, ended = 0, False
            while not ended:
                resume = (folder / "datalist.json").is_file()
                if kills < options.kills:
                    moment, announced, ended = kill_once({**stormy, "resume": resume}, log, generator, options.longest)
                    if not ended:
                        kills += 1
                        moments[moment] = moments.get(moment, 0) + 1
                else:
                    finish({**stormy, "resume": resume}, log)
                    announced, ended = 0, True
                last = max(last, announced)
                check_files(folder, last)
            if not equal(result(work / "calm"), result(folder)):
                raise SystemExit(f"FAILED: run {life} ends elsewhere than the undisturbed one")
            leftovers = list(folder.rglob("*.part*"))
            if leftovers:
                raise SystemExit(f"FAILED: {leftovers[0]} was left behind")
        print(f"{kills} kills ({', '.join(f'{n} {m}' for m, n in sorted(moments.items()))}) in {life} trainings: every")
        print("file that was announced loaded, and every training ended at the undisturbed one's bits")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        sys.exit(main())
