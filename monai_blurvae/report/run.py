"""``report.html``: the page of a run, of a network of images or of a learned prior of patches."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from markupsafe import Markup

from monai_blurvae.data.datalist import SPLITS
from monai_blurvae.files import Record
from monai_blurvae.handlers.evaluation import SPECTRUM_SAMPLES, mean_and_std_text
from monai_blurvae.handlers.evaluation_record import EvaluationRecord, Numbers, Pixels
from monai_blurvae.metrics.measures import LIKELIHOODS, MEASURES, PER_IMAGE
from monai_blurvae.report.checks import Check, check_run, flat_width, is_exact, repeat_command, size_text
from monai_blurvae.report.figures import (
    BLUE,
    COLOURS,
    EPOCH,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    Curve,
    area_chart,
    error_maps,
    grey_pixels,
    histogram,
    image,
    image_row,
    kernel_pixels,
    line_chart,
    loss_chart,
    picture,
    strips,
    upright,
)
from monai_blurvae.report.page import (
    Section,
    bullets,
    facts,
    fold,
    grid,
    need_extra,
    number_text,
    paragraph,
    part,
    refuse_other_file,
    table,
    tiles,
    with_options,
    write_page,
)
from monai_blurvae.report.record import KERNELS, PICTURES, History, RunRecord, read_run, spread
from monai_blurvae.run_files import DATALIST, REPORT
from monai_blurvae.yardstick.handler import notes as yardstick_notes
from monai_blurvae.yardstick.handler import table as yardstick_table

PAPER = Markup(
    'The loss and the kernels are after Bredell et al., <a href="https://arxiv.org/abs/2304.05939">Explicitly '
    "Minimizing the Blur Error of Variational Autoencoders</a>, ICLR 2023."
)
FIRST_ENTRIES = 5
"""Entries of each split that are shown; a data list may hold hundreds of thousands."""
TILES = ("psnr", "ssim", "kl")
"""The measures that one looks for first."""
EXTREMES = 5
"""Images with the lowest and the highest PSNR that are shown."""
KERNEL_EPOCHS, PICTURE_EPOCHS = 8, 3
"""Epochs of the training whose kernels and pictures are shown."""
DRAWN_EXAMPLES = 4
"""Examples and samples that are shown with images drawn around them."""
QUIET_UNIT = 0.01
"""KL in nats below which a latent unit counts as unused in the caption."""
POWER_FLOOR = 1e-12
"""Smallest power in a chart; constant images have none to take the log of."""
KEY = 0.02
"""Noise of the log-density by which the best prior is chosen."""
ROUNDING = 1e-3
"""Nats a patch that two ways to sum in float32 differ by at most."""
PATCH_COLUMNS = 16
"""Patches in a row, with a pixel of middle grey between them."""
FREQUENCY, LACK = "frequency (cycles per pixel)", "log₁₀ power, less the images'"
SIGMA_LABEL, NATS = "σ of the noise, on [0, 1]", "nats a patch"

GROUPS = {
    "Data": (
        *("dataset_dir", "image_pattern", "subject_pattern", "partition_file", "datalist", "slice_axis"),
        *("volume_size", "in_channels"),
        *("crop_size", "patch_size", "patches_per_volume", "eval_patches_per_volume", "eval_images", "min_foreground"),
        "skip_bad_files",
    ),
    "Network": ("network_def", "architecture", "channels", "latent_size", "kernel_size", "kernel_normalization"),
    "Loss": ("loss", "train#term", "train#objective", "train#kernel_objective", "beta", "warmup_epochs", "wiener_c"),
    "Optimisation": (
        *("max_epochs", "batch_size", "lr", "lr_warmup", "lr_final", "gradient_clip"),
        *("precision", "seed", "val_interval"),
    ),
}
"""The settings by what they are about, with all that is in a section of that name; any other is under Other."""
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
DRAWS = {
    "variance": (ORANGE, ":", "white noise, as strong at every pixel and frequency"),
    "kernel": (
        GREEN,
        "--",
        "noise that is strongest at the frequencies that the predicted blur kernel removes; a single one of them makes "
        "stripes",
    ),
    "spectrum": (PURPLE, "-.", "noise with the mean power spectrum of what the reconstructions lack"),
}
"""Colour and line of each density, and what a draw from it adds to the mean."""


def write_report(
    run_dir: str | Path, evaluation_dir: str | Path | None = None, output: str | Path | None = None
) -> Path:
    """Write the report of a run, finished or not, from what is in its folder.

    Args:
        run_dir: the run's folder.
        evaluation_dir: of an evaluation that is shown in place of the test at the end of the training.
        output: the file; by default ``report.html`` in ``evaluation_dir``, or without one in ``run_dir``. A report that
            is there is replaced, any other file is not.

    Returns:
        The file.

    Raises:
        RunFolderError: if ``run_dir`` is no run, the evaluation is not there, ``output`` is another file than a report,
            or nothing can be written.
        ImportError: without matplotlib or pandas, naming the extra.
    """
    need_extra()
    path = Path(output).expanduser() if output is not None else Path(evaluation_dir or run_dir).expanduser() / REPORT
    refuse_other_file(path)
    run = read_run(run_dir, evaluation_dir)
    own = _prior_sections(run) if run.is_prior else _network_sections(run)
    sections = [_warnings(check_run(run)), *own, _data(run), _settings(run.settings), _reproduce(run)]
    return write_page(path, f"Run {run.path.resolve().name}", _subtitle(run), run.path, sections)


def _subtitle(run: RunRecord) -> str:
    """State, epochs, loss and remark of a run in a line."""
    max_epochs, loss = run.settings.get("max_epochs"), run.settings.get("loss")
    parts = [
        "not finished" if run.summary is None else f"finished {str(run.summary.get('finished', ''))[:10]}".strip(),
        f"epoch {run.history.epochs}" + (f" of {max_epochs}" if max_epochs else ""),
        f"loss {loss}" if loss else "",
        run.remark,
    ]
    return " · ".join(filter(None, parts))


def _warnings(checks: Sequence[Check]) -> Section:
    box = Markup(
        '<div class="finding {}">\n<h3>{}: {}</h3>\n<p>{}</p>\n<p><b>Why it matters.</b> {}</p>\n'
        "<p><b>What to do.</b> {}</p>\n</div>"
    )
    found = [
        box.format("serious" if serious else "", "Warning" if serious else "Note", title, what, why, with_options(do))
        for title, what, why, do, serious in (check.finding for check in checks if check.finding)
    ]
    clean = ", ".join(check.name for check in checks if check.made and not check.finding)
    unmade = ", ".join(check.name for check in checks if not check.made and not check.finding)
    text = f"Looked for and not found: {clean}."
    text += f" Not looked for, since there is nothing to look at: {unmade}." if unmade else ""
    return Section("Warnings", "" if found else "No check found anything.", [*found, paragraph(text, "soft")])


def _network_sections(run: RunRecord) -> list[Section]:
    record = run.evaluation
    if record is None:
        examples = Section("Examples", "There are no evaluated images to show.")
        spectra = Section("Spectra", "There are no evaluated images to take spectra of.")
        latent = Section("Latent", "There are no evaluated images to encode.")
    else:
        examples = _examples(record, run.history.trains_kernel)
        spectra = _spectra(record)
        latent = Section("Latent", "", [grid("charts", [_latent_chart(record.unit_kl)])])
    return [_results(run), _training(run.history), _kernel(run), examples, spectra, latent]


def _results(run: RunRecord) -> Section:
    last = {name: list(run.history.scalar(f"validation/{name}").values())[-1:] for name in TILES}
    shown = [
        (f"{MEASURES[name].name}, last validation", _with_unit(name, *value)) for name, value in last.items() if value
    ]
    body = []
    if run.evaluation is not None:
        about = run.evaluation.about
        metrics, active = (
            about["metrics"],
            (MEASURES["active_units"].name, "{active_units} of {latent_size}".format(**about)),
        )
        shown = [(MEASURES[name].name, _with_unit(name, **metrics[name])) for name in TILES]
        rows = [(MEASURES[name].label, mean_and_std_text(**metrics[name])) for name in PER_IMAGE]
        if about["active_units"] is not None:
            shown, rows = [*shown, active], [*rows, active]
        if run.history.trains_kernel:
            width, sizes = metrics["kernel_width"]["mean"], about["training_voxel_size"]
            millimetres = f" = {width * fmean(sizes):.2f} mm" if all(sizes) else ""
            shown.append((MEASURES["kernel_width"].name, _with_unit("kernel_width", width) + millimetres))
        heads = ("measure", "mean ± std over the images")
        charts = [table(heads, rows, f"{about['title']}: {about['evaluated_on']}"), *_psnr_chart(run)]
        text = (
            "Images in [0, 1]; SSIM with an 11×11 Gaussian window, σ = 1.5; reconstructed from the posterior mean. "
            f"From {run.evaluation_dir}."
        )
        body.append(part("Evaluation", text, grid("charts", charts)))
    else:
        body.append(paragraph(f"There is no evaluation in {run.evaluation_dir}."))
    if run.yardstick is not None:
        body.append(_yardstick(run.yardstick))
    if run.rows is not None and len(run.rows):
        body.append(_extremes(run.rows))
    if run.measures is not None:
        body.append(_measures(run.measures))
    return Section("Results", "" if shown else "Nothing was validated or evaluated yet.", [tiles(shown), *body])


def _with_unit(name: str, mean: float, std: float | None = None) -> str:
    return f"{MEASURES[name].text(mean, std)} {MEASURES[name].unit}".rstrip()


def _psnr_chart(run: RunRecord) -> list[Markup]:
    if run.rows is None or not len(run.rows):
        return []
    values = run.rows["psnr"]
    return [histogram(f"PSNR of the {len(values)} images.", MEASURES["psnr"].label, "images", values)]


def _yardstick(content: Mapping[str, Any]) -> Markup:
    """The network beside the linear models."""
    title = "The network and a linear model"
    if content["problem"]:
        return part(title, f"The network was not compared with a linear model: {content['problem']}")
    head, *rows = yardstick_table(content)
    said = str(content["verdict"])
    shown = table(head, rows, f"{content['title']}: {content['evaluated_on']}")
    return part(title, f"{said[:1].upper()}{said[1:]}.", shown, bullets(yardstick_notes(content)))


def _extremes(rows: Any) -> Markup:
    """The images with the lowest and the highest PSNR, or all of them where they are few."""
    ordered = rows.sort_values("psnr", kind="stable")
    if len(ordered) <= 2 * EXTREMES:
        shown = {"All images, by PSNR": ordered}
    else:
        shown = {
            f"The {EXTREMES} images with the lowest PSNR": ordered[:EXTREMES],
            f"The {EXTREMES} images with the highest PSNR": ordered[: -EXTREMES - 1 : -1],
        }
    head = [MEASURES[name].label if name in PER_IMAGE else name for name in rows.columns]

    def cells(row: Sequence[Any]) -> list[str]:
        return [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row]

    tables = [table(head, [cells(row) for row in frame.itertuples(index=False)], text) for text, frame in shown.items()]
    return grid("pairs", tables)


def _measures(content: Mapping[str, Any]) -> Markup:
    """What ``measures.json`` holds."""
    arrows = {"higher": " ↑", "lower": " ↓"}
    rows = [
        (
            row["name"] + arrows.get(row["better"], ""),
            number_text(row["value"]),
            row["unit"],
            row["what"] + (f"; features: {row['features']}" if row["features"] else ""),
        )
        for row in content["measures"].values()
        if row["value"] is not None
    ]
    missing = [f"{row['name']}: {row['reason']}" for row in content["measures"].values() if row["value"] is None]
    blocks = [table(("measure", "value", "unit", "what it is"), rows, str(content["title"]))]
    blocks += [fold(f"Missing measures: {len(missing)}", bullets(missing))] if missing else []
    return part("Measures", "", *blocks, bullets(content["notes"]))


def _training(history: History) -> Section:
    """The terms of the loss and the metrics over the epochs, and pictures of them."""
    charts = []
    for name in ("psnr", "ssim"):
        if values := history.scalar(f"validation/{name}"):
            best = max(values, key=lambda epoch: values[epoch])
            measure = MEASURES[name]
            reached = f"{values[best]:.4g} {measure.unit}".rstrip()
            caption = f"{measure.name} of the validation images; higher is better. Best at epoch {best}: {reached}."
            charts.append(line_chart(caption, EPOCH, measure.label, [Curve("validation", values, ORANGE, "o-")]))
    for name, (title, label, what) in TERMS.items():
        values = history.scalar(f"train/{name}")
        if any(values.values()):  # else a term that the loss has not
            charts.append(loss_chart(f"{title}. {what}; mean over each epoch, per image.", label, values))
    if curves := _both(history, "kl"):
        caption = "KL from the posterior to the prior, the rate: how much the latent tells of its image."
        charts.append(line_chart(caption, EPOCH, MEASURES["kl"].label, curves, from_zero=True))
    if values := history.scalar("validation/active_units"):
        units = MEASURES["active_units"]
        caption = f"Active units of the latent: {units.what}."
        curves = [Curve("validation", values, ORANGE, "o-")]
        charts.append(line_chart(caption, EPOCH, units.name, curves, from_zero=True))
    return _training_section(charts, _stages(history.picture(PICTURES)))


def _training_section(charts: Sequence[Markup], pictures: Sequence[Markup] = ()) -> Section:
    text = "" if charts else "The training wrote no curves yet."
    return Section("Training", text, [*([grid("charts", charts)] if charts else []), *pictures])


def _stages(pictures: Mapping[int, bytes]) -> list[Markup]:
    """A few validation images, and their reconstructions and some samples over the training."""
    rows = {epoch: strips(pictures[epoch], 3) for epoch in spread(list(pictures), PICTURE_EPOCHS)}
    if not rows:
        return []
    text = "The same few images and the same latents for the samples, as the network was at that time."
    inputs = grid("strips", [picture(list(rows.values())[-1][0], "validation images")])
    stages = [part("Validation images over the training", text, inputs)]
    for epoch, (_, reconstructions, samples) in rows.items():
        shown = [picture(reconstructions, f"reconstructions at epoch {epoch}")]
        stages.append(grid("strips", [*shown, picture(samples, f"samples from the prior at epoch {epoch}")]))
    return stages


def _both(history: History, name: str) -> list[Curve]:
    curves = [
        Curve("training", history.scalar(f"train/{name}"), BLUE),
        Curve("validation", history.scalar(f"validation/{name}"), ORANGE, "o-"),
    ]
    return [curve for curve in curves if curve.values]


def _kernel(run: RunRecord) -> Section:
    trained, size = run.history.trains_kernel, run.settings.get("kernel_size")
    text = "" if trained else "No kernel generator was trained in this run, so that there is no kernel to show."
    body = []
    if run.settings.get("determinant") == "fixed":
        variance = run.settings.get("fixed_variance")
        fixed = f"The likelihood has a fixed Gaussian kernel with a variance of {variance} pixels² along each axis; a "
        body.append(paragraph(f"{fixed}predicted kernel has no part in it."))
    if not trained:
        return Section("Kernel", text, body)
    charts = []
    if curves := _both(run.history, "kernel_width"):
        level = (flat_width(size, run.spatial_dims), "flat kernel") if isinstance(size, int) else None
        caption = "Mean width of the predicted kernels, the RMS radius about their centroid."
        label = MEASURES["kernel_width"].label
        charts.append(line_chart(caption, EPOCH, label, curves, from_zero=True, level=level))
    if run.evaluation is not None:
        kernel, about = run.evaluation.mean_kernel, run.evaluation.about
        kernel = kernel if kernel.ndim == 2 else kernel[:, kernel.shape[1] // 2]
        caption = f"Mean kernel over {about['evaluated_on']}, relative to its maximum."
        charts.append(picture(kernel_pixels(kernel, about["quarter_turns"]), caption, "small-kernel"))
    body += [grid("charts", charts)] if charts else []
    pictures = run.history.picture(KERNELS)
    if pictures:
        epochs = spread(list(pictures), KERNEL_EPOCHS)
        shown = [picture(strips(pictures[epoch], 1)[0], f"kernels at epoch {epoch}") for epoch in epochs]
        words = "Of the same few validation images, each relative to its maximum."
        body.append(part("Kernels over the training", words, grid("strips", shown)))
    return Section("Kernel", text, body)


def _examples(record: EvaluationRecord, with_kernels: bool) -> Section:
    """Evaluated images with reconstructions, errors and kernels; samples; images drawn around both."""
    turns = record.about["quarter_turns"]
    errors = error_maps(record.images, record.reconstructions, turns)
    shown = {"image": upright(record.images, turns), "reconstruction": upright(record.reconstructions, turns)}
    shown |= {"error": errors.maps}
    if with_kernels:
        shown["kernel"] = np.stack([kernel_pixels(kernel, turns) for kernel in record.kernels])
    texts = [_example_text(row) for row in record.about["examples"]]
    samples = [
        image(sample, f"sample {i} from the prior") for i, sample in enumerate(upright(record.samples, turns), 1)
    ]
    body = [
        errors.scale,
        _image_rows(texts, shown),
        part("Samples from the prior", "The means of latents that were drawn from N(0, I).", grid("samples", samples)),
    ]
    return Section("Examples", "", [*body, *_drawn(record, texts[:DRAWN_EXAMPLES])])


def _image_rows(texts: Sequence[str], shown: Mapping[str, Pixels], kind: str = "") -> Markup:
    """A row for each text, of the images of that place under each name."""
    rows = [
        image_row(text, [(name, images[i]) for name, images in shown.items()], kind) for i, text in enumerate(texts)
    ]
    return grid("examples", rows)


def _example_text(row: Mapping[str, Any]) -> str:
    """Where an example is from, without its measures, and how well it is reconstructed."""
    (_, name), *rest = [(key, value) for key, value in row.items() if not isinstance(value, float)]
    place = ", ".join([str(name), *(f"{key} {value}" for key, value in rest)])
    return f"{place}: {row['psnr']:.2f} dB, SSIM {row['ssim']:.3f}" if "psnr" in row else place


def _drawn(record: EvaluationRecord, texts: Sequence[str]) -> list[Markup]:
    """Images drawn from the densities, where one was fitted."""
    about, turns = record.about["draws"], record.about["quarter_turns"]
    names = about["likelihoods"]
    if not names:
        return [
            part(
                "Images drawn from the density", "", paragraph(f"No images were drawn: {about['missing'].strip('.')}.")
            )
        ]

    def shown(means: Pixels, draws: Pixels) -> dict[str, Pixels]:
        rows = {"mean": means, **{f"drawn, {LIKELIHOODS[n][0]}": found for n, found in zip(names, draws, strict=True)}}
        return {name: upright(images, turns) for name, images in rows.items()}

    images = {"image": upright(record.images, turns)} | shown(record.reconstructions, record.reconstruction_draws)
    samples = shown(record.samples, record.sample_draws)
    shares = ", ".join(f"{LIKELIHOODS[name][0]} {about['outside'][name]:.1%}" for name in names)
    what = Markup("<b>{}</b>: {}; it adds {}.")
    return [
        part(
            "Images drawn from the density",
            "",
            paragraph(
                "The decoder gives no single image, but a density p(x|z) of images. The pictures above show its mean, "
                "the average of all images that the model holds possible for a latent, which is smooth as averages "
                "are. Here is one of these images beside each mean, drawn at random: it is what the model says an "
                "image looks like. What a draw adds to its mean is noise with the density's covariance and not "
                "anatomy: it is another one in each draw, and knows nothing of the image."
            ),
            bullets(what.format(*LIKELIHOODS[name], DRAWS[name][2]) for name in names),
            paragraph(
                f"Fitted on {about['fitted_on']} of the validation. Draws exceed [−1, 1], where images end, and are "
                "clipped in pictures, not in spectra. Of the pixels of the drawn reconstructions lie outside: "
                f"{shares}.",
                "soft",
            ),
            _image_rows(texts, images, "drawn"),
        ),
        part(
            "Samples drawn from the density",
            "A latent from N(0, I), the mean of its density, and an image drawn around it from each. Where a sample "
            "looks more like a real image than its mean does, the density knows how strong fine detail is, if not "
            "where.",
            _image_rows([f"sample {i + 1}" for i in range(min(DRAWN_EXAMPLES, len(record.samples)))], samples, "drawn"),
        ),
    ]


def _spectra(record: EvaluationRecord) -> Section:
    """Radial power spectra, and what reconstructions, samples and images drawn around them lack."""
    about, frequencies = record.about, record.frequencies
    size = about["voxel_size"]
    text = (
        f"Radial power spectra, means over {about['evaluated_on']} and {SPECTRUM_SAMPLES} samples, of images in "
        "[−1, 1] with a Hann window."
    )
    if size and all(size) and max(size) <= 1.01 * min(size):
        text += f" 0.5 cycles per pixel are {0.5 / size[0]:.2g} cycles per mm."

    def curve(label: str, power: Numbers, colour: str, style: str = "-") -> Curve:
        return Curve(label, dict(zip(frequencies, power, strict=True)), colour, style)

    own = _log_power(record.image_power)
    reconstruction, sample = _log_power(record.reconstruction_power), _log_power(record.sample_power)
    powers = [
        curve("images", own, GREY),
        curve("reconstructions", reconstruction, BLUE),
        curve("samples", sample, ORANGE, "--"),
    ]
    lacks = [curve("reconstructions", reconstruction - own, BLUE), curve("samples", sample - own, ORANGE, "--")]
    place = int(np.abs(frequencies - 0.25).argmin())
    lack = (
        f"The same relative to the images. At {frequencies[place]:.2f} cycles per pixel the reconstructions have "
        f"{10 ** float((reconstruction - own)[place]):.1%} of the images' power."
    )
    charts = [
        line_chart("Mean power at each spatial frequency.", FREQUENCY, "log₁₀ power", powers),
        line_chart(lack, FREQUENCY, LACK, lacks, level=(0.0, "images")),
    ]
    names = about["draws"]["likelihoods"]
    drawn = {
        "reconstruction": (record.reconstruction_power, record.reconstruction_draw_power),
        "sample": (record.sample_power, record.sample_draw_power),
    }
    for kind, (means, draws) in drawn.items() if names else ():
        curves = {"mean": curve("mean", _log_power(means) - own, BLUE)}
        for name, power in zip(names, draws, strict=True):
            colour, style, _ = DRAWS[name]
            curves[name] = curve(LIKELIHOODS[name][0], _log_power(power) - own, colour, style)
        distances = ", ".join(
            f"{found.label} {np.sqrt(np.square(list(found.values.values())).mean()):.2f}" for found in curves.values()
        )
        caption = (
            f"Power of {kind}s, the mean and images drawn around it, relative to the images. Root mean square "
            f"difference in decades: {distances}."
        )
        charts.append(line_chart(caption, FREQUENCY, LACK, list(curves.values()), level=(0.0, "images")))
    return Section("Spectra", text, [grid("charts", charts)])


def _log_power(power: Numbers) -> Numbers:
    logarithm: Numbers = np.log10(np.maximum(power, POWER_FLOOR))
    return logarithm


def _latent_chart(unit_kl: Numbers) -> Markup:
    """The KL of each latent unit, the largest first."""
    ordered = np.sort(unit_kl)[::-1]
    quiet = int((ordered < QUIET_UNIT).sum())
    caption = (
        f"Mean KL of each of the {len(ordered)} latent units, the largest first: {ordered.sum():.1f} nats in all, "
        f"{quiet} units below {QUIET_UNIT:g} nats."
    )
    return area_chart(caption, "latent unit, by rank", "KL (nats)", ordered)


def _data(run: RunRecord) -> Section:
    """What is known of the data."""
    listed = run.datalist or {}
    about = run.evaluation.about if run.evaluation else {}
    trained, here = about.get("training_voxel_size") or [], about.get("voxel_size")
    nan = [int(e["nan_voxels"]) for split in SPLITS for e in listed.get(split, []) if e.get("nan_voxels")]
    known = {
        "description": listed.get("description", ""),
        "remark": run.remark,
        "folder": listed.get("dataset_dir", ""),
        "voxel size of the training": f"{size_text(trained)} mm" if trained and all(trained) else "",
        "voxel size of the evaluated images": f"{size_text(here)} mm" if here else "",
        "NaN, taken as background": f"{sum(nan)} voxels of {len(nan)} volumes" if nan else "",
    }
    body = [facts(known.items())]
    if run.datalist is None:
        body.append(paragraph("The folder holds no data list."))
    else:
        counts = {name: len(listed.get(name, [])) for name in SPLITS}
        first = [
            part(
                f"{name}, {min(count, FIRST_ENTRIES)} of {count}",
                "",
                bullets(f"{e.get('subject', '')}: {e.get('image', '')}" for e in listed[name][:FIRST_ENTRIES]),
            )
            for name, count in counts.items()
            if count
        ]
        body.append(part("Splits", "", table(("split", "entries"), list(counts.items()))))
        body.append(fold("The first entries of each split", *first))
    if run.skipped:
        left = fold(f"{len(run.skipped)} file(s)", bullets(run.skipped))
        body.append(part("Files that were left out", "", left))
    return Section("Data", "", body)


def _settings(settings: Mapping[str, Any]) -> Section:
    """The settings by what they are about, those of other kinds last."""
    groups: dict[str, list[tuple[str, str]]] = {title: [] for title in (*GROUPS, "Other")}
    places = {key: (title, i) for title, keys in GROUPS.items() for i, key in enumerate(keys)}

    def place(name: str) -> tuple[str, int]:
        return places.get(name) or places.get(name.rpartition("#")[0]) or ("Other", 0)

    for name in sorted(settings, key=lambda name: place(name)[1]):
        groups[place(name)[0]].append((name, value_text(settings[name])))
    other = groups.pop("Other")
    shown = [part(title, "", facts(pairs)) for title, pairs in groups.items() if pairs]
    return Section("Settings", "", [grid("settings", shown), *([fold("Other", facts(other))] if other else [])])


def value_text(value: Any) -> str:
    """A value as one writes it: ``–`` for null, ``true`` and ``false``, lists with commas."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(value_text(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _reproduce(run: RunRecord) -> Section:
    again = Markup("<pre>{}</pre>").format(repeat_command(run.path))
    split = f"--datalist {shlex.quote(str(run.path / DATALIST))}"
    same = f"With {split} it takes the same images whatever the data folder holds by then."
    versions = [(name, value_text(value)) for name, value in run.versions.items()]
    made = facts(versions, "Made with") or paragraph("The folder does not tell with which versions the run was made.")
    body = [again, paragraph(with_options(same)), made, paragraph(PAPER, "soft")]
    return Section("Reproduce", "The same training again, in a new folder:", body)


