"""Checkpoints to restart from, and the best model, each written whole or not at all."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events
from torch import nn

from monai_blurvae.errors import RunFolderError, SettingsError
from monai_blurvae.files import replacing

logger = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 1


class Stateful(Protocol):
    """What a checkpoint can hold: networks, optimisers, schedulers, some handlers."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take the state back."""


def save_whole(content: Any, path: str | Path) -> None:
    """``torch.save`` to a temporary name, then rename.

    Raises:
        RunFolderError: if the file cannot be written; the one that was there before is intact.
    """
    with replacing(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # torch's own words for a full disk are an assertion on a file position
            full = shutil.disk_usage(temporary.parent).free < 1 << 20
            raise OSError("no space left on the disk" if full else str(error).splitlines()[0]) from error


def load_safely(path: str | Path, device: str | torch.device = "cpu") -> Any:
    """Load a checkpoint with ``weights_only``, which runs no code from it.

    Raises:
        RunFolderError: if it is missing or broken.
    """
    path = Path(path)
    if not path.is_file():
        raise RunFolderError(f"the checkpoint {path} is not there; check the path, or train first.")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file can raise whatever the unpickler meets
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RunFolderError(f"the checkpoint {path} cannot be read ({reason[0][:200]}); use another one.") from error


class RestartCheckpointHandler:
    """Write everything that a training needs to go on, and take it back at the start.

    Attach it to the trainer before the other handlers. It restores at STARTED, before they look at the state, and
    writes after all of them: at the end of an epoch, or between two iterations. What the log announces is on disk.

    Args:
        path: gives the checkpoint's file when the training starts.
        objects: what is saved under its name, beside the trainer's counters and the validator's best metric;
            None for what a config leaves out.
        validator: whose best metric is saved.
        interval: epochs between two checkpoints; the last epoch always has one.
        minutes: a checkpoint is also written when the last one is older than this; None for never.
        settings: gives the settings that the result depends on; resuming with others is refused.
    """

    def __init__(
        self,
        path: Callable[[], Path],
        objects: Mapping[str, Stateful | None],
        validator: Engine | None = None,
        interval: int = 1,
        minutes: float | None = None,
        settings: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.path = path
        self.objects = {name: item for name, item in objects.items() if item is not None}
        self.validator = validator
        self.interval = interval
        self.minutes = minutes
        self.settings = settings
        self._last_save = time.monotonic()

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        path = self.path()
        if path.is_file() and engine.state.iteration == 0:
            self.load(engine, path)
        self._last_save = time.monotonic()
        if not engine.has_event_handler(self._epoch_completed, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)

    def _epoch_completed(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        if epoch % self.interval == 0 or epoch == engine.state.max_epochs or self._is_old():
            self.save(engine)

    def _iteration_completed(self, engine: Engine) -> None:
        # After the last iteration the epoch's validation and means are still to come: its end is the place to save.
        if self._is_old() and not at_end_of_epoch(engine):
            self.save(engine)

    def _is_old(self) -> bool:
        return self.minutes is not None and time.monotonic() - self._last_save > 60 * self.minutes

    def save(self, engine: Engine) -> None:
        """Write a checkpoint of the trainer's present state, at the end of an epoch or between two iterations."""
        state, path = engine.state, self.path()
        content: dict[str, Any] = {
            "format": CHECKPOINT_FORMAT,
            "trainer": {"iteration": state.iteration, "epoch_length": state.epoch_length},
            "settings": dict(self.settings()),
            "objects": {name: item.state_dict() for name, item in self._all_objects(engine).items()},
        }
        if self.validator is not None:
            best = self.validator.state
            content["validator"] = {"best_metric": float(best.best_metric), "best_metric_epoch": best.best_metric_epoch}
        save_whole(content, path)
        self._last_save = time.monotonic()
        logger.info(f"Checkpoint after iteration {state.iteration} of {state.max_epochs * state.epoch_length}.")

    def load(self, engine: Engine, path: Path) -> None:
        """Take a checkpoint back.

        Raises:
            RunFolderError: if it is broken, or of another number of iterations in an epoch.
            SettingsError: naming a setting that the result depends on and that differs.
            ValueError: if it is of another architecture.
        """
        content = load_safely(path, engine.state.device)
        if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
            raise RunFolderError(f"{path} is no checkpoint of format {CHECKPOINT_FORMAT}; resume another run.")
        state = engine.state
        try:
            counters, saved, objects = content["trainer"], content["settings"], content["objects"]
            best = content["validator"] if self.validator is not None else {}
        except KeyError as error:
            raise RunFolderError(f"{path} lacks {error}; resume another run.") from error
        self._require_same_settings(saved, path)
        if counters["epoch_length"] != state.epoch_length:
            raise RunFolderError(
                f"{path} has {counters['epoch_length']} iterations in an epoch, this run has {state.epoch_length}; "
                "resume with the same data, batch_size and patches_per_volume."
            )
        for name, item in self._all_objects(engine).items():
            item.load_state_dict(objects[name])
        state.iteration = counters["iteration"]
        state.epoch = state.iteration // state.epoch_length
        if self.validator is not None:
            self.validator.state.best_metric = best["best_metric"]
            self.validator.state.best_metric_epoch = best["best_metric_epoch"]
        logger.info(f"Resuming {path} after iteration {state.iteration}, {state.epoch} whole epoch(s).")

    def _all_objects(self, engine: Engine) -> dict[str, Stateful]:
        means = getattr(engine, "epoch_means", None)
        return self.objects if means is None else {**self.objects, "epoch_means": means}

    def _require_same_settings(self, saved: Mapping[str, Any], path: Path) -> None:
        for name, value in self.settings().items():
            if name in saved and _listed(saved[name]) != _listed(value):
                raise SettingsError(
                    f"--{name} is {value!r}, but the run in {path.parent} was trained with {saved[name]!r}; resume "
                    f"with --{name} {saved[name]}, or start a new run."
                )


def at_end_of_epoch(engine: Engine) -> bool:
    """Whether the iteration that was just completed is the last of its epoch."""
    return bool(engine.state.iteration % engine.state.epoch_length == 0)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class BestModelHandler:
    """Write the network's weights whenever the validation's key metric is the best so far.

    Args:
        path: gives the file.
        network: whose ``state_dict`` is written, and nothing else.
    """

    def __init__(self, path: Callable[[], Path], network: nn.Module) -> None:
        self.path = path
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Attach to a validation engine."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the weights if this validation was the best."""
        if engine.state.best_metric_epoch == engine.state.epoch:
            weights = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
            save_whole(weights, self.path())
