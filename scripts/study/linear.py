"""The exact optimum of a linear VAE with squared error, as a row of the tables and a curve of the figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from monai_blurvae.bundle.measures import images_of
from monai_blurvae.data import read_datalist
from monai_blurvae.files import sha256_of, write_json
from monai_blurvae.metrics.linear import measure_linear_vae
from monai_blurvae.runs import Run
from monai_blurvae.runs.run import SECTIONS
from monai_blurvae.yardstick import LinearModels
from monai_blurvae.yardstick.models import IMAGES
from study.folder import StudyFolder, read_json
from study.plan import LINEAR, Cell

BETAS = tuple(2 ** (k / 2) for k in range(-12, 9))
"""From 1/64 to 16, so close that what is interpolated between them is off by some hundredths of a dB."""

VERSION = 1


def measure_linear(folder: StudyFolder, cell: Cell, split: str, cache_dir: str) -> None:
    """Measure the linear model at each β, on the patches on which the cells are measured.

    Args:
        folder: of the study.
        cell: whose latent size, training patches and measured ones are taken.
        split: ``"validation"`` or ``"test"``.
        cache_dir: of the store.
    """
    run, datalist = Run(folder.cell_dir(cell)), read_datalist(folder.datalist)
    images = images_of(run.dataset(SECTIONS[split], datalist.items(split), cache_dir))
    training = run.dataset("train", datalist.items("training"), cache_dir)
    models = linear_models(run, training, cache_dir)
    plain = models(None)
    print(f"measuring the linear model, fitted on {models.fitted_on}, on the {split}", flush=True)
    content = {
        "key": _key(folder, cell),
        "fitted_on": models.fitted_on,
        "points": [{"beta": beta, **measure_linear_vae(replace(plain, beta=beta), images)} for beta in BETAS],
    }
    write_json(folder.linear_file(split), content)


def linear_models(run: Run, training: Any, cache_dir: str) -> LinearModels:
    """The linear models that the run's own yardstick has.

    Args:
        run: gives the latent size and the number of training images.
        training: its training dataset, or a function that gives it.
        cache_dir: of the store.
    """
    most = int(run.setting("yardstick_images", IMAGES))
    return LinearModels(training, run.latent_size, cache_dir, images=most)


def is_linear_measured(folder: StudyFolder, cell: Cell, split: str) -> bool:
    """Whether the linear model of the cell's latent size was measured."""
    path = folder.linear_file(split)
    return path.is_file() and read_json(path)["key"] == _key(folder, cell)


def linear_cells(folder: StudyFolder, split: str) -> Iterator[dict[str, Any]]:
    """The linear model at each β as cells of a row, none where it was not measured."""
    path = folder.linear_file(split)
    for point in read_json(path)["points"] if path.is_file() else []:
        measures = {key: value for key, value in point.items() if key != "objective"}
        yield {"row": LINEAR.name, "seed": 0, "split": split, **measures}


def _key(folder: StudyFolder, cell: Cell) -> dict[str, Any]:
    latent_size = Run(folder.cell_dir(cell)).latent_size
    return {"datalist": sha256_of(folder.datalist), "latent_size": latent_size, "version": VERSION}
