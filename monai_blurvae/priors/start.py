"""How the training of a PatchMixture begins."""

from __future__ import annotations

import logging
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys
from torch import nn

from monai_blurvae.data import VolumePatchDataset
from monai_blurvae.functional import patches_of
from monai_blurvae.networks import PatchMixture, unwrapped

logger = logging.getLogger(__name__)


class InitialMixtureHandler:
    """Give a :class:`~monai_blurvae.networks.PatchMixture` its bases, from training images, when a training begins.

    A training that is resumed has them in its checkpoint.

    Args:
        network: whatever wraps it; a model of another kind is left as it is.
        dataset: of the training.
        patches: how many are looked at, the same number of each volume.
    """

    def __init__(self, network: nn.Module, dataset: VolumePatchDataset, patches: int = 100_000) -> None:
        self.network = network
        self.dataset = dataset
        self.patches = patches

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer, after the handler that resumes."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Fit the mixture that the network begins with."""
        network: Any = unwrapped(self.network)
        if engine.state.iteration or not isinstance(network, PatchMixture) or not len(self.dataset):
            return
        p = network.patch_size
        per_image = self.dataset[0][CommonKeys.IMAGE][0].numel() // p**2
        images = self.dataset.unshuffled(-(-self.patches // per_image))
        logger.info(f"Fitting {len(network.logits)} Gaussians to {len(images) * per_image} patches, to begin with.")
        cut = [images[i][CommonKeys.IMAGE] for i in range(len(images))]
        network.initialize(patches_of(torch.stack(cut), p, p).flatten(0, 1).to(network.start))
