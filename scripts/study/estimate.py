"""How long trainings will take, from a few iterations of each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

WARM_UP = 1
MEASURED = 3
"""Iterations that are timed, after one that fills caches."""


class Pace(NamedTuple):
    """How fast a row trains, and how far.

    Attributes:
        iterations: of one training.
        seconds: of one iteration.
    """

    iterations: int
    seconds: float


def measure_pace(config: Mapping[str, Any], datalist: Path | None, device: str, threads: int | None) -> Pace:
    """Train a row for a few iterations on its images, past its warm-up, and keep nothing.

    Args:
        config: of the row, merged, with its number of epochs.
        datalist: of the study; None for the config's.
        device: to train on.
        threads: of the CPU, as many as a cell will have; None to leave them.

    Raises:
        BlurVAEError: as the training itself.
    """
    parser = ConfigParser(dict(config))
    epochs = parser["max_epochs"]
    parser["datalist"], parser["device"], parser["num_workers"] = datalist and str(datalist), device, 0
    parser["max_epochs"] = 1
    for name in [name for name in config if name.endswith("warmup_epochs")]:
        parser[name] = 0
    parser["train#trainer#train_handlers"] = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        trainer = parser.get_parsed_content("train#trainer")
        batches = trainer.state.epoch_length
        marks: list[float] = []

        def mark(engine: Engine) -> None:
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            marks.append(time.perf_counter())
            if len(marks) > WARM_UP + MEASURED:
                engine.terminate()

        trainer.add_event_handler(Events.ITERATION_COMPLETED, mark)
        trainer.state.epoch_length = max(batches, WARM_UP + MEASURED + 1)
        trainer.run()
    finally:
        torch.set_num_threads(before)
    timed = marks[WARM_UP:]
    return Pace(batches * epochs, (timed[-1] - timed[0]) / (len(timed) - 1))
