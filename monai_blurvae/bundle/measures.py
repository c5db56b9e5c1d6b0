"""All measures of a comparison for one finished run: likelihoods with every constant, distances, spectra, sharpness."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_blurvae.bundle.run_folder import FinishedRun, TrainedObjective
from monai_blurvae.data import PreparedImages, SizedDataset, SlicePatchDataset, StoredVolume
from monai_blurvae.files import make_folder, write_json, write_text
from monai_blurvae.metrics.distances import ALEXNET_FEATURES, INCEPTION_FEATURES
from monai_blurvae.metrics.suite import LIKELIHOOD_KEYS, NO_KERNEL, Measure, measure_model
from monai_blurvae.networks import BlurVAE

logger = logging.getLogger(__name__)

STORE_ERROR = 2.0**-4
"""How far, in grey levels, the store's float16 on [0, 1] may be off an 8-bit value: 255 · 2⁻¹² and a little."""

LEVELS_AT_ONCE = 64

FIXED_KERNEL = "the loss has a fixed kernel, and the generator's plays no part in it"
"""The reason for a missing value of the kernel where a generator may have been trained all the same."""


class Description(NamedTuple):
    """What a measure is.

    Attributes:
        name: in a table.
        unit: empty for a number without one.
        digits: after the point.
        better: 1 where higher is better, −1 where lower is, 0 where neither.
        what: a line.
        features: that images are compared on, where there are some.
    """

    name: str
    unit: str
    digits: int
    better: int
    what: str
    features: str = ""


LIKELIHOODS = {
    "variance": ("one variance", "N(x̂, s² I): one variance s² for all pixels"),
    "kernel": ("kernel", "N(x̂, s² (WᵀW)⁻¹): W the Wiener inverse of the predicted kernel, its exact determinant"),
    "spectrum": ("spectrum", "N(x̂, Σ): one variance for each spatial frequency"),
}
"""Name and meaning of the fitted likelihoods."""


DESCRIPTIONS: dict[str, Description] = {
    "psnr": Description("PSNR", "dB", 2, 1, "reconstructions from the posterior mean, on [0, 1]"),
    "ssim": Description("SSIM", "", 4, 1, "reconstructions, on [0, 1], 11×11 Gaussian window, σ = 1.5"),
    "lpips": Description(
        "LPIPS", "", 4, -1, "perceptual distance of reconstructions", "AlexNet with the heads of LPIPS 0.1"
    ),
    "kl": Description("KL", "nats per image", 1, 0, "rate, KL(q(z|x) ‖ N(0, I))"),
    "active_units": Description("active units", "latent units", 0, 0, "their posterior mean varies by more than 0.01"),
    "kernel_width": Description("kernel width", "pixels", 2, 0, "RMS radius of the predicted kernels"),
    "below_sqrt_c": Description(
        "|F| < √C", "share", 3, 0, "frequencies that the predicted kernel suppresses below √C, C the Wiener constant"
    ),
    "spectrum_reconstruction": Description(
        "spectrum of reconstructions", "decades", 3, -1, "RMS difference from the images' radial log10 spectrum"
    ),
    "spectrum_sample": Description(
        "spectrum of samples", "decades", 3, -1, "RMS difference from the images' radial log10 spectrum"
    ),
    "sharpness_reconstruction": Description(
        "sharpness of reconstructions", "", 3, 0, "variance of the Laplacian over the images'; 1 is as sharp"
    ),
    "sharpness_sample": Description(
        "sharpness of samples", "", 3, 0, "variance of the Laplacian over the images'; 1 is as sharp"
    ),
    "mmd_alexnet": Description(
        "MMD² of samples", "", 4, -1, "squared maximum mean discrepancy, cubic kernel, unbiased", ALEXNET_FEATURES
    ),
    "frechet_alexnet": Description(
        "Fréchet distance of samples",
        "",
        3,
        -1,
        "squared; compares between equal numbers of patches only",
        ALEXNET_FEATURES,
    ),
    **{
        f"fid_{size}": Description(
            f"FID of samples, {size}",
            "",
            3,
            -1,
            "squared; compares between equal numbers of patches only",
            f"torch-fidelity Inception, {size}",
        )
        for size in INCEPTION_FEATURES
    },
    **{
        f"nll_{key}": Description(f"−log p, {name}", "nats per image", 1, -1, f"minus the ELBO under {what}")
        for key, (name, what) in LIKELIHOODS.items()
    },
    **{
        f"iw_nll_{key}": Description(
            f"−log p, {name}, IW", "nats per image", 1, -1, f"minus the importance-weighted bound under {what}"
        )
        for key, (name, what) in LIKELIHOODS.items()
    },
    **{
        f"bpd_{key}": Description(
            f"−log2 p / D, {name}", "bits per dimension", 3, -1, f"minus the ELBO under {what}; D pixels times channels"
        )
        for key, (name, what) in LIKELIHOODS.items()
        if key != "kernel"
    },
}
"""What each key of :func:`~monai_blurvae.metrics.measure_model` is."""

