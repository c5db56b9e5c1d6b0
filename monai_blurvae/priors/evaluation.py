"""The training of a model of patches: how it begins, its held-out log-densities, and how well it denoises."""

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

from monai_blurvae.data import VolumePatchDataset
from monai_blurvae.data.facts import evenly_spread, facts_of
from monai_blurvae.engines.iteration import images_of
from monai_blurvae.files import FilePath, Record, make_folder, resolved, write_text
from monai_blurvae.functional import image_of, patches_of
from monai_blurvae.handlers.evaluation import csv_text, mean_and_std_text, places_of
from monai_blurvae.metrics.image_quality import Output, as_batch
from monai_blurvae.networks import PatchMixture, PatchModel, unwrapped
from monai_blurvae.networks.patch_models import MODEL_RANGE, SIGMAS
from monai_blurvae.priors.patch_vae_prior import PatchVAEPrior, bank_misses
from monai_blurvae.run_files import DENOISING_NPZ, METRICS_CSV, METRICS_MD
from monai_blurvae.seeding import torch_rng

logger = logging.getLogger(__name__)


KEY_SIGMA = 0.02
"""Noise level, on [0, 1], of the log-density by which the best model is chosen."""

EXAMPLES, PATCHES = 4, 128
"""Images and patches that a report shows."""

QUANTITIES = ("elbo", "bank", "kl")
"""Of each image under each noise level, means over its patches in nats: the bound of log p, the log-density in closed
form (of a PatchVAE the bank's mixture), and the KL of the latents. Where latents are discrete the first two are one."""


