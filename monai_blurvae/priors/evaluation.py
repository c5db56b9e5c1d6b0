"""Evaluation of a model of patches during and after its training: held-out log-densities, and how well it denoises."""

from __future__ import annotations

import logging
import math
from functools import partial
from statistics import fmean
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average, Metric, MetricsLambda
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import Tensor, nn

from monai_blurvae.data.facts import facts_of
from monai_blurvae.engines.batch import images_of
from monai_blurvae.files import FilePath, make_folder, resolved, write_text
from monai_blurvae.functional import image_of, patches_of
from monai_blurvae.handlers.evaluation import csv_text, mean_and_std_text, places_of
from monai_blurvae.metrics.image_quality import Output, as_batch
from monai_blurvae.networks import PatchModel, unwrapped
from monai_blurvae.networks.patch_model import MODEL_RANGE, SIGMAS
from monai_blurvae.priors.patch_vae_prior import PatchVAEPrior, bank_misses
from monai_blurvae.run_files import METRICS_CSV, METRICS_MD
from monai_blurvae.seeding import torch_rng

logger = logging.getLogger(__name__)

KEY_SIGMA = 0.02
"""Noise level, on [0, 1], of the log-density by which the best model is chosen."""

QUANTITIES = ("elbo", "bank", "kl")
"""Of each image under each noise level, means over its patches in nats: the bound of log p, the log-density in closed
form (of a PatchVAE the bank's mixture), and the KL of the latents. Where latents are discrete the first two are one."""


class PatchVAEEvaluator(SupervisedEvaluator):
    """MONAI's evaluator for a :class:`~monai_blurvae.networks.PatchModel`: log p of held-out patches with noise.

    The noise is a function of the seed, the number of the batch and the level alone, so that models are held against
    each other on the same patches. The output holds ``image``, ``label`` (the same), ``pred``, the posterior
    mean under noise of :data:`KEY_SIGMA`, and the :data:`QUANTITIES`, ``(B, levels)`` each for the levels
    :data:`~monai_blurvae.networks.patch_model.SIGMAS`.

    Arguments are those of ``monai.engines.SupervisedEvaluator``; ``decollate`` is off by default.
    """

    def __init__(self, *args: Any, decollate: bool = False, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, decollate=decollate, **kwargs)
        self.seed = seed

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> dict[str, Any]:
        images = images_of(self, batchdata)
        network: PatchModel = unwrapped(self.network)
        p = network.patch_size
        with self.mode(self.network):
            clean = network.coefficients(patches_of(images, p, p).flatten(0, 1))
            found = {sigma: self._under_noise(network, clean, sigma) for sigma in SIGMAS}
        denoised = network.patches(found[KEY_SIGMA]["denoised"]).unflatten(0, (len(images), -1))
        self.state.output = {
            CommonKeys.IMAGE: images,
            CommonKeys.LABEL: images,
            CommonKeys.PRED: image_of(denoised, images.shape[2:], p),
            **{
                name: torch.stack([found[sigma][name].view(len(images), -1).mean(1) for sigma in SIGMAS], 1)
                for name in QUANTITIES
            },
        }
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return self.state.output

    def _under_noise(self, network: PatchModel, clean: Tensor, sigma: float) -> dict[str, Tensor]:
        generator = torch_rng(self.seed, "evaluation", self.state.iteration, self.state.rank, f"{sigma:g}")
        noise = torch.randn(len(clean), clean.shape[1] + network.latent_noise, generator=generator).to(clean)
        pixels, latents = noise.split([clean.shape[1], network.latent_noise], 1)
        scaled = MODEL_RANGE * sigma
        y = clean + scaled * pixels
        bank = network.density(y, scaled)
        bound, kl = network.bound(y, scaled, latents)
        return {"elbo": bound, "bank": bank.log_prob, "kl": kl, "denoised": y + scaled**2 * bank.score}


def key_metric() -> dict[str, Metric]:
    """Mean bound of log p of a patch with noise of :data:`KEY_SIGMA`, by which the best model is chosen."""
    return {"log_p": _average("elbo", SIGMAS.index(KEY_SIGMA))}


def additional_metrics() -> dict[str, Metric]:
    """The mean of each of the :data:`QUANTITIES` under each noise level, ``elbo_0.01`` and so on."""
    return {metric_name(name, sigma): _average(name, i) for name in QUANTITIES for i, sigma in enumerate(SIGMAS)}


def metric_name(quantity: str, sigma: float) -> str:
    """What a quantity under a noise level is called among the metrics."""
    return f"{quantity}_{sigma:g}"


def _average(name: str, level: int) -> Metric:
    return MetricsLambda(float, Average(output_transform=partial(_column, name=name, level=level)))


def _column(output: Output, name: str, level: int) -> Tensor:
    return as_batch(output, name)[0][:, level : level + 1]


