"""Tables and a picture of an evaluation."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys

from monai_blurvae.engines import BlurVAEKeys
from monai_blurvae.files import make_folder, write_text
from monai_blurvae.functional import kernel_width
from monai_blurvae.handlers.pictures import reconstruction_figure, save_figure
from monai_blurvae.metrics import CappedPSNRMetric, image_pair, make_ssim_metric, to_unit_range
from monai_blurvae.networks import BlurVAE
from monai_blurvae.seeding import torch_rng

logger = logging.getLogger(__name__)

COLUMNS = ("subject", "slice", "row", "column", "psnr", "ssim", "kl", "kernel_width")
MEASURES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "kl": "KL (nats)",
    "kernel_width": "kernel width (pixels)",
}


class EvaluationReportHandler:
    """Write ``metrics.csv`` (a line for each image), ``metrics.md`` (mean ± std) and ``reconstructions.png``.

    Args:
        folder: gives the folder when the evaluation is completed.
        network: draws the samples and gives the voxel size.
        title: what was evaluated.
        synthetic: whether the images are synthetic, which table and picture then say.
        count: images in the picture, spread over the images evaluated.
        seed: of the samples in the picture.
        quarter_turns: rotation of the pictures, see :func:`~monai_blurvae.handlers.reconstruction_figure`.
    """

    def __init__(
        self,
        folder: Callable[[], Path],
        network: BlurVAE,
        title: str = "test",
        synthetic: bool = False,
        count: int = 8,
        seed: int = 0,
        quarter_turns: int = 0,
    ) -> None:
        self.folder = folder
        self.network = network
        self.title = f"{title}, SYNTHETIC images" if synthetic else title
        self.count = count
        self.seed = seed
        self.quarter_turns = quarter_turns
        self._rows: list[dict[str, Any]] = []
        self._pictures: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluation engine."""
        engine.add_event_handler(Events.STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _reset(self, engine: Engine) -> None:
        self._rows, self._pictures = [], []

    def _collect(self, engine: Engine) -> None:
        batch, output = engine.state.batch, engine.state.output
        pair = image_pair(output)
        values = {
            "psnr": CappedPSNRMetric()(*pair).flatten(),
            "ssim": make_ssim_metric()(*pair).flatten(),
            "kl": output[BlurVAEKeys.KL],
            "kernel_width": kernel_width(output[BlurVAEKeys.KERNEL]),
        }
        slices, rows, columns = batch["position"]
        total = engine.state.epoch_length * len(output[CommonKeys.IMAGE])
        step = max(1, total // self.count)
        for i, subject in enumerate(batch["subject"]):
            place = {"subject": subject, "slice": int(slices[i]), "row": int(rows[i]), "column": int(columns[i])}
            if len(self._rows) % step == 0 and len(self._pictures) < self.count:
                self._pictures.append((pair[1][i].cpu(), pair[0][i].cpu(), output[BlurVAEKeys.KERNEL][i].cpu()))
            self._rows.append(place | {name: float(value[i]) for name, value in values.items()})

    def _write(self, engine: Engine) -> None:
        folder = make_folder(self.folder())
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
            for row in self._rows
        )
        write_text(folder / "metrics.csv", table.getvalue())
        markdown = self._markdown(engine)
        write_text(folder / "metrics.md", markdown)
        save_figure(self._figure(), folder / "reconstructions.png")
        logger.info(f"{self.title}: {self.summary()}; tables and picture in {folder}")

    def summary(self) -> str:
        """PSNR and SSIM in one line."""
        psnr, ssim = (self._mean_and_std(name) for name in ("psnr", "ssim"))
        return f"PSNR {psnr[0]:.2f} ± {psnr[1]:.2f} dB, SSIM {ssim[0]:.4f} ± {ssim[1]:.4f}"

    def _mean_and_std(self, name: str) -> tuple[float, float]:
        values = [row[name] for row in self._rows]
        return fmean(values), stdev(values) if len(values) > 1 else 0.0

    def _markdown(self, engine: Engine) -> str:
        subjects = len({row["subject"] for row in self._rows})
        lines = [f"# {self.title}", "", f"{len(self._rows)} patches of {subjects} subjects.", ""]
        lines += ["| measure | mean ± std |", "|---|---|"]
        for name, label in MEASURES.items():
            mean, std = self._mean_and_std(name)
            lines.append(f"| {label} | {mean:.4g} ± {std:.2g} |")
        active = engine.state.metrics.get("active_units")
        if active is not None:
            lines.append(f"| active latent units | {active} of {self.network.latent_size} |")
        voxel_size = [float(v) for v in self.network.get_buffer("voxel_size")]
        if all(voxel_size):
            width = self._mean_and_std("kernel_width")[0] * fmean(voxel_size)
            lines.append(f"| kernel width (mm) | {width:.3g} |")
        lines += [
            "",
            "Images in [0, 1]; SSIM with an 11×11 Gaussian window, σ = 1.5; reconstructed from the posterior mean.",
        ]
        return "\n".join(lines) + "\n"

    def _figure(self) -> Any:
        images, reconstructions, kernels = (torch.stack(parts) for parts in zip(*self._pictures, strict=True))
        self.network.eval()
        samples = to_unit_range(self.network.sample(len(images), torch_rng(self.seed, "pictures")))
        title = f"{self.title}: {self.summary()}"
        return reconstruction_figure(images, reconstructions, kernels, samples.cpu(), title, self.quarter_turns)
