"""Tables, a picture and the record of an evaluation."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import Tensor, nn

from monai_blurvae.data.facts import DatasetFacts, facts_of
from monai_blurvae.engines import BlurVAEKeys
from monai_blurvae.files import make_folder, write_text
from monai_blurvae.functional import kernel_width, kl_standard_normal, radial_power
from monai_blurvae.handlers.evaluation_record import EvaluationRecord, Numbers, Pixels
from monai_blurvae.handlers.pictures import reconstruction_figure, save_figure
from monai_blurvae.metrics import CappedPSNRMetric, image_pair, make_ssim_metric, to_unit_range
from monai_blurvae.metrics.measures import MEASURES, PER_IMAGE
from monai_blurvae.run_files import EVALUATION_NPZ, METRICS_CSV, METRICS_MD, RECONSTRUCTIONS
from monai_blurvae.seeding import torch_rng

logger = logging.getLogger(__name__)

SPECTRUM_SAMPLES = 64
"""Samples whose spectra are averaged: of one sample the power in an annulus of n frequencies scatters by about n^-½."""
SAMPLES_AT_ONCE = 8


def mean_and_std_text(mean: float, std: float) -> str:
    """``"472.2 ± 240"``: four digits of the mean and two of the standard deviation, seldom with exponents."""
    return f"{mean:.4g} ± {float(f'{std:.2g}'):g}"


class _Example(NamedTuple):
    """One image of the picture, in [0, 1], with its reconstruction, kernel and line of the table."""

    image: Tensor
    reconstruction: Tensor
    kernel: Tensor
    row: Mapping[str, Any]


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
    """Write ``metrics.csv`` (a line for each image), ``metrics.md`` (mean ± std), a picture and ``evaluation.npz``.

    The latter holds what a report draws, see :class:`~monai_blurvae.handlers.evaluation_record.EvaluationRecord`; the
    picture is ``reconstructions.png``. A batch with ``position`` holds patches of subjects, one without it images whose
    names are under ``subject``; images without a name are numbered.

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
    """

    def __init__(
        self,
        folder: str | Path | Callable[[], Path],
        network: nn.Module,
        dataset: Any = None,
        title: str = "test",
        count: int = 8,
        seed: int = 0,
        quarter_turns: int = 0,
    ) -> None:
        self.folder = folder
        self.network: Any = getattr(network, "module", network)  # of DistributedDataParallel
        self.dataset = dataset
        self.title = title
        self.count = count
        self.seed = seed
        self.quarter_turns = quarter_turns
        self._reset()

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluation engine."""
        engine.add_event_handler(Events.STARTED, self._reset)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._collect)  # before anything is decollated
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _reset(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._examples: list[_Example] = []
        self._means = _RunningMeans()

    def _collect(self, engine: Engine) -> None:
        batch, output = engine.state.batch, engine.state.output
        pair = image_pair(output)
        values = {
            "psnr": CappedPSNRMetric()(*pair).flatten(),
            "ssim": make_ssim_metric()(*pair).flatten(),
            "kl": output[BlurVAEKeys.KL],
            "kernel_width": kernel_width(output[BlurVAEKeys.KERNEL]),
        }
        step = max(1, len(engine.state.dataloader.dataset) // self.count)
        for i, place in enumerate(_places(batch, len(pair[0]), len(self._rows))):
            row = place | {name: float(value[i]) for name, value in values.items()}
            if len(self._rows) % step == 0 and len(self._examples) < self.count:
                kernel = output[BlurVAEKeys.KERNEL][i]
                self._examples.append(_Example(pair[1][i].cpu(), pair[0][i].cpu(), kernel.cpu(), row))
            self._rows.append(row)
        self._means.add(_averaged(output))

    def _write(self, engine: Engine) -> None:
        folder = make_folder(self.folder() if callable(self.folder) else Path(self.folder).expanduser())
        facts = facts_of(engine.state.dataloader.dataset if self.dataset is None else self.dataset)
        samples = self._samples()
        record = self._record(self._about(facts, engine.state.metrics.get("active_units")), samples)
        write_text(folder / METRICS_CSV, self._table())
        write_text(folder / METRICS_MD, self._markdown(record.about))
        save_figure(self._figure(samples, record.about["title"]), folder / RECONSTRUCTIONS)
        record.write(folder / EVALUATION_NPZ)
        logger.info(f"{self.title}: {self.summary()}; tables and picture in {folder}")

    def summary(self) -> str:
        """PSNR and SSIM in one line."""
        psnr, ssim = (self._mean_and_std(name) for name in ("psnr", "ssim"))
        return f"PSNR {psnr[0]:.2f} ± {psnr[1]:.2f} dB, SSIM {ssim[0]:.4f} ± {ssim[1]:.4f}"

    def _mean_and_std(self, name: str) -> tuple[float, float]:
        values = [row[name] for row in self._rows]
        return fmean(values), stdev(values) if len(values) > 1 else 0.0

    def _table(self) -> str:
        table = io.StringIO()
        writer = csv.DictWriter(table, list(self._rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
            for row in self._rows
        )
        return table.getvalue()

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

    def _figure(self, samples: Tensor, title: str) -> Pixels:
        images, reconstructions, kernels = self._stacked_examples()
        title = f"{title}: {self.summary()}"
        return reconstruction_figure(images, reconstructions, kernels, samples, title, self.quarter_turns)

    def _stacked_examples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images, reconstructions and kernels."""
        images, reconstructions, kernels, _ = zip(*self._examples, strict=True)
        return torch.stack(images), torch.stack(reconstructions), torch.stack(kernels)

    def _samples(self) -> Tensor:
        """As many as there are examples, in [0, 1]."""
        self.network.eval()
        return to_unit_range(self.network.sample(len(self._examples), torch_rng(self.seed, "pictures"))).cpu()

    def _record(self, about: Mapping[str, Any], samples: Tensor) -> EvaluationRecord:
        images, reconstructions, kernels = self._stacked_examples()
        power = self._means["image_power"]
        return EvaluationRecord(
            images=_pixels(images),
            reconstructions=_pixels(reconstructions),
            samples=_pixels(samples),
            kernels=kernels[:, 0].double().numpy(),
            mean_kernel=self._means["kernel"],
            frequencies=np.arange(1, len(power) + 1) / min(images.shape[2:]),
            image_power=power,
            reconstruction_power=self._means["reconstruction_power"],
            sample_power=self._sample_power(),
            unit_kl=self._means["unit_kl"],
            about=about,
        )

    def _sample_power(self) -> Numbers:
        generator, means = torch_rng(self.seed, "spectrum"), _RunningMeans()
        self.network.eval()
        for _ in range(SPECTRUM_SAMPLES // SAMPLES_AT_ONCE):
            means.add({"power": _power(self.network.sample(SAMPLES_AT_ONCE, generator))})
        return means["power"]

    def _about(self, facts: DatasetFacts, active_units: int | None) -> dict[str, Any]:
        count, are_patches = len(self._rows), "slice" in self._rows[0]
        names = {name: self._mean_and_std(name) for name in PER_IMAGE}
        return {
            "title": ", ".join(filter(None, (self.title, facts.remark))),
            "remark": facts.remark,
            "evaluated_on": facts.count_text(count),
            "images": count,
            "subjects": len({row["subject"] for row in self._rows}) if are_patches else None,
            "metrics": {name: {"mean": mean, "std": std} for name, (mean, std) in names.items()},
            "active_units": None if active_units is None else int(active_units),
            "latent_size": self.network.latent_size,
            "training_voxel_size": [float(v) for v in self.network.get_buffer("voxel_size")],
            "voxel_size": np.median(facts.voxel_sizes, axis=0).tolist() if facts.voxel_sizes else None,
            "quarter_turns": self.quarter_turns,
            "examples": [dict(example.row) for example in self._examples],
        }


def _places(batch: Mapping[str, Any], count: int, before: int) -> list[dict[str, Any]]:
    """Where each image of a batch is from, the first columns of the table; ``before`` images came before."""
    names = batch.get("subject", [str(before + i) for i in range(count)])
    if "position" not in batch:
        return [{"image": name} for name in names]
    slices, rows, columns = batch["position"]
    return [
        {"subject": name, "slice": int(slices[i]), "row": int(rows[i]), "column": int(columns[i])}
        for i, name in enumerate(names)
    ]


def _averaged(output: Mapping[str, Any]) -> dict[str, Tensor]:
    """What is averaged over the images, with the batch first."""
    mu, log_var = (output[key].cpu().double() for key in (BlurVAEKeys.MU, BlurVAEKeys.LOG_VAR))
    return {
        "image_power": _power(output[CommonKeys.IMAGE]),
        "reconstruction_power": _power(output[CommonKeys.PRED]),
        "unit_kl": kl_standard_normal(mu.reshape(-1, 1), log_var.reshape(-1, 1)).view_as(mu),
        "kernel": output[BlurVAEKeys.KERNEL][:, 0],
    }


def _power(images: Tensor) -> Tensor:
    """Mean over the channels of the radial power, ``(B, R)``."""
    return radial_power(images.float()).mean(1)


def _pixels(images: Tensor) -> Pixels:
    """Images in [0, 1] as 8-bit ones of the same shape."""
    pixels: Pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return pixels