def _prior_sections(run: RunRecord) -> list[Section]:
    training = _training_section(prior_charts(run.history))
    record = run.denoising
    if record is None:
        return [
            Section("Results", f"There is no evaluation in {run.evaluation_dir}."),
            training,
            Section("Denoising", "There are no evaluated images to denoise."),
            Section("Patches", "There are no samples to show."),
        ]
    return [_prior_results(run, record.about), training, _denoising(record), _patches(record)]


def _prior_results(run: RunRecord, about: Mapping[str, Any]) -> Section:
    """Log-densities and PSNR under each noise."""
    metrics, sigmas, last = about["metrics"], about["sigmas"], max(about["sigmas"])
    densities = {"bank": "log p"} if is_exact(about) else {"elbo": "ELBO", "bank": "bank"}
    noisy = {s: -20 * math.log10(s) for s in sigmas}

    def values(name: str) -> dict[float, float]:
        return {s: metrics[f"{name}_{s:g}"] for s in sigmas}

    shown = [
        (f"{label} at σ = {KEY:g}", f"{metrics[f'{name}_{KEY:g}']:.2f} {NATS}") for name, label in densities.items()
    ]
    shown.append((f"KL at σ = {KEY:g}", f"{metrics[f'kl_{KEY:g}']:.2f} nats"))
    gain = f"{noisy[last]:.2f} → {metrics[f'psnr_{last:g}']:.2f} dB"
    shown.append((f"PSNR at σ = {last:g}, with noise → denoised", gain))
    columns = [values(name) for name in (*densities, "kl")]
    rows = [
        (f"{s:g}", *(number_text(v[s]) for v in columns), f"{noisy[s]:.2f}", f"{values('psnr')[s]:.2f}") for s in sigmas
    ]
    heads = ("σ", *(f"{d} ({NATS})" for d in densities.values()), "KL (nats)", "with noise (dB)", "denoised (dB)")
    size = about["patch_size"]
    text = (
        f"σ and PSNR of images in [0, 1]; log p of patches of {size}×{size} pixels with noise, in the scale of the "
        f"model, [−1, 1]; PSNR of the pixels that no patch across the image's border covers. From {run.evaluation_dir}."
    )
    density = "Log-density of held-out patches with noise; more noise spreads it over more of space."
    quality = f"PSNR of images with noise, and of the same images denoised with the inference '{about['inference']}'."
    curves = [
        Curve(label, values(n), colour, "o-") for (n, label), colour in zip(densities.items(), COLOURS, strict=False)
    ]
    qualities = [Curve("with noise", noisy, GREY, "o-"), Curve("denoised", values("psnr"), BLUE, "o-")]
    charts = [
        line_chart(density, SIGMA_LABEL, f"log p ({NATS})", curves),
        line_chart(quality, SIGMA_LABEL, "PSNR (dB)", qualities),
    ]
    measured = table(heads, rows, f"{about['title']}: {about['evaluated_on']}")
    words = [paragraph(sentence) for sentence in prior_verdict(about)]
    return Section("Results", "", [*words, tiles(shown), part("Evaluation", text, measured, grid("charts", charts))])