FLOAT_DENSITY = "density of float data on [−1, 1], not comparable with figures of 8-bit data"
EIGHT_BIT_DENSITY = "density of dequantised 8-bit data on [−1, 1]; bits per dimension are those of the grey levels"


def patches_of(volumes: Sequence[StoredVolume], settings: Mapping[str, Any]) -> Tensor:
    """The evaluation patches of volumes, the same for every run, ``(B, 1, patch_size, patch_size)`` in [−1, 1].

    Args:
        volumes: of a split.
        settings: ``patch_size``, ``eval_patches_per_volume`` and ``min_foreground`` of the bundle.
    """
    return images_of(
        SlicePatchDataset(
            volumes, settings["patch_size"], settings["eval_patches_per_volume"], settings["min_foreground"]
        )
    )


def images_of(dataset: SizedDataset) -> Tensor:
    """All images of a dataset, ``(B, C, H, W)`` in [−1, 1]."""
    return torch.stack([dataset[i]["image"] for i in range(len(dataset))])


def to_grey_levels(images: Tensor) -> Tensor:
    """Bring 8-bit images that the store has rounded to float16 back onto v / 127.5 − 1, v = 0 … 255.

    Args:
        images: in [−1, 1], any shape.

    Returns:
        Like ``images``; those that are no 8-bit images come back as they are.
    """
    parts = [_nearest_grey_levels(part) for part in images.split(LEVELS_AT_ONCE)]  # in float64 all would be too many
    return images if any(part is None for part in parts) else torch.cat([part for part in parts if part is not None])


def _nearest_grey_levels(images: Tensor) -> Tensor | None:
    levels = (images.double() + 1) * 127.5
    if (levels - levels.round()).abs().max() > STORE_ERROR:
        return None
    return (levels.round() / 127.5 - 1).to(images)


def measure_trained(
    network: BlurVAE, images: Tensor, reference: Tensor, objective: TrainedObjective, **options: Any
) -> dict[str, Measure]:
    """:func:`~monai_blurvae.metrics.measure_model` of a model, by the objective that it was trained with.

    Args:
        network: the model.
        images: in [−1, 1], ``(N, C, H, W)``.
        reference: in [−1, 1], ``(M, C, H, W)``, on which the likelihoods are fitted.
        objective: of the model.
        options: further arguments.
    """
    measures = measure_model(
        network,
        images,
        reference,
        uses_kernel=objective.trains_kernel and not objective.fixed_kernel,
        c=objective.wiener_c,
        weighting=objective.weighting,
        **options,
    )
    if not objective.fixed_kernel:
        return measures
    return {key: Measure(None, FIXED_KERNEL) if m.reason == NO_KERNEL else m for key, m in measures.items()}


