"""What changes with how far the training is: learning rate, weight of the KL, averaged weights, and its end."""

from __future__ import annotations

import logging
import math

from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from monai.engines import Evaluator
from monai.engines.utils import IterationEvents
from torch import nn
from torch.optim import Optimizer

from monai_blurvae.errors import SettingsError
from monai_blurvae.losses import ELBOLoss
from monai_blurvae.networks import unwrapped

logger = logging.getLogger(__name__)


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


class WeightAveragingHandler(EMAHandler):
    """Ignite's exponential moving average of the weights, before a checkpoint of the same iteration is written.

    ``ema_model`` is the averaged network, with the buffers of the trained one; put it among the objects of the
    :class:`~monai_blurvae.handlers.RestartCheckpointHandler`, under the validation and into
    :class:`~monai_blurvae.handlers.BestModelHandler`, so that it is what ``model.pt`` holds.

    Args:
        network: whose weights are averaged, whatever wraps it.
        decay: share of the average that an iteration keeps, above 0 and below 1.

    Raises:
        ValueError: for another share.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay must be above 0 and below 1, but is {decay!r}.")
        super().__init__(unwrapped(network), momentum=1 - decay)

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        super().attach(engine, warn_if_exists=False, event=IterationEvents.MODEL_COMPLETED)


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
