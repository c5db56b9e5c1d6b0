"""Measure trained cells on one split: ``python -m study.measure --folder F --split test CELL …``.

The fitted parts of the likelihoods (a variance, a spectrum) are always fitted on all validation patches. On the
validation split they are therefore fitted on what they are measured on, and slightly too good; they select nothing. On
the test split they are not.

Samples are few, and their MMD moves with them: it is the mean over several sets, with its standard deviation as
``mmd_alexnet_sd``. ``per_patch`` keeps PSNR, SSIM and LPIPS of each patch, volume by volume. ``yardstick`` is the
cell beside the linear VAE, see :func:`~monai_blurvae.yardstick.compare`; ``--linear`` measures that of squared error.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monai_blurvae.bundle.densities import fit_densities
from monai_blurvae.bundle.measures import images_of, no_kernel_of
from monai_blurvae.data import read_datalist
from monai_blurvae.data.facts import facts_of
from monai_blurvae.errors import user_error
from monai_blurvae.files import sha256_of, write_json
from monai_blurvae.functional.radial import radial_power
from monai_blurvae.handlers.draws import ImageDraws
from monai_blurvae.metrics.distances import alexnet_features, polynomial_mmd
from monai_blurvae.metrics.evaluated import Evaluated
from monai_blurvae.metrics.image_quality import to_unit_range
from monai_blurvae.metrics.lpips import lpips_distance
from monai_blurvae.metrics.spectra import POWER_FLOOR
from monai_blurvae.metrics.suite import Measure, measure_model
from monai_blurvae.networks import LatentImageModel
from monai_blurvae.networks.perceptual import default_weights_dir
from monai_blurvae.runs import Run
from monai_blurvae.seeding import torch_rng
from monai_blurvae.yardstick import compare
from study.folder import StudyFolder, read_json
from study.linear import linear_models, measure_linear
from study.paper_measures import psnr_from_z, reconstruction_fid, table_6_bound
from study.pictures import CellPictures, make_pictures, save_pictures
from study.plan import Cell

BATCH_SIZE = 64
SAMPLE_SETS = 8
"""How many sets of samples, each of as many as there are images, the MMD is the mean of."""

VERSION = 5
"""Of what is measured; what an earlier one measured is measured again."""


class Instruments(NamedTuple):
    """What the measures depend on beside the model and the images.

    Attributes:
        weights_dir: of pretrained features, or None for the default.
        importance_samples: of the importance-weighted bound.
        device: for example ``"cpu"``.
        eight_bit: whether the images are 8-bit, so that their likelihoods need dequantisation.
    """

    weights_dir: Path | None
    importance_samples: int
    device: str
    eight_bit: bool = False

    def key(self) -> dict[str, Any]:
        """Changes whenever measuring again gives something else: new weights fill cells that had none."""
        files = sorted((self.weights_dir or default_weights_dir()).glob("*.pt*"))
        weights = [[file.name, file.stat().st_size] for file in files]
        settings = {"importance_samples": self.importance_samples, "eight_bit": self.eight_bit}
        return {**settings, "weights": weights, "version": VERSION}


def is_measured(folder: StudyFolder, cell: Cell, split: str, instruments: Instruments) -> bool:
    """Whether the cell's model, as it is now, was measured with these instruments."""
    path = folder.measure_file(cell, split)
    if not path.is_file() or not folder.model_file(cell).is_file():
        return False
    content = read_json(path)
    return "failed" not in content and content["key"] == _key(folder, cell, instruments)


def measure_cells(
    folder: StudyFolder, cells: Sequence[Cell], split: str, cache_dir: str, instruments: Instruments
) -> None:
    """Measure cells and write a file for each; one that fails is noted, with its traceback in the log.

    Args:
        folder: of the study.
        cells: trained ones.
        split: ``"validation"`` or ``"test"``.
        cache_dir: of the store.
        instruments: see :class:`Instruments`.
    """
    datalist = read_datalist(folder.datalist)
    for cell in cells:
        key = _key(folder, cell, instruments)
        try:
            run = Run(folder.cell_dir(cell))
            fitted_on = run.dataset("validate", datalist.items("validation"), cache_dir)
            dataset = fitted_on if split == "validation" else run.dataset("test", datalist.items(split), cache_dir)
            print(f"measuring {cell.name} on {facts_of(dataset).count_text(len(dataset))} of the {split}", flush=True)
            training = partial(run.dataset, "train", datalist.items("training"), cache_dir)
            network = run.network(instruments.device)
            evaluated = Evaluated.of(
                network,
                images_of(dataset),
                instruments.device,
                samples=instruments.importance_samples,
                eight_bit=instruments.eight_bit,
                fit=partial(
                    fit_densities, run, network, cache_dir, fitted_on, len(fitted_on), eight_bit=instruments.eight_bit
                ),
            )
            measured, pictures = _measure(run, network, evaluated, instruments)
            yardstick = _yardstick(run, evaluated, training, cache_dir)
            save_pictures(pictures, folder.picture_file(cell, split))
            content = {"key": key, **measured, "yardstick": yardstick}
        except Exception as error:  # one cell takes no other along
            traceback.print_exc()
            shown = user_error(error) or error
            content = {"key": key, "failed": f"{shown}" or type(error).__name__}
        write_json(folder.measure_file(cell, split), {"cell": cell.name, **content})


def mean_spectrum(images: Tensor) -> list[float]:
    """log₁₀ of the mean radial power of images, windowed, for r = 1, 2, … cycles per patch."""
    return radial_power(images.double()).mean((0, 1)).clamp_min(POWER_FLOOR).log10().tolist()


