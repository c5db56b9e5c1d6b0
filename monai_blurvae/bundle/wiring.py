"""Steps between the parts that a config builds."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from monai_blurvae.data import PreparedImages, find_images, find_volumes
from monai_blurvae.errors import RunFolderError
from monai_blurvae.handlers.checkpoint import load_safely
from monai_blurvae.networks import BlurVAE
from monai_blurvae.report import write_report
from monai_blurvae.transforms import read_header

logger = logging.getLogger(__name__)

VOXEL_SIZE_TOLERANCE = 0.05
LIKELIHOOD_LR = 0.01
"""Learning rate of the likelihood's own parameters, whatever the network's: they are logarithms and logits of the order
of 1, which Adam then moves by about 0.01 an iteration. With ten times it, the robust loss's shape and scale waver by
several percent from batch to batch; with a tenth they are still on their way after thousands of iterations."""

Network = TypeVar("Network", bound=nn.Module)


def prepare_network(network: Network, device: str, images: PreparedImages) -> Network:
    """Move a network to its device and give it the voxel size of the training images, if they have one.

    Args:
        network: two-dimensional :class:`~monai_blurvae.networks.BlurVAE`.
        device: for example ``"cpu"`` or ``"cuda"``.
        images: the run's.
    """
    if images.voxel_size is not None:
        sizes = torch.tensor(images.voxel_sizes)
        if bool((sizes.amax(0) > sizes.amin(0) * (1 + VOXEL_SIZE_TOLERANCE)).any()):
            logger.warning(
                f"The voxel sizes of the training volumes differ, from {_text(sizes.amin(0))} to "
                f"{_text(sizes.amax(0))} mm in plane; consider resampling them to one."
            )
        network.get_buffer("voxel_size").copy_(torch.tensor(images.voxel_size))
    return _on_device(network, device)


def parameter_groups(network: BlurVAE, objective: nn.Module, lr: float) -> list[dict[str, Any]]:
    """The parameters of the VAE step: encoder and decoder, and those that the likelihood itself has.

    The latter are few and of the order of 1, like the shape and the scale of the robust loss: with the step of a
    network's weights they would take tens of thousands of iterations to settle, so they have :data:`LIKELIHOOD_LR`.

    Args:
        network: whose encoder and decoder are trained.
        objective: whose parameters are trained with them.
        lr: learning rate of the network.
    """
    groups: list[dict[str, Any]] = [{"params": list(network.vae_parameters()), "lr": lr}]
    own = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    return [*groups, {"params": own, "lr": LIKELIHOOD_LR}] if own else groups


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
    return _on_device(network, device)


def inference_items(dataset_dir: str | Path, image_pattern: str) -> list[dict[str, str]]:
    """The volumes of a folder as MONAI's datasets take them, ``{"image": path}``.

    Raises:
        DataError: see :func:`~monai_blurvae.data.find_volumes`.
    """
    found = find_volumes(dataset_dir, image_pattern)
    return [{"image": str(Path(dataset_dir).expanduser() / item["image"])} for item in found]


def inference_images(dataset_dir: str | Path, image_pattern: str) -> list[dict[str, str]]:
    """The images of a folder as MONAI's datasets take them, ``{"image": path}``.

    Raises:
        DataError: see :func:`~monai_blurvae.data.find_images`.
    """
    found = find_images(dataset_dir, image_pattern)
    return [{"image": str(Path(dataset_dir).expanduser() / item["image"])} for item in found]


def report_run(run_dir: str | Path, evaluation_dir: str | Path | None = None) -> None:
    """Write the report of a run; what keeps it from being written is logged, since the run itself has ended well.

    Args:
        run_dir: the run's folder.
        evaluation_dir: of an evaluation that the report shows in place of the training's test.
    """
    try:
        logger.info(f"Report in {write_report(run_dir, evaluation_dir)}.")
    except (ImportError, RunFolderError) as error:
        logger.warning(f"No report: {error}")
    except Exception:  # a training of days must not count as failed for a chart
        logger.exception("No report, by a fault of the report and not of the run:")


def check_voxel_size(network: nn.Module, images: PreparedImages) -> None:
    """Warn if images have another voxel size than those that the network was trained on."""
    if images.voxel_size is not None:
        _compare_voxel_size(network, torch.tensor(images.voxel_size), "The images have")


def check_headers(network: nn.Module, items: Sequence[Mapping[str, str]], slice_axis: int) -> None:
    """Read the headers of volumes before the long work, and warn of a voxel size unlike the training's.

    Raises:
        DataError: if a header cannot be read or is not that of a volume.
    """
    for item in items:
        voxel_size = read_header(item["image"], slice_axis).voxel_size[1:]
        _compare_voxel_size(network, torch.tensor(voxel_size), f"{item['image']} has")


def _on_device(network: Network, device: str) -> Network:
    """In the channels-last layout, which convolutions prefer; training and evaluation then round alike."""
    return network.to(torch.device(device)).to(memory_format=torch.channels_last)


def _compare_voxel_size(network: nn.Module, here: torch.Tensor, subject: str) -> None:
    trained = network.get_buffer("voxel_size").cpu()
    if bool((trained > 0).all()) and bool(((here / trained - 1).abs() > VOXEL_SIZE_TOLERANCE).any()):
        logger.warning(
            f"{subject} voxels of {_text(here)} mm in plane, but the network was trained on {_text(trained)} mm; "
            "resample, or expect worse reconstructions."
        )


def _text(size: torch.Tensor) -> str:
    return "×".join(f"{float(v):.3g}" for v in size)
