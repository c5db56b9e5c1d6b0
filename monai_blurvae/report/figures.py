"""The charts and pictures of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from monai_blurvae.handlers.evaluation_record import EvaluationRecord, Numbers, Pixels
from monai_blurvae.metrics.measures import LIKELIHOODS, MEASURES
from monai_blurvae.report.charts import (
    BLUE,
    EPOCH,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    Chart,
    Series,
    area_chart,
    histogram,
    late_range,
    line_chart,
)
from monai_blurvae.report.checks import flat_width
from monai_blurvae.report.content import example_text
from monai_blurvae.report.history import KERNELS, PICTURES, History, spread
from monai_blurvae.report.pictures import ErrorMaps, Picture, error_maps, kernel_pixels, picture, strips, upright

KERNEL_EPOCHS, PICTURE_EPOCHS = 8, 3
"""Epochs of the training whose kernels and pictures are shown."""
DRAWN_EXAMPLES = 4
"""Examples and samples that are shown with images drawn around them."""
DRAW_STYLES = {"variance": (ORANGE, ":"), "kernel": (GREEN, "--"), "spectrum": (PURPLE, "-.")}
"""Colour and line of each density."""
QUIET_UNIT = 0.01
"""KL in nats below which a latent unit counts as unused in the caption."""
POWER_FLOOR = 1e-12
"""Smallest power in a chart; constant images have none to take the log of."""

FREQUENCY, LACK = "frequency (cycles per pixel)", "log₁₀ power, less the images'"
"""Labels of the axes of spectra."""

TERMS = {
    "loss": ("Training loss", "loss", "What is minimised, the sum of its terms with the KL times β"),
    "reconstruction": ("Reconstruction term", "reconstruction term", "A sum over the pixels"),
    "half_log_det": ("Half log-determinant", "½ log |Σ| (nats)", "Of the covariance that the kernel implies"),
    "kernel_loss": ("Kernel loss", "kernel loss", "What the kernel generator minimises: ‖x * k − x̂‖²"),
    "auxiliary": ("Auxiliary terms", "auxiliary terms", "On top of the likelihood"),
    "adversarial": ("Adversarial term", "adversarial term", "On top of the likelihood"),
    "discriminator_loss": ("Discriminator loss", "discriminator loss", "Of the patch discriminator"),
}
"""Title, label and explanation of the training's terms that have a chart of their own."""
PER_EPOCH = "mean over each epoch, per image"


class Example(NamedTuple):
    """An image that was evaluated.

    Attributes:
        caption: where it is from and how well it is reconstructed.
        pictures: the image, its reconstruction, the error and, if it was trained, the kernel.
    """

    caption: str
    pictures: Sequence[Picture]


class Drawn(NamedTuple):
    """Images drawn from the densities.

    Attributes:
        densities: name of each and what it adds to the mean, in words.
        fitted_on: which images, in words.
        outside: how much of the draws a picture clips, in words.
        examples: real image, mean and draws of a few reconstructions.
        samples: mean and draws of a few samples from the prior.
        charts: their spectra, relative to the images'.
    """

    densities: Sequence[tuple[str, str]]
    fitted_on: str
    outside: str
    examples: Sequence[Example]
    samples: Sequence[Example]
    charts: Sequence[Chart]


class ColourBar(NamedTuple):
    """What the colours of the error maps mean.

    Attributes:
        low: value of the first colour.
        high: value of the last one.
        meaning: in words.
        bar: all colours.
    """

    low: str
    high: str
    meaning: str
    bar: Picture


class Stage(NamedTuple):
    """Pictures of a few validation images at one time of the training.

    Attributes:
        epoch: of the training.
        pictures: in rows.
    """

    epoch: int
    pictures: Sequence[Picture]


def training_charts(history: History) -> list[Chart]:
    """The terms of the loss and the metrics over the epochs.

    Args:
        history: of the training.
    """
    charts = [_quality_chart(history, name) for name in ("psnr", "ssim")]
    charts += [_term_chart(history, name) for name in TERMS]
    charts += [_kl_chart(history), _units_chart(history)]
    return [chart for chart in charts if chart is not None]


