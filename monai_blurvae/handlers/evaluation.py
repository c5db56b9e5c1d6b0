"""Tables, pictures and the record of an evaluation."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import Tensor, nn

from monai_blurvae.data.facts import DatasetFacts, facts_of
from monai_blurvae.files import FilePath, make_folder, resolved, write_text
from monai_blurvae.functional import kl_standard_normal, radial_power
from monai_blurvae.handlers.draws import ImageDraws, outside
from monai_blurvae.handlers.evaluation_record import EvaluationRecord, Numbers, Pixels
from monai_blurvae.handlers.pictures import reconstruction_figure, sample_figure, save_figure, section
from monai_blurvae.metrics import to_unit_range
from monai_blurvae.metrics.evaluated import AT_ONCE, Evaluated
from monai_blurvae.metrics.likelihood import Densities
from monai_blurvae.metrics.measures import MEASURES, PER_IMAGE
from monai_blurvae.run_files import EVALUATION_NPZ, METRICS_CSV, METRICS_MD, RECONSTRUCTIONS, SAMPLES

logger = logging.getLogger(__name__)

SPECTRUM_SAMPLES = 64
"""Samples whose spectra are averaged: of one sample the power in an annulus of n frequencies scatters by about n^-½."""
SAMPLES_AT_ONCE = 8
PLACES = {2: ("slice", "row", "column"), 3: ("x", "y", "z")}
"""Columns with the position of a patch, by its number of dimensions."""
SECTIONS = "the coronal section through the middle"


def mean_and_std_text(mean: float, std: float) -> str:
    """``"472.2 ± 240"``: four digits of the mean and two of the standard deviation, seldom with exponents."""
    return f"{mean:.4g} ± {float(f'{std:.2g}'):g}"


class _Example(NamedTuple):
    """One image of the picture, in [0, 1], with its reconstruction, kernel, draws and line of the table."""

    image: Tensor
    reconstruction: Tensor
    kernel: Tensor
    draws: Mapping[str, Tensor]
    row: Mapping[str, Any]


class _Shown(NamedTuple):
    """What the pictures show, in [0, 1]; draws are clipped to it."""

    images: Tensor
    reconstructions: Tensor
    kernels: Tensor
    samples: Tensor
    reconstruction_draws: Mapping[str, Tensor]
    sample_draws: Mapping[str, Tensor]


class _RunningMeans:
    """Means over images, of which none is kept."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take the values of a batch, with the batch first."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.cpu().double().sum(0)
        self._count += len(next(iter(values.values())))

    def __getitem__(self, name: str) -> Numbers:
        mean: Numbers = (self._sums[name] / self._count).numpy()
        return mean


