"""One bar over the whole training, with the time left."""

from __future__ import annotations

import sys
from typing import Any

from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys
from tqdm import tqdm

from monai_blurvae.distributed import is_main_process


class EpochProgressHandler:
    """tqdm over all iterations: epoch, loss, last validation metric, time left.

    Args:
        validator: engine whose key metric is shown, if any.
    """

    def __init__(self, validator: Engine | None = None) -> None:
        self.validator = validator
        self._bar: tqdm[Any] | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._close)

    def _start(self, engine: Engine) -> None:
        state = engine.state
        if not is_main_process():
            return
        # A log file gets a line every half minute in place of a bar that redraws itself.
        interval = 0.5 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(
            total=state.max_epochs * state.epoch_length,
            initial=state.iteration,
            unit="it",
            mininterval=interval,
            maxinterval=max(10.0, interval),
            dynamic_ncols=True,
        )
        self._describe(engine)

    def _describe(self, engine: Engine) -> None:
        if self._bar is None:
            return
        epoch = min(engine.state.epoch, engine.state.max_epochs)
        self._bar.set_description(f"epoch {epoch}/{engine.state.max_epochs}", refresh=False)

    def _update(self, engine: Engine) -> None:
        if self._bar is None:
            return
        self._describe(engine)
        output = engine.state.output
        loss = (output[0] if isinstance(output, list) else output)[CommonKeys.LOSS]  # a list where it is decollated
        values = {"loss": f"{float(loss):.1f}"}
        metrics = {} if self.validator is None else self.validator.state.metrics
        if "psnr" in metrics:
            values["val_psnr"] = f"{metrics['psnr']:.2f} dB"
        self._bar.set_postfix(values, refresh=False)
        self._bar.update()

    def _close(self, engine: Engine, error: BaseException | None = None) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
