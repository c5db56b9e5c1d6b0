"""The weight of the KL as a function of how far the training is."""

from __future__ import annotations

from ignite.engine import Engine, Events

from monai_blurvae.losses import ELBOLoss


class KLAnnealingHandler:
    """Raise β linearly from 0 to that of the objective in the first epochs (Bowman et al., CoNLL 2016).

    β of iteration i is a function of i alone, so that a resumed training needs nothing saved.

    Args:
        objective: whose ``beta``, at construction, is the last.
        epochs: after so many it is reached, at least 1.

    Raises:
        ValueError: if ``epochs`` is below 1.
    """

    def __init__(self, objective: ELBOLoss, epochs: int) -> None:
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1, but is {epochs!r}.")
        self.objective = objective
        self.epochs = epochs
        self.beta = objective.beta

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)
        engine.add_event_handler(Events.COMPLETED, self._restore)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._restore)

    def __call__(self, engine: Engine) -> None:
        """Set β of the iteration that begins."""
        length = engine.state.epoch_length
        assert length is not None
        self.objective.beta = self.beta * min(1.0, engine.state.iteration / (self.epochs * length))

    def _restore(self, engine: Engine, error: BaseException | None = None) -> None:
        self.objective.beta = self.beta