class EvaluationReportHandler:
    """Write ``metrics.csv`` (a line for each image), ``metrics.md`` (mean ± std), two pictures and ``evaluation.npz``.

    The latter holds what a report draws, see :class:`~monai_blurvae.handlers.evaluation_record.EvaluationRecord`; the
    pictures are ``reconstructions.png`` and ``samples.png``. Both show the decoder's means and, with ``densities``,
    images drawn from p(x|z) around them, which pictures clip to the range of images; of cubes they show the middle
    :func:`~monai_blurvae.handlers.pictures.section`. A batch with ``position`` holds
    patches of subjects, one without it images whose names are under ``subject``; images without a name are numbered.

    Args:
        folder: where to write, or a function that gives the folder when the evaluation is completed.
        network: draws the samples and gives the voxel size of the training; it may be wrapped in
            ``DistributedDataParallel``.
        dataset: what is evaluated, whose :func:`~monai_blurvae.data.facts.facts_of` every table and picture tells;
            None for the dataset of the engine's loader.
        title: what was evaluated.
        count: images in the picture, spread over the images evaluated.
        seed: of the samples in the picture.
        quarter_turns: rotation of the pictures, see :func:`~monai_blurvae.handlers.reconstruction_figure`.
        densities: fits what images are drawn from, called once; None for no draws. Those of the measures come first.
            Where a file that it needs is missing, there are none either, and the record says why. With it the table
            has, under each density, the evidence lower bound of log p of each image, ``elbo_variance`` and so on.
    """

    def __init__(
        self,
        folder: FilePath,
        network: nn.Module,
        dataset: Any = None,
        title: str = "test",
        count: int = 8,
        seed: int = 0,
        quarter_turns: int = 0,
        densities: Callable[[], Densities] | None = None,
    ) -> None:
        self.folder = folder
        self.network: Any = getattr(network, "module", network)  # of DistributedDataParallel
        self.dataset = dataset
        self.title = title
        self.count = count
        self.seed = seed
        self.quarter_turns = quarter_turns
        self.densities = densities

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluation engine."""
        self._evaluated = Evaluated.of_engine(engine)
        self._evaluated.fit = self._evaluated.fit or self.densities
        engine.add_event_handler(Events.STARTED, self._reset)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._place)  # before anything is decollated
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _reset(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._examples: list[_Example] = []
        self._means = _RunningMeans()

    def _place(self, engine: Engine) -> None:
        self._rows += places_of(engine.state.batch, len(engine.state.output[CommonKeys.IMAGE]), len(self._rows))

    @torch.no_grad()
    def _summarise(self) -> None:
        """Fill the table, choose the examples, and take means over what is drawn around all reconstructions."""
        evaluated = self._evaluated
        self._draws = ImageDraws(evaluated.densities, self.seed)
        bounds = evaluated.bounds if evaluated.densities.likelihoods else {}
        values = {
            **evaluated.quality,
            "kl": evaluated.kl,
            "kernel_width": evaluated.kernel_widths,
            **{f"elbo_{name}": bound.elbo for name, bound in bounds.items()},
        }
        for i, row in enumerate(self._rows):
            row |= {name: float(value[i]) for name, value in values.items()}
        step = max(1, len(self._rows) // self.count)
        shown = range(0, len(self._rows), step)[: self.count]
        for first in range(0, len(self._rows), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            images, means, kernels = evaluated.images[part], evaluated.reconstructions[part], evaluated.kernels[part]
            around = means.to(evaluated.device), evaluated.mu[part].to(evaluated.device)
            drawn = {name: x.cpu() for name, x in self._draws.around(*around).items()}
            means_of = _averaged(images, means, evaluated.mu[part], evaluated.log_var[part], kernels)
            self._means.add(means_of | _averaged_draws(drawn))
            for i in [i for i in shown if first <= i < first + len(images)]:
                here = i - first
                self._examples.append(
                    _Example(
                        to_unit_range(section(images)[here]),
                        to_unit_range(section(means)[here]),
                        section(kernels)[here],
                        {name: to_unit_range(section(x)[here]) for name, x in drawn.items()},
                        self._rows[i],
                    )
                )

    def _write(self, engine: Engine) -> None:
        self._summarise()
        folder = make_folder(resolved(self.folder))
        facts = facts_of(engine.state.dataloader.dataset if self.dataset is None else self.dataset)
        shown = self._shown()
        about = self._about(facts, engine.state.metrics.get("active_units"))
        record = self._record(about, shown)
        write_text(folder / METRICS_CSV, csv_text(self._rows))
        write_text(folder / METRICS_MD, self._markdown(about))
        save_figure(self._figure(shown, about["title"]), folder / RECONSTRUCTIONS)
        save_figure(self._sample_figure(shown, about["title"]), folder / SAMPLES)
        record.write(folder / EVALUATION_NPZ)
        logger.info(f"{self.title}: {self.summary()}; tables and picture in {folder}")

    def summary(self) -> str:
        """PSNR and SSIM in one line."""
        psnr, ssim = (self._mean_and_std(name) for name in ("psnr", "ssim"))
        return f"PSNR {psnr[0]:.2f} ± {psnr[1]:.2f} dB, SSIM {ssim[0]:.4f} ± {ssim[1]:.4f}"

    def _mean_and_std(self, name: str) -> tuple[float, float]:
        values = [row[name] for row in self._rows]
        return fmean(values), stdev(values) if len(values) > 1 else 0.0

    def _markdown(self, about: Mapping[str, Any]) -> str:
        lines = [f"# {about['title']}", "", f"{about['evaluated_on']}.", ""]
        lines += ["| measure | mean ± std |", "|---|---|"]
        for name in PER_IMAGE:
            lines.append(f"| {MEASURES[name].label} | {mean_and_std_text(*self._mean_and_std(name))} |")
        if about["active_units"] is not None:
            lines.append(f"| {MEASURES['active_units'].name} | {about['active_units']} of {about['latent_size']} |")
        if all(about["training_voxel_size"]):
            width = self._mean_and_std("kernel_width")[0] * fmean(about["training_voxel_size"])
            lines.append(f"| {MEASURES['kernel_width'].name} (mm) | {width:.3g} |")
        lines += [
            "",
            "Images in [0, 1]; SSIM with an 11×11 Gaussian window, σ = 1.5; reconstructed from the posterior mean.",
        ]
        return "\n".join(lines) + "\n"

    def _figure(self, shown: _Shown, title: str) -> Pixels:
        title = f"{title}: {self.summary()}"
        return reconstruction_figure(
            shown.images,
            shown.reconstructions,
            shown.kernels,
            shown.samples,
            title,
            self.quarter_turns,
            shown.reconstruction_draws,
        )

    def _sample_figure(self, shown: _Shown, title: str) -> Pixels:
        return sample_figure(shown.images, shown.samples, shown.sample_draws, title, self.quarter_turns)

    def _shown(self) -> _Shown:
        examples, purpose = self._examples, "pictures"
        self.network.eval()
        samples, drawn = self._draws.samples(self.network, len(examples), purpose)
        return _Shown(
            images=torch.stack([example.image for example in examples]),
            reconstructions=torch.stack([example.reconstruction for example in examples]),
            kernels=torch.stack([example.kernel for example in examples]),
            samples=to_unit_range(section(samples)).cpu(),
            reconstruction_draws={name: torch.stack([e.draws[name] for e in examples]) for name in drawn},
            sample_draws={name: to_unit_range(section(images)).cpu() for name, images in drawn.items()},
        )

    def _record(self, about: Mapping[str, Any], shown: _Shown) -> EvaluationRecord:
        power, names = self._means["image_power"], about["draws"]["likelihoods"]
        sample_power, sample_draw_power = self._sample_powers(names)
        return EvaluationRecord(
            images=_pixels(shown.images),
            reconstructions=_pixels(shown.reconstructions),
            samples=_pixels(shown.samples),
            kernels=shown.kernels[:, 0].double().numpy(),
            mean_kernel=self._means["kernel"],
            frequencies=np.arange(1, len(power) + 1) / min(shown.images.shape[2:]),
            image_power=power,
            reconstruction_power=self._means["reconstruction_power"],
            sample_power=sample_power,
            reconstruction_draws=_stacked_pixels(shown.reconstruction_draws, shown.images),
            sample_draws=_stacked_pixels(shown.sample_draws, shown.images),
            reconstruction_draw_power=_stacked([self._means[_draw_power(name)] for name in names], power),
            sample_draw_power=_stacked(sample_draw_power, power),
            unit_kl=self._means["unit_kl"],
            about=about,
        )

    def _sample_powers(self, names: Sequence[str]) -> tuple[Numbers, list[Numbers]]:
        """Of the means of samples, and of images drawn around them from each density."""
        means = _RunningMeans()
        self.network.eval()
        for i in range(SPECTRUM_SAMPLES // SAMPLES_AT_ONCE):
            purpose = "spectrum", str(i)
            samples, drawn = self._draws.samples(self.network, SAMPLES_AT_ONCE, *purpose)
            means.add({"power": _power(samples), **{name: _power(images) for name, images in drawn.items()}})
        return means["power"], [means[name] for name in names]

    def _about(self, facts: DatasetFacts, active_units: int | None) -> dict[str, Any]:
        count, are_patches = len(self._rows), "subject" in self._rows[0]
        shown = f", shown by {SECTIONS}" if "x" in self._rows[0] else ""
        names = {name: self._mean_and_std(name) for name in PER_IMAGE}
        return {
            "title": ", ".join(filter(None, (self.title, facts.remark))),
            "remark": facts.remark,
            "evaluated_on": facts.count_text(count) + shown,
            "images": count,
            "subjects": len({row["subject"] for row in self._rows}) if are_patches else None,
            "metrics": {name: {"mean": mean, "std": std} for name, (mean, std) in names.items()},
            "active_units": None if active_units is None else int(active_units),
            "latent_size": self.network.latent_size,
            "training_voxel_size": [float(v) for v in self.network.get_buffer("voxel_size")],
            "voxel_size": np.median(facts.voxel_sizes, axis=0).tolist() if facts.voxel_sizes else None,
            "quarter_turns": self.quarter_turns,
            "examples": [dict(example.row) for example in self._examples],
            "draws": self._about_draws(),
        }

    def _about_draws(self) -> dict[str, Any]:
        densities = self._draws.densities
        return {
            "likelihoods": list(densities.likelihoods),
            "outside": {name: float(self._means[_draw_outside(name)]) for name in densities.likelihoods},
            "fitted_on": densities.fitted_on,
            "missing": densities.missing,
        }


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows as CSV, floats with six digits; the columns are those of the first row, unless they are named."""
    table = io.StringIO()
    writer = csv.DictWriter(table, columns or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()} for row in rows
    )
    return table.getvalue()


