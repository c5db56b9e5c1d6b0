"""Checkpoints to restart from, and the best model, each written whole or not at all."""

from __future__ import annotations

import io
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer

from monai_blurvae.distributed import is_main_process
from monai_blurvae.errors import RunFolderError, SettingsError
from monai_blurvae.files import FilePath, replacing, resolved
from monai_blurvae.handlers.stateful import Stateful, forgotten
from monai_blurvae.networks import unwrapped

logger = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 2


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
    Of several processes the first writes.

    At the start it refuses what has a state, hangs on the trainer or one of its handlers and is not among the objects,
    such as the scheduler of MONAI's ``LrScheduleHandler``: a resumed training would not end as an uninterrupted one.

    Args:
        path: the checkpoint's file, or a callable that gives it.
        objects: what is saved under its name, the section ``checkpoint`` of a config: networks, optimizers, learning
            rate schedulers, averaged models; None for what is left out. The trainer's counters, epoch means and scale
            of the losses and the validator's best metric are saved by themselves.
        validator: whose best metric is saved.
        interval: epochs between two checkpoints; the last epoch always has one.
        minutes: a checkpoint is also written when the last one is older than this; None for never.
        config: gives the JSON values that the result depends on by their names; resuming with others is refused.
    """

    def __init__(
        self,
        path: FilePath,
        objects: Mapping[str, Stateful | None],
        validator: Engine | None = None,
        interval: int = 1,
        minutes: float | None = None,
        config: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.path = path
        self.objects = {name: unwrapped(item) for name, item in objects.items() if item is not None}
        self.validator = validator
        self.interval = interval
        self.minutes = minutes
        self.config = config
        self._last_save = time.monotonic()

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        self._require_complete(engine)
        path = resolved(self.path)
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
        state = engine.state
        self._last_save = time.monotonic()
        if not is_main_process():
            return
        content: dict[str, Any] = {
            "format": CHECKPOINT_FORMAT,
            "trainer": {"iteration": state.iteration, "epoch_length": state.epoch_length},
            "config": self._config(),
            "objects": {name: item.state_dict() for name, item in self._all_objects(engine).items()},
        }
        if self.validator is not None:
            best = self.validator.state
            content["validator"] = {"best_metric": float(best.best_metric), "best_metric_epoch": best.best_metric_epoch}
        save_whole(content, resolved(self.path))
        logger.info(f"Checkpoint after iteration {state.iteration} of {state.max_epochs * state.epoch_length}.")

    def load(self, engine: Engine, path: Path) -> None:
        """Take a checkpoint back.

        Raises:
            RunFolderError: if it is broken, of other objects, or of another number of iterations in an epoch.
            SettingsError: naming what the result depends on and that differs.
        """
        content = load_safely(path, engine.state.device)
        if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
            raise RunFolderError(f"{path} is no checkpoint of format {CHECKPOINT_FORMAT}; resume another run.")
        state = engine.state
        try:
            counters, saved, objects = content["trainer"], content["config"], content["objects"]
            best = content["validator"] if self.validator is not None else {}
        except KeyError as error:
            raise RunFolderError(f"{path} lacks {error}; resume another run.") from error
        require_same_config(self._config(), saved, path.parent)
        if counters["epoch_length"] != state.epoch_length:
            raise RunFolderError(
                f"{path} has {counters['epoch_length']} iterations in an epoch, this run has {state.epoch_length}; "
                "resume with the same data, batch_size and patches_per_volume."
            )
        self._load_objects(engine, objects, path)
        state.iteration = counters["iteration"]
        state.epoch = state.iteration // state.epoch_length
        if self.validator is not None:
            self.validator.state.best_metric = best["best_metric"]
            self.validator.state.best_metric_epoch = best["best_metric_epoch"]
        logger.info(f"Resuming {path} after iteration {state.iteration}, {state.epoch} whole epoch(s).")

    def _load_objects(self, engine: Engine, saved: Mapping[str, Any], path: Path) -> None:
        items = self._all_objects(engine)
        for name in items.keys() - saved.keys():
            raise RunFolderError(
                f"{path} lacks the object {name!r}; take it out of the section checkpoint, or start a new run."
            )
        for name in saved.keys() - items.keys():
            raise RunFolderError(
                f"{path} holds the object {name!r}, which is not there now; add it to the section checkpoint, or start "
                "a new run."
            )
        for name, item in items.items():
            _load_state(item, saved[name], f"the state of {name!r} in {path} does not fit")

    def _all_objects(self, engine: Engine) -> dict[str, Stateful]:
        own = {f"trainer.{name}": getattr(engine, name, None) for name in ("epoch_means", "grad_scaler")}
        return {**self.objects, **{name: item for name, item in own.items() if item is not None}}

    def _config(self) -> dict[str, Any]:
        """Tuples as lists, as JSON has them."""
        config: dict[str, Any] = json.loads(json.dumps(dict(self.config())))
        return config

    def _require_complete(self, engine: Engine) -> None:
        """Refuse what a checkpoint would not hold, or would hold but could not give back."""
        left = forgotten(engine, self._all_objects(engine).values())
        if left:
            raise SettingsError(
                f"{left[0]} has a state that no checkpoint would hold, so that a resumed run would differ; add it to "
                "the section checkpoint."
            )
        for name, item in self.objects.items():
            if not isinstance(item, nn.Module | Optimizer):
                _require_loadable(name, item)


def _require_loadable(name: str, item: Stateful) -> None:
    buffer = io.BytesIO()
    try:
        torch.save(item.state_dict(), buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception as error:  # whatever its parts raise
        raise SettingsError(
            f"the state of {name!r} ({type(item).__name__}) holds more than tensors, numbers and texts, so that no "
            "checkpoint could give it back; use another class, or one that saves a plain state."
        ) from error


def _load_state(item: Stateful, state: dict[str, Any], problem: str) -> None:
    try:
        item.load_state_dict(state)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RunFolderError(f"{problem}: {reason[0]}") from error


def require_same_config(here: Mapping[str, Any], there: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with a training under another configuration.

    Args:
        here: JSON values by their names.
        there: those of the run.
        folder: of the run.

    Raises:
        SettingsError: naming all that differs, is new or is missing.
    """
    names = [*here, *(name for name in there if name not in here)]
    differing = [name for name in names if name not in here or name not in there or here[name] != there[name]]
    if not differing:
        return
    first, *rest = (_difference(name, here, there) for name in differing)
    more = "".join(f", {name_is}, not {was}" for name_is, was in rest)
    raise SettingsError(
        f"{first[0]}, but the run in {folder} was trained with {first[1]}{more}; resume with the same "
        f"value{'s' if rest else ''}, or start a new run."
    )