class CalibrationHandler:
    """Write what an evaluation measured into the network, which takes it along: see ``PatchModel.calibration``.

    Attach it to the validation before the handler that saves the best model.

    Args:
        network: whatever wraps it.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Attach to a :class:`PatchVAEEvaluator` with the :func:`additional_metrics`."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the buffer."""
        metrics = engine.state.metrics
        rows = [[sigma, *(metrics[metric_name(name, sigma)] for name in ("elbo", "bank"))] for sigma in SIGMAS]
        unwrapped(self.network).calibration.copy_(torch.tensor(rows))


class PriorReportHandler:
    """Write ``metrics.csv``, a line for each image, and ``metrics.md`` of an evaluation, and denoise its images.

    Noise of each level is added to an image and taken out again by a :class:`~monai_blurvae.priors.PatchVAEPrior` with
    patches two pixels apart. The PSNR is that of the pixels that no patch across the image's border covers. The metrics
    of the engine get its means, ``psnr_0.01`` and so on.

    Args:
        folder: where to write, or a function that gives the folder when the evaluation is completed.
        network: the model; whatever wraps it.
        dataset: what is evaluated, whose :func:`~monai_blurvae.data.facts.facts_of` every table tells.
        title: what was evaluated.
        seed: of the noise.
    """

    def __init__(self, folder: FilePath, network: nn.Module, dataset: Any, title: str = "test", seed: int = 0) -> None:
        self.folder = folder
        self.network = network
        self.dataset = dataset
        self.title = title
        self.seed = seed
        self._rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to a :class:`PatchVAEEvaluator`, after the handler that loads the weights."""
        engine.add_event_handler(Events.STARTED, self._rows.clear)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        batch, output = engine.state.batch, engine.state.output
        images = output[CommonKeys.IMAGE]
        columns = {
            metric_name(name, sigma): output[name][:, i] for name in QUANTITIES for i, sigma in enumerate(SIGMAS)
        }
        columns |= {metric_name("psnr", sigma): self._psnr(images, sigma, len(self._rows)) for sigma in SIGMAS}
        for i, place in enumerate(places_of(batch, len(images), len(self._rows))):
            self._rows.append(place | {name: float(values[i]) for name, values in columns.items()})

    def _psnr(self, images: Tensor, sigma: float, before: int) -> Tensor:
        network: PatchModel = unwrapped(self.network)
        prior = PatchVAEPrior(network, _inference(network), intensity=(-1.0, 1.0))
        generator = torch_rng(self.seed, "denoising", before, f"{sigma:g}")
        noise = torch.randn(images.shape, generator=generator).to(images)
        error = prior.denoise(images + MODEL_RANGE * sigma * noise, MODEL_RANGE * sigma) - images
        border = network.patch_size - 1
        inner = [slice(border, size - border) if size > 2 * border else slice(None) for size in images.shape[2:]]
        mse = (error[:, :, inner[0], inner[1]] / MODEL_RANGE).square().mean((1, 2, 3))
        return -10 * mse.log10()

    def _write(self, engine: Engine) -> None:
        folder = make_folder(resolved(self.folder))
        means = {name: fmean(row[name] for row in self._rows) for name in self._names()}
        engine.state.metrics.update({name: value for name, value in means.items() if name.startswith("psnr")})
        write_text(folder / METRICS_CSV, csv_text(self._rows))
        write_text(folder / METRICS_MD, self._markdown())
        key = KEY_SIGMA
        logger.info(
            f"{self.title}: log p {means[metric_name('elbo', key)]:.2f} nats a patch (encoder) and "
            f"{means[metric_name('bank', key)]:.2f} (bank) at σ = {key}, where denoising gives "
            f"{means[metric_name('psnr', key)]:.2f} dB; tables in {folder}"
        )

    def _names(self) -> list[str]:
        return [metric_name(name, sigma) for name in (*QUANTITIES, "psnr") for sigma in SIGMAS]

    def _markdown(self) -> str:
        facts, network = facts_of(self.dataset), unwrapped(self.network)
        lines = [f"# {', '.join(filter(None, (self.title, facts.remark)))}", ""]
        lines += [f"{facts.count_text(len(self._rows))}.", ""]
        lines += ["| σ | ELBO (nats a patch) | bank (nats a patch) | KL (nats) | with noise (dB) | denoised (dB) |"]
        lines += ["|---|---|---|---|---|---|"]
        for sigma in SIGMAS:
            cells = [self._cell(metric_name(name, sigma)) for name in (*QUANTITIES, "psnr")]
            cells.insert(-1, f"{-20 * math.log10(sigma):.2f}")
            lines.append(f"| {sigma:g} | {' | '.join(cells)} |")
        lines += [
            "",
            f"σ and PSNR of images in [0, 1]; log p of patches of {network.patch_size} pixels with noise on [−1, 1], "
            f"mean ± std over images; denoised with the inference {_inference(network)!r}.",
        ]
        return "\n".join(lines) + "\n"

    def _cell(self, name: str) -> str:
        values = torch.tensor([row[name] for row in self._rows], dtype=torch.float64)
        return mean_and_std_text(float(values.mean()), float(values.std(correction=0)))


def _inference(network: PatchModel) -> str:
    return "importance" if bank_misses(network) else "bank"
