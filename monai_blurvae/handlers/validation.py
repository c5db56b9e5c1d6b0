"""A last validation where the schedule has none."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.engines import Evaluator


class FinalValidationHandler:
    """Validate after the last epoch unless MONAI's ``ValidationHandler`` did, so that every training ends with a model.

    It runs when the training is completed, after the last checkpoint: a training that goes on with more epochs does
    not know of it, and ends where an uninterrupted one does.

    Args:
        validator: the validation engine.
        interval: of the ``ValidationHandler``, in epochs.
    """

    def __init__(self, validator: Evaluator, interval: int) -> None:
        self.validator = validator
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Validate once more if the last epoch was not on the schedule."""
        if engine.state.epoch % self.interval:
            self.validator.run(engine.state.epoch)