class MeasuresHandler:
    """Write ``measures.json`` and ``measures.md``: every measure of a comparison of losses, or why it is missing.

    The images are those that the evaluation goes through. The variances and the spectrum of the likelihoods are fitted
    on the run's own validation subjects, whatever is evaluated, and as the run cut them into patches. See
    :func:`~monai_blurvae.metrics.measure_model`.

    Args:
        folder: gives the folder when the evaluation is completed.
        run: whose model it is.
        network: the model.
        images: those that are evaluated.
        cache_dir: of the store.
        title: what is evaluated.
        importance_samples: K ≥ 1, latents of each image for the bounds of log p.
        weights_dir: folder of the weights of LPIPS and Inception; None for the default one.
        eight_bit: whether the images are 8-bit, v / 127.5 − 1, so that they are dequantised.
        seed: of samples, latents and dequantisation.
        device: to compute on.

    Raises:
        DataError: when the evaluation starts, if the run's validation images are not there any more.
    """

    def __init__(
        self,
        folder: Callable[[], Path],
        run: FinishedRun,
        network: BlurVAE,
        images: PreparedImages,
        cache_dir: str | Path,
        title: str = "test",
        importance_samples: int = 16,
        weights_dir: str | Path | None = None,
        eight_bit: bool = False,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.folder = folder
        self.run = run
        self.network = network
        self.images = images
        self.cache_dir = cache_dir
        self.title = title
        self.importance_samples = importance_samples
        self.weights_dir = None if weights_dir is None else Path(weights_dir).expanduser()
        self.eight_bit = eight_bit
        self.seed = seed
        self.device = device
        self._fitted_on: tuple[SizedDataset, PreparedImages] | None = None
        self._images: list[Tensor] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluation engine."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self._images = []
        self._fitted_on = self.run.validation_images(self.cache_dir)  # missing ones stop the evaluation at once

    def _collect(self, engine: Engine) -> None:
        self._images.append(engine.state.output[CommonKeys.IMAGE].cpu())

    def _write(self, engine: Engine) -> None:
        assert self._fitted_on is not None
        images, reference = torch.cat(self._images), images_of(self._fitted_on[0])
        if self.eight_bit:
            images, reference = to_grey_levels(images), to_grey_levels(reference)
        logger.info(f"Measuring {self.images.count_text(len(images))} with {self.importance_samples} latents each.")
        objective = self.run.objective()
        measures = measure_trained(
            self.network,
            images,
            reference,
            objective,
            weights_dir=self.weights_dir,
            importance_samples=self.importance_samples,
            seed=self.seed,
            eight_bit=self.eight_bit,
            device=self.device,
        )
        content = self._content(measures, objective, len(images), self._fitted_on[1].count_text(len(reference)))
        folder = make_folder(self.folder())
        write_json(folder / "measures.json", content)
        write_text(folder / "measures.md", to_markdown(content))
        logger.info(f"Measures in {folder / 'measures.md'}.")

    def _content(
        self, measures: Mapping[str, Measure], objective: TrainedObjective, count: int, fitted_on: str
    ) -> dict[str, Any]:
        return {
            "title": ", ".join(filter(None, (self.title, self.images.remark))),
            "images": count,
            "evaluated_on": self.images.count_text(count),
            "fitted_on": fitted_on,
            "importance_samples": self.importance_samples,
            "seed": self.seed,
            "eight_bit": self.eight_bit,
            "density": EIGHT_BIT_DENSITY if self.eight_bit else FLOAT_DENSITY,
            "training": objective._asdict(),
            "notes": list(self._notes(objective, fitted_on)),
            "measures": {key: _row(key, measure) for key, measure in measures.items()},
        }

    def _notes(self, objective: TrainedObjective, fitted_on: str) -> Iterator[str]:
        """The sentences without which the likelihoods would be misread."""
        assert self._fitted_on is not None
        density = EIGHT_BIT_DENSITY if self.eight_bit else FLOAT_DENSITY
        yield f"p is a {density}."
        yield (
            f"Variances and spectrum are fitted on {fitted_on} of the run's validation; the ELBO is a mean over "
            f"K = {self.importance_samples} latents of each image, which also make the importance-weighted bound."
        )
        evaluated = self.images.identities()
        shared = len(evaluated & self._fitted_on[1].identities())
        if shared:
            yield (
                f"{shared} of the {len(evaluated)} evaluated files are among those, so that the likelihoods come out "
                "slightly too good."
            )
        yield _training_note(objective)


def _training_note(objective: TrainedObjective) -> str:
    if objective.departures:
        return (
            f"The model was not trained as a bound of this density: {'; '.join(objective.departures)}. The figures are "
            "those of the Gaussian fitted around its decoder."
        )
    return (
        f"The model was trained on a bound of log p under the likelihood of its loss, {objective.loss}; the figures "
        "are those of the Gaussian fitted around its decoder afterwards."
    )


def _row(key: str, measure: Measure) -> dict[str, Any]:
    described = DESCRIPTIONS[key]._asdict()
    better = {1: "higher", -1: "lower", 0: None}[described.pop("better")]
    described.pop("digits")
    return {**measure._asdict(), **described, "better": better}


def to_markdown(content: Mapping[str, Any]) -> str:
    """The content of ``measures.json`` as tables for the eye.

    Args:
        content: of ``measures.json``.
    """
    measures = content["measures"]
    likelihoods = [key for key in measures if key in LIKELIHOOD_KEYS]
    others = [key for key in measures if key not in LIKELIHOOD_KEYS]
    lines = [f"# {content['title']}", "", f"{content['evaluated_on']}.", ""]
    lines += ["## Reconstructions, samples, latent", "", *_table(measures, others), ""]
    lines += ["## Likelihood", "", *_table(measures, likelihoods), ""]
    return "\n".join(lines + [f"- {note}" for note in content["notes"]]) + "\n"


def _table(measures: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    rows = [("measure", "value", "unit", "what it is"), ("---",) * 4]
    for key in keys:
        row = measures[key]
        arrow = {"higher": " ↑", "lower": " ↓", None: ""}[row["better"]]
        features = f"; features: {row['features']}" if row["features"] else ""
        rows.append((row["name"] + arrow, _value(key, row), row["unit"], row["what"] + features))
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def _value(key: str, row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return f"– ({row['reason']})"
    return f"{row['value']:.{DESCRIPTIONS[key].digits}f}".replace("-", "−")