def prior_verdict(about: Mapping[str, Any]) -> list[str]:
    """In plain words: whether the bank serves, and what the denoiser gains.

    Args:
        about: of the record of a prior's evaluation.
    """
    metrics, sigmas, bank = about["metrics"], about["sigmas"], f"The bank of {about['bank']} latents is"
    lacks = {s: metrics[f"elbo_{s:g}"] - metrics[f"bank_{s:g}"] for s in sigmas}
    most = max(lacks.values())
    advice = "take the inference 'bank'" if about["inference"] == "bank" else "take 'importance', 'bank' is refused"
    if is_exact(about):
        density = (
            f"The density sums over all {about['bank']} latents, so that log p is exact: take the inference 'bank'"
        )
    elif most <= 0:
        density = f"{bank} above the ELBO at every σ, by at least {-most:.2f} nats a patch: {advice}"
    else:
        levels = ", ".join(f"{s:g}" for s, lack in lacks.items() if lack > 0)
        density = f"{bank} below the ELBO at σ = {levels}, by up to {most:.2f} nats a patch: {advice}"
    gains = [metrics[f"psnr_{s:g}"] + 20 * math.log10(s) for s in sigmas]
    harm = "does harm at some σ: the PSNR changes" if min(gains) < 0 else "takes out noise: the PSNR rises"
    denoiser = f"The denoiser {harm} by {min(gains):.2f} to {max(gains):.2f} dB"
    return [f"{sentence}.".replace("-", "−") for sentence in (density, denoiser)]


