"""The network that the weights of a run are for, without running anything from it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from monai.networks.nets.autoencoderkl import AutoencoderKL
from torch import nn

from monai_blurvae.errors import RunFolderError
from monai_blurvae.networks import (
    Architecture,
    BlurAutoencoderKL,
    BlurVAE,
    BlurVAEReconstructor,
    LatentImageModel,
    architecture_of,
)
from monai_blurvae.running import is_plain
from monai_blurvae.runs.run import Run

OURS = ("monai_blurvae.networks.BlurAutoencoderKL",)
MONAIS = ("AutoencoderKL", "monai.networks.nets.AutoencoderKL")
"""What a config calls the networks that are built of it; nothing else that it names is."""
TRACED_INPUTS = 2


def untrained_network(run: Run, weights: Mapping[str, Any]) -> LatentImageModel:
    """A :class:`~monai_blurvae.networks.BlurVAE` of the shape of the weights, or a ``BlurAutoencoderKL`` of MONAI's.

    Args:
        run: whose config, read as data, tells the sizes of the latter.
        weights: its ``state_dict``.

    Raises:
        RunFolderError: if it is of another network.
    """
    architecture = architecture_of(weights)
    if architecture is not None:
        normalization = run.argument("network_def#kernel_normalization", "softmax")
        return BlurVAE(**_blurvae_arguments(architecture, weights, normalization))
    arguments = dict(run.config.get("network_def", {}))
    inner = arguments.pop("autoencoder", None)
    if arguments.pop("_target_", None) in OURS and isinstance(inner, Mapping) and inner.get("_target_") in MONAIS:
        sizes = _plain_values(run, {name: value for name, value in inner.items() if name != "_target_"})
        return BlurAutoencoderKL(AutoencoderKL(**sizes), **_plain_values(run, arguments))
    raise RunFolderError(
        f"{run.name} holds weights of another network than a BlurVAE or MONAI's AutoencoderKL; load a learned prior by "
        "PatchVAEPrior.load, or another network by its own class."
    )


def _plain_values(run: Run, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a network, which may refer to settings of the run."""
    found = {}
    for name, value in arguments.items():
        refers = isinstance(value, str) and value.startswith("@")
        found[name] = run.argument(value[1:], None) if refers else value
        expression = isinstance(found[name], str) and found[name].startswith(("$", "%"))
        if expression or not is_plain(found[name]) or (refers and found[name] is None):
            raise RunFolderError(
                f"{run.name} has {value!r} as {name} of its network, which only its config can tell; load it by "
                "Run(…).network(), which runs the config."
            )
    return found


def scriptable_parts(network: LatentImageModel) -> nn.Module:
    """A copy whose ``encode``, ``decode`` and ``kernel`` TorchScript takes: MONAI's autoencoders only when traced.

    Args:
        network: in evaluation mode.
    """
    device = network.get_buffer("voxel_size").device
    if isinstance(network, BlurVAE):
        weights = network.state_dict()
        architecture = architecture_of(weights)
        assert architecture is not None
        normalization = network.kernel_generator.normalization
        module = BlurVAEReconstructor(**_blurvae_arguments(architecture, weights, normalization))
        module.load_state_dict(weights)
        return module.to(device).eval()
    images = torch.zeros(TRACED_INPUTS, *network.image_shape, device=device)
    z = torch.zeros(TRACED_INPUTS, network.latent_size, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checks of shapes, which a trace leaves out
        traced: nn.Module = torch.jit.trace_module(
            network, {"encode": images, "decode": z, "kernel": z}, check_trace=False
        )
    return traced


def _blurvae_arguments(
    architecture: Architecture, weights: Mapping[str, Any], kernel_normalization: str
) -> dict[str, Any]:
    """All that weights tell, and the one argument that they do not."""
    hidden = len(weights["kernel_generator.layers.0.bias"])
    return asdict(architecture) | {"kernel_normalization": kernel_normalization, "kernel_hidden_size": hidden}
