"""Checkpoints to restart from, the best model, and an end between two iterations when the system asks for it."""

from __future__ import annotations

import functools
import io
import json
import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from torch import nn
from torch.optim import Optimizer

from monai_blurvae.distributed import is_main_process
from monai_blurvae.errors import RunFolderError, SettingsError
from monai_blurvae.files import FilePath, replacing, resolved
from monai_blurvae.networks import unwrapped

logger = logging.getLogger(__name__)


@runtime_checkable
class Stateful(Protocol):
    """What a checkpoint can hold: networks, optimizers, schedulers, averaged models, scalers, some handlers."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take the state back."""


def forgotten(engine: Engine, known: Iterable[Any]) -> list[str]:
    """Names of what has a state, hangs on an engine or on one of its handlers, and is none of what is known.

    Engines and metrics do not count: their states begin anew.

    Args:
        engine: whose attributes are searched, those of its handlers, and what lies in lists and dictionaries there.
        known: objects with a state; a module stands for its submodules too.
    """
    ids = {id(part) for item in known for part in _parts(item)}
    found: dict[int, str] = {}
    for owner in (engine, *_handlers(engine)):
        for name, item in _attributes(owner):
            if _has_state(item) and id(unwrapped(item)) not in ids:
                place = f"{name} of {type(owner).__name__}, {type(item).__name__}," if name else type(item).__name__
                found.setdefault(id(unwrapped(item)), place)
    return list(found.values())


def _has_state(item: Any) -> bool:
    if not isinstance(item, Stateful) or isinstance(item, type | Engine | Metric):
        return False
    return not isinstance(item, nn.Module) or bool(item.state_dict())


def _parts(item: Any) -> Iterator[Any]:
    item = unwrapped(item)
    yield item
    if isinstance(item, nn.Module):
        yield from item.modules()


def _handlers(engine: Engine) -> Iterator[Any]:
    """The objects that were attached, by way of a method or of themselves."""
    for entries in engine._event_handlers.values():
        for function, *_ in entries:
            while isinstance(function, functools.partial) or hasattr(function, "__wrapped__"):
                function = function.func if isinstance(function, functools.partial) else function.__wrapped__
            handler = getattr(function, "__self__", function)
            if hasattr(handler, "__dict__") and not isinstance(handler, Engine | Metric):
                yield handler


def _attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    yield "", owner
    for name, value in vars(owner).items():
        if isinstance(value, Mapping) and not isinstance(value, Stateful):
            yield from ((f"{name}[{key!r}]", item) for key, item in value.items())
        elif isinstance(value, list | tuple):
            yield from ((f"{name}[{i}]", item) for i, item in enumerate(value))
        else:
            yield name, value


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


SIGNALS = tuple(name for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class GracefulStopHandler:
    """On SIGTERM, SIGINT or SIGUSR1 finish the iteration, write a checkpoint and exit with 128 + the signal's number.

    Within the last iteration of an epoch, the epoch's validation is finished too. A second SIGINT stops at once.
    Of several processes the first does so, and the others end with it, whenever each has heard of the signal.
    Clusters send SIGTERM, or SIGUSR1 when asked for a warning (Slurm's option ``signal``, ``USR1@120``).

    Args:
        checkpoint: writes the checkpoint. Attach this handler to the trainer after it.
    """

    def __init__(self, checkpoint: RestartCheckpointHandler) -> None:
        self.checkpoint = checkpoint
        self._received: signal.Signals | None = None
        self._previous: dict[int, Any] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED, self._restore)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._restore)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._end_with_the_first)

    def _start(self, engine: Engine) -> None:
        self._received = None
        if threading.current_thread() is threading.main_thread():  # Python installs handlers nowhere else
            for name in SIGNALS:
                number = signal.Signals[name]
                self._previous[number] = signal.signal(number, self._receive)
        if not engine.has_event_handler(self._iteration_completed, Events.ITERATION_COMPLETED):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._stop_if_asked)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the second one stops at once
        logger.warning(f"{self._received.name} received: stopping after this iteration.")

    def _iteration_completed(self, engine: Engine) -> None:
        if not at_end_of_epoch(engine):
            self._stop_if_asked(engine)

    def _stop_if_asked(self, engine: Engine) -> None:
        if self._received is None or not is_main_process():
            return
        self.checkpoint.save(engine)
        logger.warning(f"Stopped by {self._received.name}; resume the run to go on.")
        raise SystemExit(128 + self._received)

    def _end_with_the_first(self, engine: Engine, error: BaseException) -> None:
        """A process that was asked to stop meets the end of the first one as an error of their next exchange."""
        if self._received is not None and not is_main_process():
            raise SystemExit(128 + self._received) from error

    def _restore(self, engine: Engine, error: BaseException | None = None) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}