def _term_chart(history: History, name: str) -> Chart | None:
    values = history.scalar(f"train/{name}")
    if not any(values.values()):  # a term that the loss has not
        return None
    title, label, what = TERMS[name]
    y_range = late_range(list(values.values()))
    begins = "" if y_range is None else f" It begins at {next(iter(values.values())):.4g}, outside of the chart."
    svg = line_chart(name, title, EPOCH, label, [_series("training", values, BLUE)], y_range=y_range)
    return Chart(svg, f"{title}. {what}; {PER_EPOCH}.{begins}")


def _quality_chart(history: History, name: str) -> Chart | None:
    values = history.scalar(f"validation/{name}")
    if not values:
        return None
    measure = MEASURES[name]
    best = max(values, key=lambda epoch: values[epoch])
    reached = f"{values[best]:.4g} {measure.unit}".rstrip()
    caption = f"{measure.name} of the validation images; higher is better. Best at epoch {best}: {reached}."
    series = [_series("validation", values, ORANGE, "o")]
    return Chart(line_chart(name, caption, EPOCH, measure.label, series), caption)


def _kl_chart(history: History) -> Chart | None:
    series = _both(history, "kl")
    if not series:
        return None
    caption = "KL from the posterior to the prior, the rate: how much the latent tells of its image."
    return Chart(line_chart("kl", caption, EPOCH, MEASURES["kl"].label, series, from_zero=True), caption)


def _units_chart(history: History) -> Chart | None:
    values = history.scalar("validation/active_units")
    if not values:
        return None
    units = MEASURES["active_units"]
    caption = f"Active units of the latent: {units.what}."
    series = [_series("validation", values, ORANGE, "o")]
    return Chart(line_chart("active", caption, EPOCH, units.name, series, from_zero=True), caption)


def kernel_chart(history: History, kernel_size: Any, spatial_dims: int = 2) -> Chart | None:
    """The kernel's width over the epochs, with that of a flat kernel.

    Args:
        history: of the training.
        kernel_size: of the window, or None if unknown.
        spatial_dims: of the kernels.
    """
    series = _both(history, "kernel_width")
    if not series:
        return None
    level = (flat_width(kernel_size, spatial_dims), "flat kernel") if isinstance(kernel_size, int) else None
    caption = "Mean width of the predicted kernels, the RMS radius about their centroid."
    label = MEASURES["kernel_width"].label
    return Chart(line_chart("width", caption, EPOCH, label, series, from_zero=True, level=level), caption)


def _both(history: History, name: str) -> list[Series]:
    training, validation = history.scalar(f"train/{name}"), history.scalar(f"validation/{name}")
    series = [_series("training", training, BLUE), _series("validation", validation, ORANGE, "o")]
    return [s for s in series if len(s.x)]


def _series(label: str, values: Mapping[int, float], colour: str, marker: str = "") -> Series:
    return Series(label, list(values), list(values.values()), colour, marker or ("o" if len(values) == 1 else ""))


def kernel_stages(history: History) -> list[Stage]:
    """The kernels of a few validation images over the training.

    Args:
        history: of the training.
    """
    pictures = history.picture(KERNELS)
    return [
        Stage(epoch, [picture(strips(pictures[epoch], 1)[0], f"kernels of validation images at epoch {epoch}")])
        for epoch in spread(list(pictures), KERNEL_EPOCHS)
    ]


def picture_stages(history: History) -> tuple[Picture | None, list[Stage]]:
    """A few validation images, and their reconstructions and some samples over the training.

    Args:
        history: of the training.
    """
    pictures = history.picture(PICTURES)
    rows = {epoch: strips(pictures[epoch], 3) for epoch in spread(list(pictures), PICTURE_EPOCHS)}
    stages = [
        Stage(
            epoch,
            [
                picture(reconstructions, f"reconstructions at epoch {epoch}", "reconstructions"),
                picture(samples, f"samples from the prior at epoch {epoch}", "samples"),
            ],
        )
        for epoch, (_, reconstructions, samples) in rows.items()
    ]
    inputs = [picture(row[0], "validation images", "validation images") for row in list(rows.values())[-1:]]
    return (inputs[0] if inputs else None), stages


