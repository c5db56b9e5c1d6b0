"""What identifies a network: its shape, readable from the weights alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Architecture:
    """Hyperparameters that fix the shape of every weight of a :class:`~monai_blurvae.networks.BlurVAE`."""

    spatial_dims: int
    in_channels: int
    image_size: int
    latent_size: int
    channels: tuple[int, ...]
    kernel_size: int
    architecture: str

    def differences(self, other: Architecture) -> list[str]:
        """Names of the hyperparameters in which the two differ."""
        mine, theirs = asdict(self), asdict(other)
        return [name for name in mine if mine[name] != theirs[name]]


def architecture_of(state_dict: Mapping[str, Any]) -> Architecture | None:
    """Read the architecture off the shapes of a state dict.

    Args:
        state_dict: weights of a BlurVAE.

    Returns:
        The architecture, or None when these are not the weights of a BlurVAE.
    """
    blocks: dict[int, Tensor] = {}
    for name, value in state_dict.items():
        match = re.fullmatch(r"encoder\.blocks\.(\d+)\.conv\.weight", name)
        if match and isinstance(value, Tensor):
            blocks[int(match.group(1))] = value
    first_linear = state_dict.get("decoder.expand.0.weight")
    last_linear = state_dict.get("kernel_generator.layers.2.weight")
    flat_size = state_dict.get("encoder.flat_size")
    if not blocks or first_linear is None or last_linear is None or flat_size is None:
        return None
    channels = tuple(int(blocks[i].shape[0]) for i in sorted(blocks))
    spatial_dims = blocks[0].ndim - 2
    smallest = round((int(flat_size) // channels[-1]) ** (1 / spatial_dims))
    return Architecture(
        spatial_dims=spatial_dims,
        in_channels=int(blocks[0].shape[1]),
        image_size=smallest * 2 ** len(channels),
        latent_size=int(first_linear.shape[1]),
        channels=channels,
        kernel_size=round(math.pow(last_linear.shape[0], 1 / spatial_dims)),
        architecture=_name(state_dict),
    )


def _name(state_dict: Mapping[str, Any]) -> str:
    if "decoder.expand.2.weight" in state_dict:
        return "transposed"
    return "transposed_linear" if "decoder.blocks.0.conv.weight" in state_dict else "upsample"