def places_of(batch: Mapping[str, Any], count: int, before: int) -> list[dict[str, Any]]:
    """Where each image of a batch is from, the first columns of the table; ``before`` images came before."""
    names = batch.get("subject", [str(before + i) for i in range(count)])
    if "position" not in batch:
        return [{"image": name} for name in names]
    axes = PLACES[batch[CommonKeys.IMAGE].ndim - 2]
    columns = dict(zip(axes, batch["position"], strict=True))
    return [
        {"subject": name, **{axis: int(places[i]) for axis, places in columns.items()}} for i, name in enumerate(names)
    ]


def _averaged(images: Tensor, means: Tensor, mu: Tensor, log_var: Tensor, kernels: Tensor) -> dict[str, Tensor]:
    """What is averaged over the images, with the batch first."""
    mu, log_var = mu.double(), log_var.double()
    return {
        "image_power": _power(images),
        "reconstruction_power": _power(means),
        "unit_kl": kl_standard_normal(mu.reshape(-1, 1), log_var.reshape(-1, 1)).view_as(mu),
        "kernel": kernels[:, 0],
    }


def _draw_power(name: str) -> str:
    return f"power of draws, {name}"


def _draw_outside(name: str) -> str:
    return f"share of draws outside, {name}"


def _averaged_draws(drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is averaged over the drawn images, with the batch first."""
    powers = {_draw_power(name): _power(images) for name, images in drawn.items()}
    return powers | {_draw_outside(name): outside(images) for name, images in drawn.items()}


def _stacked(rows: Sequence[Numbers], like: Numbers) -> Numbers:
    """One row under another, also none."""
    return np.stack(rows) if rows else np.empty((0, *like.shape))


def _stacked_pixels(draws: Mapping[str, Tensor], like: Tensor) -> Pixels:
    return _pixels(torch.stack(list(draws.values())) if draws else torch.empty(0, *like.shape))


def _power(images: Tensor) -> Tensor:
    """Mean over the channels of the radial power, ``(B, R)``."""
    return radial_power(images.float()).mean(1)


def _pixels(images: Tensor) -> Pixels:
    """Images in [0, 1] as 8-bit ones of the same shape."""
    pixels: Pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return pixels
