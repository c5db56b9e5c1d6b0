"""The density p(x|z) that an evaluation draws images from: Gaussians fitted around the decoder of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from monai_blurvae.bundle.finished_run import FinishedRun, TrainedObjective
from monai_blurvae.data.facts import facts_of
from monai_blurvae.data.order import evenly_spread
from monai_blurvae.errors import DataError
from monai_blurvae.handlers import FittedDensities
from monai_blurvae.metrics.likelihood import Likelihood, fit_likelihoods
from monai_blurvae.networks import BlurVAE, unwrapped

MOST_IMAGES = 256
"""Validation images, evenly spread, that the densities are fitted on: each variance is then known to a few per cent,
closer than pictures and spectra show, and a training ends soon after its last epoch. The measures take all images."""


def fit_densities(run: FinishedRun, network: nn.Module, dataset: Any) -> FittedDensities:
    """Fit the Gaussians of :func:`~monai_blurvae.metrics.fit_likelihoods` around the decoder of a run.

    Args:
        run: whose objective says whether there is a kernel worth the name, and its C.
        network: the run's model, which may be wrapped in ``DistributedDataParallel``.
        dataset: the run's validation images, of which at most :data:`MOST_IMAGES` are taken.

    Raises:
        DataError: if there are no validation images.
        RunFolderError: if there is no such run.
    """
    chosen = evenly_spread(len(dataset), MOST_IMAGES)
    if not chosen:
        raise DataError(f"{run.path} has no validation images, on which the density of its images could be fitted.")
    images = torch.stack([torch.as_tensor(dataset[i]["image"]) for i in chosen])
    return FittedDensities(
        fit_trained(unwrapped(network), images, run.objective()), facts_of(dataset).count_text(len(chosen))
    )


def fit_trained(network: BlurVAE, images: torch.Tensor, objective: TrainedObjective) -> dict[str, Likelihood]:
    """:func:`~monai_blurvae.metrics.fit_likelihoods` of a model, by the objective that it was trained with.

    Args:
        network: the model.
        images: validation images in [−1, 1], ``(N, C, H, W)``.
        objective: of the model.
    """
    return fit_likelihoods(
        network,
        images.to(network.get_buffer("voxel_size").device),
        uses_kernel=objective.has_kernel,
        c=objective.wiener_c,
        weighting=objective.weighting,
    )
