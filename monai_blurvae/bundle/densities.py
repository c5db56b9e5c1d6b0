"""The density p(x|z) that an evaluation draws images from: Gaussians fitted around the decoder of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_blurvae.data.facts import evenly_spread, facts_of
from monai_blurvae.errors import DataError, RunFolderError
from monai_blurvae.handlers.checkpoint import load_safely, save_whole
from monai_blurvae.metrics.likelihood import (
    Densities,
    SpectrumLikelihood,
    VarianceLikelihood,
    dequantize,
    fit_likelihoods,
)
from monai_blurvae.networks import LatentImageModel, unwrapped
from monai_blurvae.runs import Run

MOST_IMAGES = 256
"""Validation images, evenly spread, that the densities are fitted on: each variance is then known to a few per cent,
closer than pictures and spectra show, and a training ends soon after its last epoch. The measures take all images."""


def fit_densities(
    run: Run,
    network: nn.Module,
    cache_dir: str | Path,
    dataset: Any = None,
    most: int = MOST_IMAGES,
    eight_bit: bool = False,
    seed: int = 0,
) -> Densities:
    """The Gaussians of :func:`~monai_blurvae.metrics.fit_likelihoods` around the decoder of a run.

    A packed bundle has one variance, and one for each spatial frequency, as they were fitted when it was packed.

    Args:
        run: whose objective says whether there is a kernel worth the name, and its C.
        network: the run's model, which may be wrapped in ``DistributedDataParallel``.
        cache_dir: of the store of prepared images.
        dataset: validation images, None for the run's own, which runs its config.
        most: images that are taken of them, evenly spread.
        eight_bit: whether they are 8-bit, so that they are dequantised.
        seed: of latents and dequantisation.

    Raises:
        DataError: if an image is not there any more, is another one, or there are none.
        RunFolderError: if there is no such run, it has no data list, or it was packed without densities.
    """
    model: LatentImageModel = unwrapped(network)
    device = model.get_buffer("voxel_size").device
    if dataset is None and run.is_packed:
        return _packed_densities(run, model.image_shape, device)
    dataset = run.validation_dataset(cache_dir) if dataset is None else dataset
    chosen = evenly_spread(len(dataset), most)
    if not chosen:
        raise DataError(f"{run.path} has no validation images, on which the density of its images could be fitted.")
    images = torch.stack([torch.as_tensor(dataset[i]["image"]) for i in chosen]).to(device)
    images = dequantize(images, seed) if eight_bit else images
    objective = run.objective()
    fitted = fit_likelihoods(
        model, images, uses_kernel=objective.has_kernel, c=objective.wiener_c, weighting=objective.weighting, seed=seed
    )
    return Densities(fitted, facts_of(dataset).count_text(len(chosen)))


def write_densities(densities: Densities, path: Path) -> None:
    """Write what a packed bundle keeps of densities, whole or not at all.

    Raises:
        RunFolderError: if it cannot be written.
    """
    save_whole({"variances": densities.variances, "fitted_on": densities.fitted_on}, path)


def _packed_densities(run: Run, image_shape: list[int], device: torch.device) -> Densities:
    """Read what :func:`write_densities` wrote into a packed bundle."""
    if not run.densities_file.is_file():
        raise RunFolderError(f"{run.name} was packed without densities; pack the run again.")
    content = load_safely(run.densities_file)
    channels, *size = image_shape
    half = (1, channels, *size[:-1], size[-1] // 2 + 1)
    variances = content.get("variances") if isinstance(content, dict) else None
    kept = [variances.get(name) for name in ("variance", "spectrum")] if isinstance(variances, dict) else []
    found = [value for value in kept if isinstance(value, Tensor) and value.shape == half and bool((value > 0).all())]
    if len(found) < 2:
        raise RunFolderError(f"{run.densities_file} holds no densities of images {image_shape}; pack the run again.")
    variance, spectrum = VarianceLikelihood(float(found[0].flatten()[0])), SpectrumLikelihood(found[1].to(device))
    return Densities({"variance": variance, "spectrum": spectrum}, str(content.get("fitted_on", "")))