def prior_charts(history: History) -> list[Markup]:
    """Loss and KL of a prior's training, log-densities of the validation, and the bank against the ELBO.

    Args:
        history: of the training.
    """
    charts = []
    if loss := history.scalar("train/loss"):
        caption = "Training loss, minus the bound of log p, with the KL times β; mean over each epoch."
        charts.append(loss_chart(caption, "loss", loss))
    kl = [Curve("training", history.scalar("train/kl"), GREY), *_level_curves(_levels(history, "kl"))]
    if kl := [curve for curve in kl if curve.values]:
        caption = "KL from the posterior to the prior, of a patch: of the validation under each noise."
        charts.append(line_chart(caption, EPOCH, "KL (nats)", kl, from_zero=True))
    elbo, bank, key = _levels(history, "elbo"), _levels(history, "bank"), f"{KEY:g}"
    gains = {s: {e: bank[s][e] - v for e, v in elbo[s].items() if e in bank[s]} for s in elbo if s in bank}
    # a sum over all latents is recorded as both, which differ by rounding
    exact = all(abs(gain) < ROUNDING for line in gains.values() for gain in line.values())
    if key in gains:
        best = max(elbo[key], key=lambda epoch: elbo[key][epoch])
        caption = (
            f"Log-density of held-out patches at σ = {key}, by which the best model is chosen; higher is better. Best "
            f"{'' if exact else 'ELBO '}at epoch {best}: {elbo[key][best]:.2f} nats."
        )
        curves = [Curve("log p" if exact else "ELBO", elbo[key], BLUE, "o-")]
        curves += [] if exact else [Curve("bank", bank[key], ORANGE, "o-")]
        charts.append(line_chart(caption, EPOCH, f"log p ({NATS})", curves))
    if gains and not exact:
        caption = "Bank minus ELBO on held-out patches: above 0 the bank serves, below it is refused."
        label = f"bank − ELBO ({NATS})"
        charts.append(line_chart(caption, EPOCH, label, _level_curves(gains), level=(0.0, "ELBO")))
    return charts


