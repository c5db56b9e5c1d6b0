"""Averages of the weights along the training."""

from __future__ import annotations

from ignite.engine import Engine
from ignite.handlers import EMAHandler
from monai.engines.utils import IterationEvents
from torch import nn

from monai_blurvae.networks import unwrapped


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
