"""End a training whose validation no longer improves."""

from __future__ import annotations

import logging

from ignite.engine import Engine, Events
from monai.engines import Evaluator

logger = logging.getLogger(__name__)


class EarlyStoppingHandler:
    """End the training when the best validation lies too many epochs back.

    It looks at the validator's best metric, which the checkpoint holds, so that a resumed training stops where an
    undisturbed one does. Attach it to the trainer after the handler that validates.

    Args:
        validator: with a key metric, of which higher is better.
        patience: epochs without a better one, at least 1.

    Raises:
        ValueError: if ``patience`` is below 1.
    """

    def __init__(self, validator: Evaluator, patience: int) -> None:
        if patience < 1:
            raise ValueError(f"patience must be at least 1, but is {patience!r}.")
        self.validator = validator
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Stop if it is time."""
        best = self.validator.state.best_metric_epoch
        if best > 0 and engine.state.epoch - best >= self.patience:
            logger.info(f"Stopped after epoch {engine.state.epoch}: the best validation was that of epoch {best}.")
            engine.terminate()