def _difference(name: str, here: Mapping[str, Any], there: Mapping[str, Any]) -> tuple[str, str]:
    value, was = (json.dumps(values[name]) if name in values else "nothing" for values in (here, there))
    return f"{name} is {'missing' if name not in here else value}", was


def at_end_of_epoch(engine: Engine) -> bool:
    """Whether the iteration that was just completed is the last of its epoch."""
    return bool(engine.state.iteration % engine.state.epoch_length == 0)


class BestModelHandler:
    """Write the network's weights whenever the validation's key metric is the best so far.

    Args:
        path: the file, or a callable that gives it.
        network: whose ``state_dict`` is written, and nothing else, whatever wraps it.
    """

    def __init__(self, path: FilePath, network: nn.Module) -> None:
        self.path = path
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Attach to a validation engine."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the weights if this validation was the best."""
        if engine.state.best_metric_epoch == engine.state.epoch and is_main_process():
            state = unwrapped(self.network).state_dict()
            weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
            save_whole(weights, resolved(self.path))


class ModelCheckpointLoader:
    """Load the weights of a ``model.pt`` into a network when an engine starts.

    ``monai.fl.client.MonaiAlgo``, which brings weights of its own, leaves out handlers whose name has
    "CheckpointLoader" in it.

    Args:
        path: the file, or a callable that gives it.
        network: to load into, whatever wraps it.
    """

    def __init__(self, path: FilePath, network: nn.Module) -> None:
        self.path = path
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Attach to an engine."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load the weights.

        Raises:
            RunFolderError: if the file is missing, broken or holds no state dict.
            ValueError: if it is of another architecture.
        """
        load_weights(self.network, resolved(self.path))


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a ``model.pt`` into a network, whatever wraps it.

    Raises:
        RunFolderError: if the file is missing, broken or holds no state dict, or one of another network.
        ValueError: if it is of another architecture.
    """
    weights = load_safely(path)
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise RunFolderError(f"{path} holds no network weights; give a model.pt.")
    try:
        unwrapped(network).load_state_dict(weights)
    except RuntimeError as error:  # torch's lists of names
        raise RunFolderError(
            f"{path} holds the weights of another network than {type(unwrapped(network)).__name__}; give its model.pt."
        ) from error
