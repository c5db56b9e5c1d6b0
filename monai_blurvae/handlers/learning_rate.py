"""The learning rate as a function of how far the training is."""

from __future__ import annotations

import math

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from monai_blurvae.errors import SettingsError


class CosineLearningRateHandler:
    """Linear warm-up from 0, then half a cosine down to a share of the learning rate, iteration by iteration.

    The learning rate of iteration i of n is a function of (i − ½) / n alone, n = ``epochs`` · ``epoch_length``. So
    nothing has to be saved: a resumed training goes on as if it had never stopped, one that is resumed with more epochs
    takes its place on the longer curve. A training in rounds, each of which raises the trainer's ``max_epochs``, as of
    ``monai.fl.client.MonaiAlgo``, has one curve over all of them where ``epochs`` says how many there will be. Each
    group of the optimizer keeps its own scale. With a ``warmup`` of 0 and a ``final`` of 1 the learning rate is left
    alone, for another schedule to change.

    Args:
        optimizer: its learning rates, at construction, are those at the top of the curve.
        warmup: share of the iterations that the warm-up takes, 0 ≤ warmup < 1.
        final: learning rate after the last iteration, over that of the top, 0 to 1; 1 for a constant one.
        epochs: that the curve spans; None for the trainer's ``max_epochs``.

    Raises:
        ValueError: for a share out of range, or epochs that are not positive.
        SettingsError: during the training, when something else changes the learning rate too.
    """

    def __init__(
        self, optimizer: Optimizer, warmup: float = 0.0, final: float = 0.0, epochs: int | None = None
    ) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup must be at least 0 and below 1, but is {warmup!r}.")
        if not 0 <= final <= 1:
            raise ValueError(f"final must be from 0 to 1, but is {final!r}.")
        if epochs is not None and epochs < 1:
            raise ValueError(f"epochs must be positive or null, but is {epochs!r}.")
        self.optimizer = optimizer
        self.epochs = epochs
        self.warmup = warmup
        self.final = final
        self._tops = [float(group["lr"]) for group in optimizer.param_groups]
        self._given: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        if self.warmup > 0 or self.final < 1:
            engine.add_event_handler(Events.STARTED, self._given.clear)  # a checkpoint brings others
            engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the learning rates of the iteration that begins."""
        epochs = engine.state.max_epochs if self.epochs is None else self.epochs
        assert epochs is not None
        assert engine.state.epoch_length is not None
        # its middle, so that neither the first iteration nor the last has a rate of 0
        factor = self.factor((engine.state.iteration - 0.5) / (epochs * engine.state.epoch_length))
        found = [group["lr"] for group in self.optimizer.param_groups]
        if self._given and found != self._given:
            raise SettingsError(
                f"the learning rate is {found[0]:.3g}, but {type(self).__name__} had set it to {self._given[0]:.3g}: "
                "something else changes it too; set lr_warmup to 0 and lr_final to 1 for a schedule of your own."
            )
        self._given[:] = [top * factor for top in self._tops]
        for group, rate in zip(self.optimizer.param_groups, self._given, strict=True):
            group["lr"] = rate

    def factor(self, progress: float) -> float:
        """The learning rate over that of the top.

        Args:
            progress: share of the iterations that lie behind, 0 to 1; beyond 1 the value of 1.
        """
        if progress < self.warmup:
            return progress / self.warmup
        fall = min(1.0, (progress - self.warmup) / (1 - self.warmup))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * fall))
