"""Steps between the parts that a config builds."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from monai_blurvae.data import Volumes
from monai_blurvae.errors import RunFolderError
from monai_blurvae.handlers.checkpoint import load_safely

logger = logging.getLogger(__name__)

VOXEL_SIZE_TOLERANCE = 0.05
Network = TypeVar("Network", bound=nn.Module)


def prepare_network(network: Network, device: str, volumes: Volumes) -> Network:
    """Move a network to its device and give it the voxel size of the training images.

    The channels-last layout, which convolutions prefer, changes no value that is saved.

    Args:
        network: two-dimensional :class:`~monai_blurvae.networks.BlurVAE`.
        device: for example ``"cpu"`` or ``"cuda"``.
        volumes: the run's volumes.
    """
    sizes = torch.tensor([volume.voxel_size[1:] for volume in volumes.training])
    if bool((sizes.amax(0) > sizes.amin(0) * (1 + VOXEL_SIZE_TOLERANCE)).any()):
        logger.warning(
            f"The voxel sizes of the training volumes differ, from {_text(sizes.amin(0))} to {_text(sizes.amax(0))} mm "
            "in plane; consider resampling them to one."
        )
    network.get_buffer("voxel_size").copy_(torch.tensor(volumes.voxel_size))
    return network.to(device=torch.device(device), memory_format=torch.channels_last)


def load_weights(network: Network, path: str | Path, device: str = "cpu") -> Network:
    """Load a ``model.pt`` into a network on a device.

    Raises:
        RunFolderError: if the file is missing, broken or holds no state dict.
        ValueError: if it is of another architecture.
    """
    weights = load_safely(path)
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise RunFolderError(f"{path} holds no network weights; give a model.pt.")
    network.load_state_dict(weights)
    return network.to(torch.device(device))


def check_voxel_size(network: nn.Module, volumes: Volumes) -> None:
    """Warn if images have another voxel size than those that the network was trained on."""
    trained, here = network.get_buffer("voxel_size").cpu(), torch.tensor(volumes.voxel_size)
    if bool((trained > 0).all()) and bool(((here / trained - 1).abs() > VOXEL_SIZE_TOLERANCE).any()):
        logger.warning(
            f"The images have voxels of {_text(here)} mm in plane, but the network was trained on {_text(trained)} mm; "
            "resample them, or expect worse reconstructions."
        )


def _text(size: torch.Tensor) -> str:
    return "×".join(f"{float(v):.3g}" for v in size)