class PatchVAEEvaluator(SupervisedEvaluator):
    """MONAI's evaluator for a :class:`~monai_blurvae.networks.PatchModel`: log p of held-out patches with noise.

    The noise is a function of the seed, the number of the batch and the level alone, so that models are held against
    each other on the same patches. The output holds ``image``, ``label`` (the same), ``pred``, the posterior
    mean under noise of :data:`KEY_SIGMA`, and the :data:`QUANTITIES`, ``(B, levels)`` each for the levels
    :data:`~monai_blurvae.networks.SIGMAS`.

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
    """Write ``metrics.csv``, a line for each image, ``metrics.md`` and ``denoising.npz``, for the run's report.

    Noise of each level is added to an image and taken out again by a :class:`~monai_blurvae.priors.PatchVAEPrior` with
    patches two pixels apart. The PSNR is that of the pixels that no patch across the image's border covers. The metrics
    of the engine get its means, ``psnr_0.01`` and so on.

    Args:
        folder: where to write, or a function that gives the folder when the evaluation is completed.
        network: the model; whatever wraps it.
        dataset: what is evaluated, whose :func:`~monai_blurvae.data.facts.facts_of` every table tells.
        title: what was evaluated.
        seed: of the noise.
        quarter_turns: by which pictures are rotated.
    """

    def __init__(
        self,
        folder: FilePath,
        network: nn.Module,
        dataset: Any,
        title: str = "test",
        seed: int = 0,
        quarter_turns: int = 0,
    ) -> None:
        self.folder = folder
        self.network = network
        self.dataset = dataset
        self.title = title
        self.seed = seed
        self.quarter_turns = quarter_turns
        self._rows: list[dict[str, Any]] = []
        self._pictures: dict[str, list[Tensor]] = {}
        self._examples: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to a :class:`PatchVAEEvaluator`, after the handler that loads the weights."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self._rows = []
        self._pictures = {"images": [], "noisy": [], "denoised": []}
        self._examples = []

    def _collect(self, engine: Engine) -> None:
        batch, output = engine.state.batch, engine.state.output
        images = output[CommonKeys.IMAGE]
        columns = {
            metric_name(name, sigma): output[name][:, i] for name in QUANTITIES for i, sigma in enumerate(SIGMAS)
        }
        before = len(self._rows)
        found = [self._denoised(images, sigma, before) for sigma in SIGMAS]
        noisy, denoised = (torch.stack(both, 1)[:, :, 0] for both in zip(*found, strict=True))
        columns |= {metric_name("psnr", s): self._psnr(images, denoised[:, i, None]) for i, s in enumerate(SIGMAS)}
        places = places_of(batch, len(images), before)
        for i, place in enumerate(places):
            self._rows.append(place | {name: float(values[i]) for name, values in columns.items()})
        for i in self._shown(len(images), engine):
            self._examples.append(places[i])
            for name, values in (("images", images[i, 0]), ("noisy", noisy[i]), ("denoised", denoised[i])):
                self._pictures[name].append(values.cpu() / MODEL_RANGE + 0.5)

    def _shown(self, count: int, engine: Engine) -> list[int]:
        """Which images of a batch are kept as examples, evenly spread over all batches."""
        batches = evenly_spread(engine.state.epoch_length, EXAMPLES)
        wanted = min(-(-EXAMPLES // len(batches)), EXAMPLES - len(self._examples))
        return evenly_spread(count, wanted) if engine.state.iteration - 1 in batches and wanted else []

    def _denoised(self, images: Tensor, sigma: float, before: int) -> tuple[Tensor, Tensor]:
        """Images with noise, and without it again, on [−1, 1]."""
        network: PatchModel = unwrapped(self.network)
        prior = PatchVAEPrior(network, _inference(network), intensity=(-1.0, 1.0))
        generator = torch_rng(self.seed, "denoising", before, f"{sigma:g}")
        noise = torch.randn(images.shape, generator=generator).to(images)
        noisy = images + MODEL_RANGE * sigma * noise
        return noisy, prior.denoise(noisy, MODEL_RANGE * sigma)

    def _psnr(self, images: Tensor, denoised: Tensor) -> Tensor:
        border = unwrapped(self.network).patch_size - 1
        inner = [slice(border, size - border) if size > 2 * border else slice(None) for size in images.shape[2:]]
        error = (denoised - images)[:, :, inner[0], inner[1]] / MODEL_RANGE
        return -10 * error.square().mean((1, 2, 3)).log10()

    def _write(self, engine: Engine) -> None:
        folder = make_folder(resolved(self.folder))
        means = {name: fmean(row[name] for row in self._rows) for name in self._names()}
        engine.state.metrics.update({name: value for name, value in means.items() if name.startswith("psnr")})
        write_text(folder / METRICS_CSV, csv_text(self._rows))
        write_text(folder / METRICS_MD, self._markdown())
        self._record().write(folder / DENOISING_NPZ)
        key = KEY_SIGMA
        values = {name: means[metric_name(name, key)] for name in (*QUANTITIES, "psnr")}
        bank = "" if self._is_exact() else f" (bank, {values['elbo']:.2f} by the encoder)"
        logger.info(
            f"{self.title}: log p {values['bank']:.2f} nats a patch{bank} at σ = {key}, where denoising gives "
            f"{values['psnr']:.2f} dB; tables in {folder}"
        )

    def _names(self) -> list[str]:
        return [metric_name(name, sigma) for name in (*QUANTITIES, "psnr") for sigma in SIGMAS]

    def _is_exact(self) -> bool:
        """Whether the network sums over all latents, so that bound and bank are the same."""
        return unwrapped(self.network).latent_noise == 0

    def _markdown(self) -> str:
        densities = {"bank": "log p"} if self._is_exact() else {"elbo": "ELBO", "bank": "bank"}
        facts, network = facts_of(self.dataset), unwrapped(self.network)
        lines = [f"# {', '.join(filter(None, (self.title, facts.remark)))}", ""]
        lines += [f"{facts.count_text(len(self._rows))}.", ""]
        head = ["σ", *(f"{label} (nats a patch)" for label in densities.values())]
        head += ["KL (nats)", "with noise (dB)", "denoised (dB)"]
        lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for sigma in SIGMAS:
            cells = [self._cell(metric_name(name, sigma)) for name in (*densities, "kl", "psnr")]
            cells.insert(-1, f"{-20 * math.log10(sigma):.2f}")
            lines.append(f"| {sigma:g} | {' | '.join(cells)} |")
        lines += [
            "",
            f"σ and PSNR of images in [0, 1]; log p of patches of {network.patch_size} pixels with noise on [−1, 1], "
            f"mean ± std over images; denoised with the inference {_inference(network)!r}.",
        ]
        return "\n".join(lines) + "\n"

    def _record(self) -> Record:
        """Examples and patches in [0, 1], and the means."""
        facts, network = facts_of(self.dataset), unwrapped(self.network)
        columns = {name: [row[name] for row in self._rows] for name in self._names()}
        about = {
            "title": self.title,
            "remark": facts.remark,
            "evaluated_on": facts.count_text(len(self._rows)),
            "sigmas": list(SIGMAS),
            "metrics": {name: fmean(values) for name, values in columns.items()},
            "examples": self._examples,
            "inference": _inference(network),
            "bank": network.latents,
            "patch_size": network.patch_size,
            "latent_size": network.latent_noise,
            "quarter_turns": self.quarter_turns,
        }
        pictures = {name: torch.stack(images).numpy() for name, images in self._pictures.items()}
        patches = {name: (values / MODEL_RANGE + 0.5).numpy() for name, values in self._patches().items()}
        return Record({**pictures, **patches}, about)

    @torch.no_grad()
    def _patches(self) -> dict[str, Tensor]:
        """Patches of the examples, and as many from the prior: means, and draws around them, on [−1, 1]."""
        network: PatchModel = unwrapped(self.network)
        p = network.patch_size
        real = patches_of(MODEL_RANGE * (torch.stack(self._pictures["images"])[:, None] - 0.5), p, p).flatten(0, 1)
        real = real[evenly_spread(len(real), PATCHES)]
        shape = network.noise_shape((PATCHES, 1, p, p))
        mean, drawn = network.draw(torch.randn(shape, generator=torch_rng(self.seed, "patches")).to(network.scale))
        return {
            "real_patches": real,
            "mean_patches": network.patches(mean).cpu(),
            "drawn_patches": network.patches(drawn).cpu(),
        }

    def _cell(self, name: str) -> str:
        values = torch.tensor([row[name] for row in self._rows], dtype=torch.float64)
        return mean_and_std_text(float(values.mean()), float(values.std(correction=0)))


def _inference(network: PatchModel) -> str:
    return "importance" if bank_misses(network) else "bank"


class InitialMixtureHandler:
    """Give a :class:`~monai_blurvae.networks.PatchMixture` its bases, from training images, when a training begins.

    A training that is resumed has them in its checkpoint.

    Args:
        network: whatever wraps it; a model of another kind is left as it is.
        dataset: of the training.
        patches: how many are looked at, the same number of each volume.
    """

    def __init__(self, network: nn.Module, dataset: VolumePatchDataset, patches: int = 100_000) -> None:
        self.network = network
        self.dataset = dataset
        self.patches = patches

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer, after the handler that resumes."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Fit the mixture that the network begins with."""
        network: Any = unwrapped(self.network)
        if engine.state.iteration or not isinstance(network, PatchMixture) or not len(self.dataset):
            return
        p = network.patch_size
        per_image = self.dataset[0][CommonKeys.IMAGE][0].numel() // p**2
        images = self.dataset.unshuffled(-(-self.patches // per_image))
        logger.info(f"Fitting {len(network.logits)} Gaussians to {len(images) * per_image} patches, to begin with.")
        cut = [images[i][CommonKeys.IMAGE] for i in range(len(images))]
        network.initialize(patches_of(torch.stack(cut), p, p).flatten(0, 1).to(network.start))
