"""Evaluation from the posterior mean."""

from __future__ import annotations

from typing import Any

from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys

from monai_blurvae.engines.iteration import BlurVAEKeys, images_of
from monai_blurvae.engines.parallel import share_buffers
from monai_blurvae.functional import kl_standard_normal
from monai_blurvae.networks import VAEOutput, unwrapped


class BlurVAEEvaluator(SupervisedEvaluator):
    """MONAI's evaluator for a :class:`~monai_blurvae.networks.BlurVAE`: reconstructs from μ, always in float32.

    The network may be wrapped in ``DistributedDataParallel``, with a share of the images in each process. The metrics
    of :mod:`monai_blurvae.metrics` are over all of them.

    The output holds ``image``, ``label`` (the same), ``pred``, ``mu``, ``log_var``, ``kernel`` and ``kl`` ``(B,)``.
    Arguments are those of ``monai.engines.SupervisedEvaluator``; ``decollate`` is off by default.
    """

    def __init__(self, *args: Any, decollate: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, decollate=decollate, **kwargs)
        self.add_event_handler(Events.STARTED, lambda: share_buffers(self.network))

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> dict[str, Any]:
        images = images_of(self, batchdata)
        network = unwrapped(self.network)  # of which no other process hears: they may have fewer batches
        with self.mode(network):
            output: VAEOutput = self.inferer(images, network)
            kernel = network.kernel(output.mu)
        self.state.output = {
            CommonKeys.IMAGE: images,
            CommonKeys.LABEL: images,
            CommonKeys.PRED: output.reconstruction,
            BlurVAEKeys.MU: output.mu,
            BlurVAEKeys.LOG_VAR: output.log_var,
            BlurVAEKeys.KERNEL: kernel,
            BlurVAEKeys.KL: kl_standard_normal(output.mu, output.log_var),
        }
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return self.state.output