def _key(folder: StudyFolder, cell: Cell, instruments: Instruments) -> dict[str, Any]:
    return {"model": sha256_of(folder.model_file(cell)), **instruments.key()}


def _measure(
    run: Run, network: LatentImageModel, evaluated: Evaluated, instruments: Instruments
) -> tuple[dict[str, Any], CellPictures]:
    images, reconstructions, objective = evaluated.images, evaluated.reconstructions, run.objective()
    weights_dir, device = instruments.weights_dir, instruments.device
    measures = measure_model(
        evaluated, no_kernel=no_kernel_of(objective), weights_dir=weights_dir, c=objective.wiener_c
    )
    on_device = images.to(device)
    with torch.no_grad():
        measures["psnr_z"] = psnr_from_z(network, on_device)
        measures["nll_table6"] = table_6_bound(network, on_device, objective)
    if measures["mmd_alexnet"].value is not None:
        measures |= _sampled_mmd(network, images, weights_dir, device)
    measures["fid_reconstruction"] = measures["fid_2048"]  # the same reason where there is none
    if measures["fid_2048"].value is not None:
        measures["fid_reconstruction"] = reconstruction_fid(reconstructions.to(device), on_device, weights_dir)
    with_lpips = measures["lpips"].value is not None
    content = {
        "patches": len(images),
        "measures": {name: _plain(measure, weights_dir or default_weights_dir()) for name, measure in measures.items()},
        "spectra": _spectra(network, evaluated),
        "per_patch": _per_patch(evaluated, weights_dir, with_lpips),
    }
    return content, make_pictures(network, images, reconstructions, run.setting("quarter_turns", 0))


def _yardstick(run: Run, evaluated: Evaluated, training: Callable[[], Any], cache_dir: str) -> dict[str, Any]:
    """The cell beside the linear VAE of its own objective, or at its rate; or why they were not compared."""
    try:
        models = linear_models(run, training, cache_dir)
        return compare(evaluated, run.closed_form_objective(), models)
    except Exception as error:  # it stands beside the measures, and takes none along
        traceback.print_exc()
        return {"problem": f"{user_error(error) or error}" or type(error).__name__}


def _plain(measure: Measure, weights_dir: Path) -> dict[str, Any]:
    """For JSON; tables are passed on, and name no folder of this computer."""
    return {"value": measure.value, "reason": measure.reason.replace(str(weights_dir), "weights_dir")}


@torch.no_grad()
def _spectra(network: LatentImageModel, evaluated: Evaluated) -> dict[str, list[float]]:
    """Of images, of the means of reconstructions and samples, and of images drawn around each from each density."""
    draws, device = ImageDraws(evaluated.densities, seed=0), evaluated.device
    samples, sampled = draws.samples(network, len(evaluated.images), "spectra")
    spectra = {"images": evaluated.images, "reconstruction": evaluated.reconstructions, "sample": samples.cpu()}
    batches = zip(evaluated.reconstructions.split(BATCH_SIZE), evaluated.mu.split(BATCH_SIZE), strict=True)
    drawn = [draws.around(means.to(device), mu.to(device)) for means, mu in batches]
    for name in sampled:
        spectra[f"reconstruction_draw_{name}"] = torch.cat([batch[name].cpu() for batch in drawn])
        spectra[f"sample_draw_{name}"] = sampled[name].cpu()
    return {name: mean_spectrum(value) for name, value in spectra.items()}


@torch.no_grad()
def _sampled_mmd(
    network: LatentImageModel, images: Tensor, weights_dir: Path | None, device: str
) -> dict[str, Measure]:
    """MMD² of samples and its standard deviation, over :data:`SAMPLE_SETS` sets of them."""
    real = alexnet_features(images.to(device), weights_dir)
    sets = (network.sample(len(images), torch_rng(i, "MMD")) for i in range(SAMPLE_SETS))
    values = [polynomial_mmd(alexnet_features(samples, weights_dir), real).value for samples in sets]
    return {"mmd_alexnet": Measure(fmean(values)), "mmd_alexnet_sd": Measure(stdev(values))}


@torch.no_grad()
def _per_patch(evaluated: Evaluated, weights_dir: Path | None, with_lpips: bool) -> dict[str, list[float]]:
    """PSNR, SSIM and, where it is measured, LPIPS of each patch."""
    values = dict(evaluated.quality)
    if with_lpips:
        pair = (to_unit_range(x).split(BATCH_SIZE) for x in (evaluated.reconstructions, evaluated.images))
        batches = zip(*pair, strict=True)
        values["lpips"] = torch.cat([lpips_distance(x, y, net="alex", weights_dir=weights_dir) for x, y in batches])
    return {name: [round(v, 6) for v in value.flatten().tolist()] for name, value in values.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--split", choices=("validation", "test"), required=True)
    parser.add_argument("--cache_dir", required=True)
    parser.add_argument("--weights_dir", type=Path)
    parser.add_argument("--importance_samples", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--linear", action="store_true", help="measure the linear model of the first cell's latent size"
    )
    parser.add_argument("--eight_bit", type=json.loads, default=False)
    parser.add_argument("cells", nargs="+")
    options = parser.parse_args(arguments)
    folder = StudyFolder(options.folder)
    wanted = [cell for cell in folder.finished() if cell.name in options.cells]
    if options.linear:
        measure_linear(folder, wanted[0], options.split, options.cache_dir)
        return 0
    instruments = Instruments(options.weights_dir, options.importance_samples, options.device, options.eight_bit)
    measure_cells(folder, wanted, options.split, options.cache_dir, instruments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
