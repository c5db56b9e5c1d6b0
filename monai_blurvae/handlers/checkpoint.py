"""Checkpoints to restart from, and the best model, each written whole or not at all."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events
from torch import nn

from monai_blurvae.errors import RunFolderError
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
        except RuntimeError as error:  # torch reports a full disk so
            raise OSError(str(error).splitlines()[0]) from error


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
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RunFolderError(f"the checkpoint {path} cannot be read ({reason[0][:200]}); use another one.") from error


class RestartCheckpointHandler:
    """Write everything that a training needs to go on, and take it back at the start.

    Attach it to the trainer before the other handlers. It restores at STARTED, before they look at the state, and
    writes after all of them at the end of an epoch.

    Args:
        path: gives the checkpoint's file when the training starts.
        objects: what is saved under its name, beside the counters of the trainer and the validator.
        validator: whose best metric is saved.
        interval: epochs between two checkpoints; the last epoch always has one.
        settings: stored in the checkpoint for the record.
    """

    def __init__(
        self,
        path: Callable[[], Path],
        objects: Mapping[str, Stateful],
        validator: Engine | None = None,
        interval: int = 1,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.objects = dict(objects)
        self.validator = validator
        self.interval = interval
        self.settings = dict(settings or {})

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        path = self.path()
        if path.is_file() and engine.state.iteration == 0:
            self.load(engine, path)
        if not engine.has_event_handler(self._save_on_schedule, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save_on_schedule)

    def _save_on_schedule(self, engine: Engine) -> None:
        if engine.state.epoch % self.interval == 0 or engine.state.epoch == engine.state.max_epochs:
            self.save(engine, self.path())

    def save(self, engine: Engine, path: Path) -> None:
        """Write a checkpoint of the trainer's present state."""
        state = engine.state
        counters = {"iteration": state.iteration, "epoch": state.epoch, "epoch_length": state.epoch_length}
        content: dict[str, Any] = {"format": CHECKPOINT_FORMAT, "trainer": counters, "settings": self.settings}
        if self.validator is not None:
            best = self.validator.state
            content["validator"] = {"best_metric": float(best.best_metric), "best_metric_epoch": best.best_metric_epoch}
        content["objects"] = {name: item.state_dict() for name, item in self.objects.items()}
        save_whole(content, path)

    def load(self, engine: Engine, path: Path) -> None:
        """Take a checkpoint back.

        Raises:
            RunFolderError: if it is broken, or of another number of patches in an epoch.
            ValueError: if it is of another architecture.
        """
        content = load_safely(path, engine.state.device)
        if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
            raise RunFolderError(f"{path} is no checkpoint of format {CHECKPOINT_FORMAT}; resume another run.")
        counters = content["trainer"]
        if counters["epoch_length"] != engine.state.epoch_length:
            raise RunFolderError(
                f"{path} has {counters['epoch_length']} iterations in an epoch, this run has "
                f"{engine.state.epoch_length}; resume with the same data, batch_size and patches_per_volume."
            )
        for name, item in self.objects.items():
            item.load_state_dict(content["objects"][name])
        engine.state.iteration = counters["iteration"]
        engine.state.epoch = counters["epoch"]
        if self.validator is not None and "validator" in content:
            self.validator.state.best_metric = content["validator"]["best_metric"]
            self.validator.state.best_metric_epoch = content["validator"]["best_metric_epoch"]
        logger.info(f"Resuming {path} after epoch {engine.state.epoch}.")


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