def examples(record: EvaluationRecord, with_kernels: bool) -> tuple[list[Example], ColourBar]:
    """Evaluated images with reconstructions, errors and kernels.

    Args:
        record: of the evaluation.
        with_kernels: whether the kernels mean something.
    """
    turns = record.about["quarter_turns"]
    images, reconstructions = upright(record.images, turns), upright(record.reconstructions, turns)
    errors = error_maps(record.images, record.reconstructions, turns)
    made = []
    for i, row in enumerate(record.about["examples"]):
        caption = example_text(row)
        pictures = [
            picture(images[i], f"image {caption}", "image"),
            picture(reconstructions[i], f"reconstruction of {caption}", "reconstruction"),
            picture(errors.maps[i], f"error of {caption}", "error"),
        ]
        if with_kernels:
            pictures.append(picture(kernel_pixels(record.kernels[i], turns), f"kernel of {caption}", "kernel"))
        made.append(Example(caption, pictures))
    return made, colour_bar(errors)


def colour_bar(maps: ErrorMaps) -> ColourBar:
    """What colours mean.

    Args:
        maps: in these colours.
    """
    bar = picture(maps.bar, f"colours from {maps.low:.2f} to {maps.high:.2f}")
    low, high = (f"{value:+.2f}".replace("-", "−") if value else "0" for value in (maps.low, maps.high))
    return ColourBar(low, high, maps.meaning, bar)


def samples(record: EvaluationRecord) -> list[Picture]:
    """Samples from the prior.

    Args:
        record: of the evaluation.
    """
    turned = upright(record.samples, record.about["quarter_turns"])
    return [picture(sample, f"sample {i + 1} from the prior") for i, sample in enumerate(turned)]


ADDS = {
    "variance": "white noise, as strong at every pixel and frequency",
    "kernel": "noise that is strongest at the frequencies that the predicted blur kernel removes; a single one of them "
    "makes stripes",
    "spectrum": "noise with the mean power spectrum of what the reconstructions lack",
}
"""What a draw from each density adds to the mean."""


def drawn(record: EvaluationRecord) -> Drawn | None:
    """Images drawn from the densities, and their spectra; None where none was fitted.

    Args:
        record: of the evaluation.
    """
    about = record.about["draws"]
    names = about["likelihoods"]
    if not names:
        return None
    shares = ", ".join(f"{LIKELIHOODS[name][0]} {about['outside'][name]:.1%}" for name in names)
    turns = record.about["quarter_turns"]
    texts = [example_text(row) for row in record.about["examples"][:DRAWN_EXAMPLES]]
    shown = upright(record.images[: len(texts)], turns)
    images = [picture(image, f"image {text}", "image") for image, text in zip(shown, texts, strict=True)]
    reconstructions = _drawn_pictures(record.reconstructions, record.reconstruction_draws, record, texts)
    numbers = [f"sample {i + 1}" for i in range(min(DRAWN_EXAMPLES, len(record.samples)))]
    samples = _drawn_pictures(record.samples, record.sample_draws, record, numbers)
    return Drawn(
        [(LIKELIHOODS[name][0], f"{LIKELIHOODS[name][1]}; it adds {ADDS[name]}") for name in names],
        about["fitted_on"],
        f"Of the pixels of the drawn reconstructions lie outside: {shares}.",
        [Example(text, [image, *row]) for text, image, row in zip(texts, images, reconstructions, strict=True)],
        [Example(text, row) for text, row in zip(numbers, samples, strict=True)],
        [_draw_chart(record, kind) for kind in ("reconstruction", "sample")],
    )


def _drawn_pictures(
    means: Pixels, draws: Pixels, record: EvaluationRecord, texts: Sequence[str]
) -> list[list[Picture]]:
    """The mean and the draws around it, of each text."""
    turns, names = record.about["quarter_turns"], record.about["draws"]["likelihoods"]
    shown = {"mean": means, **{f"drawn, {LIKELIHOODS[n][0]}": images for n, images in zip(names, draws, strict=True)}}
    rows = {caption: upright(images[: len(texts)], turns) for caption, images in shown.items()}
    return [
        [picture(row[i], f"{caption}: {text}", caption) for caption, row in rows.items()]
        for i, text in enumerate(texts)
    ]


