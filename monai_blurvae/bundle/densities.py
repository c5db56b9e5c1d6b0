"""The density p(x|z) that an evaluation draws images from: Gaussians fitted around the decoder of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from monai_blurvae.data.facts import facts_of
from monai_blurvae.data.order import evenly_spread
from monai_blurvae.errors import DataError, RunFolderError
from monai_blurvae.handlers import FittedDensities
from monai_blurvae.handlers.checkpoint import load_safely, save_whole
from monai_blurvae.metrics.likelihood import Likelihood, SpectrumLikelihood, VarianceLikelihood, fit_likelihoods
from monai_blurvae.networks import LatentImageModel, unwrapped
from monai_blurvae.runs.run import Run, TrainedObjective

MOST_IMAGES = 256
"""Validation images, evenly spread, that the densities are fitted on: each variance is then known to a few per cent,
closer than pictures and spectra show, and a training ends soon after its last epoch. The measures take all images."""

STATIONARY = ("variance", "spectrum")
"""The likelihoods that leave with a model: one variance, and one for each spatial frequency."""


class Densities(NamedTuple):
    """The :data:`STATIONARY` Gaussians that were fitted around a decoder, as a file keeps them.

    Attributes:
        variances: half spectra of float64 by name.
        fitted_on: which images, in words.
    """

    variances: Mapping[str, Tensor]
    fitted_on: str

    @classmethod
    def of(cls, run: Run, network: LatentImageModel, cache_dir: str | Path) -> Densities:
        """Those of a packed bundle, or fitted on the run's own validation images, which runs its config.

        Args:
            run: that the network is of.
            network: in evaluation mode.
            cache_dir: of the store of prepared images.

        Raises:
            DataError: if an image is not there any more, is another one, or there are none.
            RunFolderError: if the run has no data list, or was packed without densities.
        """
        if run.is_packed:
            return cls.read(run, network.image_shape)
        fitted = fit_densities(run, network, run.validation_dataset(cache_dir))
        variance, spectrum = (fitted.likelihoods[name] for name in STATIONARY)
        assert isinstance(variance, VarianceLikelihood)
        assert isinstance(spectrum, SpectrumLikelihood)
        values = spectrum.variance.double().cpu()
        return cls({"variance": values.new_full(values.shape, variance.variance), "spectrum": values}, fitted.fitted_on)

    @classmethod
    def read(cls, run: Run, image_shape: list[int]) -> Densities:
        """Read what :meth:`write` wrote into a packed bundle.

        Args:
            run: the bundle.
            image_shape: (C, *image_size) of the network.

        Raises:
            RunFolderError: if there is no such file, it is broken, or of other images.
        """
        if not run.densities_file.is_file():
            raise RunFolderError(f"{run.name} was packed without densities; pack the run again.")
        content = load_safely(run.densities_file)
        channels, *size = image_shape
        half = (1, channels, *size[:-1], size[-1] // 2 + 1)
        variances = content.get("variances") if isinstance(content, dict) else None
        if not isinstance(variances, dict) or any(
            not isinstance(variances.get(name), Tensor)
            or variances[name].shape != half
            or not bool((variances[name] > 0).all())
            for name in STATIONARY
        ):
            raise RunFolderError(
                f"{run.densities_file} holds no densities of images {image_shape}; pack the run again."
            )
        return cls(variances, str(content.get("fitted_on", "")))

    def write(self, path: Path) -> None:
        """Write a file, whole or not at all.

        Raises:
            RunFolderError: if it cannot be written.
        """
        save_whole({"variances": dict(self.variances), "fitted_on": self.fitted_on}, path)

    def fitted(self, device: str | torch.device) -> FittedDensities:
        """As likelihoods.

        Args:
            device: of the network.
        """
        variance = VarianceLikelihood(float(self.variances["variance"].flatten()[0]))
        spectrum = SpectrumLikelihood(self.variances["spectrum"].to(device))
        return FittedDensities({"variance": variance, "spectrum": spectrum}, self.fitted_on)


def densities_of(run: Run, network: nn.Module, cache_dir: str | Path) -> FittedDensities:
    """The Gaussians around the decoder of a run, fitted on its validation images, or as a packed bundle has them.

    A packed bundle has the :data:`STATIONARY` ones.

    Args:
        run: that the network is of.
        network: its model.
        cache_dir: of the store of prepared images.

    Raises:
        DataError: as of :func:`fit_densities`.
        RunFolderError: if there are none.
    """
    if not run.is_packed:
        return fit_densities(run, network, run.validation_dataset(cache_dir))
    model = unwrapped(network)
    return Densities.read(run, model.image_shape).fitted(model.get_buffer("voxel_size").device)


def fit_densities(run: Run, network: nn.Module, dataset: Any) -> FittedDensities:
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


def fit_trained(network: LatentImageModel, images: torch.Tensor, objective: TrainedObjective) -> dict[str, Likelihood]:
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
