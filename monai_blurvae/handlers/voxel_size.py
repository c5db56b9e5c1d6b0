"""The voxel size of the training travels with the weights, and other voxel sizes are warned of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.utils.data import Dataset

from monai_blurvae.data import facts_of

logger = logging.getLogger(__name__)

TOLERANCE = 0.05
"""Largest relative difference of voxel sizes that is not worth a word."""


class VoxelSizeHandler:
    """Give a network the voxel size of the training images, the median in mm along each axis of a patch.

    Args:
        network: with the buffer ``voxel_size``.
        dataset: of the training; one without voxel sizes leaves the buffer as it is.
    """

    def __init__(self, network: nn.Module, dataset: Dataset[object]) -> None:
        self.network = network
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the buffer, and warn where the training images differ among themselves."""
        voxel_sizes = facts_of(self.dataset).voxel_sizes
        if not voxel_sizes:
            return
        sizes = torch.tensor(voxel_sizes)
        if bool((sizes.amax(0) > sizes.amin(0) * (1 + TOLERANCE)).any()):
            logger.warning(
                f"The voxel sizes of the training volumes differ, from {_text(sizes.amin(0))} to "
                f"{_text(sizes.amax(0))} mm along the axes of a patch; consider resampling them to one."
            )
        self.network.get_buffer("voxel_size").copy_(sizes.double().quantile(0.5, dim=0))


class VoxelSizeCheckHandler:
    """Warn when images have another voxel size than those that the network was trained on.

    Attach it after the handler that loads the weights.

    Args:
        network: with the buffer ``voxel_size``; zeros are unknown.
        voxel_sizes: gives those of the images in mm along each axis of a patch, when the evaluation starts.
    """

    def __init__(self, network: nn.Module, voxel_sizes: Callable[[], Sequence[Sequence[float]]]) -> None:
        self.network = network
        self.voxel_sizes = voxel_sizes

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Compare every image, and warn once."""
        trained = self.network.get_buffer("voxel_size").cpu()
        sizes = torch.tensor(self.voxel_sizes())
        if not sizes.numel() or not bool((trained > 0).all()):
            return
        far = ((sizes / trained - 1).abs() > TOLERANCE).any(1)
        if bool(far.any()):
            logger.warning(
                f"{int(far.sum())} of {len(sizes)} images have voxels unlike those that the network was trained on, "
                f"{_text(sizes[far][0])} mm along the axes of a patch in place of {_text(trained)} mm; "
                "resample, or expect worse reconstructions."
            )


def _text(size: Tensor) -> str:
    return "×".join(f"{float(v):.3g}" for v in size)