def _levels(history: History, name: str) -> dict[str, Mapping[int, float]]:
    """The values of a quantity of the validation by the noise, the smallest first."""
    start = f"validation/{name}_"
    names = sorted((n for n in history.scalars if n.startswith(start)), key=lambda n: float(n[len(start) :]))
    return {n[len(start) :]: history.scalar(n) for n in names}


def _level_curves(levels: Mapping[str, Mapping[int, float]]) -> list[Curve]:
    return [Curve(f"σ = {s}", values, COLOURS[i % 4], "o-") for i, (s, values) in enumerate(levels.items())]


def _denoising(record: Record) -> Section:
    turns, sigmas = record.about["quarter_turns"], record.about["sigmas"]
    shown = {"image": grey_pixels(record.arrays["images"], 1.0, turns)}
    for level, sigma in enumerate(sigmas):
        shown[f"with noise of {sigma:g}"] = grey_pixels(record.arrays["noisy"][:, level], 1.0, turns)
        shown[f"denoised at {sigma:g}"] = grey_pixels(record.arrays["denoised"][:, level], 1.0, turns)
    text = (
        "Images of the evaluation, with white noise of standard deviation σ, and what the prior makes of them. Black "
        "is 0, white is 1."
    )
    return Section(
        "Denoising", text, [_image_rows([_example_text(row) for row in record.about["examples"]], shown, "wide")]
    )


def _patches(record: Record) -> Section:
    captions = {
        "real_patches": "patches of the evaluated images",
        "mean_patches": "samples from the prior: the mean m(z) of a random latent each",
        "drawn_patches": "the same, drawn with their variance: m(z) + √v(z) n",
    }
    text = "Each as bright as it is, black is 0 and white is 1. A prior is as good as its draws are like the images'."
    shown = [picture(_tiled(record.arrays[name]), caption) for name, caption in captions.items()]
    return Section("Patches", text, [grid("strips", shown)])


def _tiled(patches: Numbers) -> Pixels:
    """Patches ``(N, p, p)`` in [0, 1] side by side in rows, each as bright as it is."""
    rows, size = -(-len(patches) // PATCH_COLUMNS), patches.shape[-1] + 1
    tiled = np.full((rows * PATCH_COLUMNS, size, size), 128, np.uint8)
    tiled[: len(patches), :-1, :-1] = grey_pixels(patches, 1.0, 0)
    return tiled.reshape(rows, PATCH_COLUMNS, size, size).swapaxes(1, 2).reshape(rows * size, -1)
