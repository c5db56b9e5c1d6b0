"""End a training between two iterations when the system asks for it."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any

from ignite.engine import Engine, Events

from monai_blurvae.distributed import is_main_process
from monai_blurvae.handlers.checkpoint import RestartCheckpointHandler, at_end_of_epoch

logger = logging.getLogger(__name__)

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