def _draw_chart(record: EvaluationRecord, kind: str) -> Chart:
    """Spectra of the means and draws of reconstructions or samples, less that of the images."""
    names = record.about["draws"]["likelihoods"]
    means, draws = (
        (record.reconstruction_power, record.reconstruction_draw_power)
        if kind == "reconstruction"
        else (record.sample_power, record.sample_draw_power)
    )
    image, x = _log_power(record.image_power), list(record.frequencies)
    lacks = {"mean": _log_power(means) - image}
    lacks |= {LIKELIHOODS[name][0]: _log_power(power) - image for name, power in zip(names, draws, strict=True)}
    styles = {"mean": (BLUE, "-")} | {LIKELIHOODS[name][0]: DRAW_STYLES[name] for name in names}
    curves = [Series(name, x, list(lack), styles[name][0], line=styles[name][1]) for name, lack in lacks.items()]
    distances = ", ".join(f"{name} {np.sqrt((lack**2).mean()):.2f}" for name, lack in lacks.items())
    caption = (
        f"Power of {kind}s, the mean and images drawn around it, relative to the images. Root mean square difference "
        f"in decades: {distances}."
    )
    svg = line_chart(f"{kind}-draws", caption, FREQUENCY, LACK, curves, level=(0.0, "images"))
    return Chart(svg, caption)


def _log_power(power: Numbers) -> Numbers:
    logarithm: Numbers = np.log10(np.maximum(power, POWER_FLOOR))
    return logarithm


def mean_kernel(record: EvaluationRecord) -> Picture:
    """The mean kernel over all evaluated images.

    Args:
        record: of the evaluation.
    """
    kernel = record.mean_kernel
    shown = kernel if kernel.ndim == 2 else kernel[:, kernel.shape[1] // 2]
    return picture(
        kernel_pixels(shown, record.about["quarter_turns"]),
        "mean of the predicted kernels",
        f"Mean kernel over {record.about['evaluated_on']}, relative to its maximum.",
    )


def spectrum_charts(record: EvaluationRecord) -> list[Chart]:
    """Radial power spectra, and what reconstructions and samples lack.

    Args:
        record: of the evaluation.
    """
    image, reconstruction, sample = (
        _log_power(power) for power in (record.image_power, record.reconstruction_power, record.sample_power)
    )
    x = list(record.frequencies)
    caption = "Mean power at each spatial frequency."
    curves = [
        Series("images", x, list(image), GREY),
        Series("reconstructions", x, list(reconstruction), BLUE),
        Series("samples", x, list(sample), ORANGE, line="--"),
    ]
    lacks = [
        Series("reconstructions", x, list(reconstruction - image), BLUE),
        Series("samples", x, list(sample - image), ORANGE, line="--"),
    ]
    lack_caption = f"The same relative to the images. {_blur_text(record.frequencies, reconstruction - image)}"
    return [
        Chart(line_chart("spectra", caption, FREQUENCY, "log₁₀ power", curves), caption),
        Chart(
            line_chart("lack", lack_caption, FREQUENCY, LACK, lacks, level=(0.0, "images")),
            lack_caption,
        ),
    ]


def frequency_text(about: Mapping[str, Any]) -> str:
    """What the largest frequency is in mm, where the voxels are square; else nothing.

    Args:
        about: of the evaluation's record.
    """
    size = about["voxel_size"]
    if not size or not all(size) or max(size) > 1.01 * min(size):
        return ""
    return f" 0.5 cycles per pixel are {0.5 / size[0]:.2g} cycles per mm."


def _blur_text(frequencies: Numbers, difference: Numbers) -> str:
    place = int(np.abs(frequencies - 0.25).argmin())
    share = 10 ** float(difference[place])
    return f"At {frequencies[place]:.2f} cycles per pixel the reconstructions have {share:.1%} of the images' power."


def latent_chart(record: EvaluationRecord) -> Chart:
    """The KL of each latent unit, the largest first.

    Args:
        record: of the evaluation.
    """
    ordered = np.sort(record.unit_kl)[::-1]
    quiet = int((ordered < QUIET_UNIT).sum())
    caption = (
        f"Mean KL of each of the {len(ordered)} latent units, the largest first: {ordered.sum():.1f} nats in all, "
        f"{quiet} units below {QUIET_UNIT:g} nats."
    )
    return Chart(area_chart("units", caption, "latent unit, by rank", "KL (nats)", ordered), caption)


def psnr_chart(rows: Sequence[Mapping[str, str]]) -> Chart | None:
    """How the PSNR is distributed over the images.

    Args:
        rows: of ``metrics.csv``.
    """
    if not rows:
        return None
    caption = f"PSNR of the {len(rows)} images."
    values = [float(row["psnr"]) for row in rows]
    return Chart(histogram("psnrs", caption, MEASURES["psnr"].label, "images", values), caption)
