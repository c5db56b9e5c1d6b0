"""What the report of a learned prior shows: its densities and its denoiser in place of reconstructions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_blurvae.files import Record
from monai_blurvae.handlers.pictures import Pixels
from monai_blurvae.report import checks
from monai_blurvae.report.charts import BLUE, EPOCH, GREEN, GREY, ORANGE, PURPLE, Chart, Series, late_range, line_chart
from monai_blurvae.report.checks import Finding
from monai_blurvae.report.content import Table, number_text
from monai_blurvae.report.figures import Example
from monai_blurvae.report.findings import Check, data_checks, sorted_checks, state_checks
from monai_blurvae.report.history import History
from monai_blurvae.report.pictures import Picture, grey_pixels, picture
from monai_blurvae.report.run_record import RunRecord
from monai_blurvae.run_files import DENOISING_NPZ

KEY = 0.02
"""Noise of the log-density by which the best model is chosen."""
LEAST_KL = 0.1
"""Nats below which the latent of a patch says next to nothing: one Gaussian for all patches."""
RISE = 0.5
"""Nats a patch over a fifth of the training, beyond which it has not converged; seeds scatter by a few tenths."""
ROUNDING = 1e-3
"""Nats a patch that two ways to sum in float32 differ by at most."""
COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
SIGMA_LABEL, NATS = "σ of the noise, on [0, 1]", "nats a patch"
COLUMNS = 16
"""Patches in a row."""
GAP = 1
"""Pixels between patches, in the middle grey."""


def shown(run: RunRecord) -> dict[str, Any]:
    """What the template shows, by the names that it has there.

    Args:
        run: the training of a prior.
    """
    record = run.denoising
    about = {} if record is None else record.about
    return {
        "checks": sorted_checks(_checks(run)),
        "training_charts": training_charts(run.history),
        "verdict": None if record is None else verdict(about),
        "tiles": [] if record is None else _tiles(about),
        "measures": None if record is None else _table(about),
        "charts": [] if record is None else _test_charts(about),
        "examples": [] if record is None else _examples(record),
        "patches": [] if record is None else _patches(record),
        "about": about,
    }


def verdict(about: Mapping[str, Any]) -> list[str]:
    """In plain words: whether the bank serves, and what the denoiser gains.

    Args:
        about: of the record of an evaluation.
    """
    return [f"{sentence}.".replace("-", "−") for sentence in (_density_verdict(about), _denoiser_verdict(about))]


def is_exact(about: Mapping[str, Any]) -> bool:
    """Whether the model sums over all of its latents, so that there is one log-density, and neither bound nor bank.

    Args:
        about: of the record of an evaluation.
    """
    return bool(about["latent_size"] == 0)


def _density_verdict(about: Mapping[str, Any]) -> str:
    if is_exact(about):
        return f"The density sums over all {about['bank']} latents, so that log p is exact: take the inference 'bank'"
    metrics, sigmas = about["metrics"], about["sigmas"]
    lacks = {s: metrics[f"elbo_{s:g}"] - metrics[f"bank_{s:g}"] for s in sigmas}
    behind = [s for s, lack in lacks.items() if lack > 0]
    if not behind:
        least = -max(lacks.values())
        bank = f"The bank of {about['bank']} latents is above the ELBO at every σ, by at least {least:.2f} nats a patch"
    else:
        most = max(lacks.values())
        levels = ", ".join(f"{s:g}" for s in behind)
        bank = (
            f"The bank of {about['bank']} latents is below the ELBO at σ = {levels}, by up to {most:.2f} nats a patch"
        )
    advice = "take the inference 'bank'" if about["inference"] == "bank" else "take 'importance', 'bank' is refused"
    return f"{bank}: {advice}"


def _denoiser_verdict(about: Mapping[str, Any]) -> str:
    metrics, sigmas = about["metrics"], about["sigmas"]
    gains = [metrics[f"psnr_{s:g}"] + 20 * math.log10(s) for s in sigmas]
    if min(gains) < 0:
        return f"The denoiser does harm at some σ: the PSNR changes by {min(gains):.2f} to {max(gains):.2f} dB"
    return f"The denoiser takes out noise: the PSNR rises by {min(gains):.2f} to {max(gains):.2f} dB"


def behind_elbo(about: Mapping[str, Any]) -> Finding | None:
    """The mean log-density of the bank, over all σ, is below the encoder's bound.

    Args:
        about: of the record of an evaluation.
    """
    metrics, sigmas = about["metrics"], about["sigmas"]
    elbo, bank = (float(np.mean([metrics[f"{name}_{s:g}"] for s in sigmas])) for name in ("elbo", "bank"))
    if bank >= elbo:
        return None
    return Finding(
        "The bank is below the ELBO",
        f"The bank of {about['bank']} latents has a mean log-density of {bank:.2f} nats a patch, the encoder's bound "
        f"is {elbo:.2f} (expected: a bank above it).",
        "Latents that were drawn once are not near enough to what a patch needs: the bank misses what the model knows, "
        "and the prior refuses it.",
        "Load the prior with inference='importance', or train with a smaller latent_size or larger beta.",
        serious=False,
    )


def collapsed(about: Mapping[str, Any]) -> Finding | None:
    """The latent of a patch tells next to nothing under the least noise.

    Args:
        about: of the record of an evaluation.
    """
    sigma = min(about["sigmas"])
    kl = about["metrics"][f"kl_{sigma:g}"]
    if kl >= LEAST_KL:
        return None
    return Finding(
        "Posterior collapse",
        f"The mean KL at σ = {sigma:g} is {kl:.3g} nats a patch (expected: at least {LEAST_KL:g}).",
        "Mean and variance hardly depend on the latent, and the prior acts like one Gaussian of all patches.",
        "Lower beta, or train longer or with a higher learning rate.",
    )


def not_converged(log_p: Mapping[int, float]) -> Finding | None:
    """The held-out log-density still rises over the last fifth of the training.

    Args:
        log_p: nats a patch, by epoch.
    """
    line = checks.trend(log_p)
    if line is None or line.rise <= max(RISE, 2 * line.error):
        return None
    return Finding(
        "Not converged",
        f"A line through the {line.validations} validations from epoch {line.first} to {line.last} rises by "
        f"{line.rise:.2f} ± {line.error:.2f} nats a patch over a fifth of the training.",
        "The prior would go on to improve, and its figures compare with no prior that was trained to the end.",
        f"Go on with the run, with max_epochs {2 * line.last} or more.",
    )


def not_evaluated(run: RunRecord) -> Finding | None:
    """A finished run without the record of an evaluation.

    Args:
        run: the training.
    """
    if run.denoising is not None or run.summary is None:
        return None
    return Finding(
        "Nothing to show of the test",
        f"{run.evaluation_dir.name} holds no {DENOISING_NPZ}.",
        "Log-densities of the test, denoised images and patches cannot be shown.",
        "Evaluate the run by bundles/patch_prior/evaluate.json, and make the report of the folder that it writes.",
        serious=False,
    )


def _checks(run: RunRecord) -> Iterator[Check]:
    yield from state_checks(run)
    log_p = run.history.scalar("validation/log_p")
    over = run.summary is not None and checks.trend(log_p) is not None
    yield Check("a training that has not converged", over, not_converged(log_p) if over else None)
    tests = None if run.datalist is None else len(run.datalist.get("test", []))
    yield Check("missing test images", tests is not None, checks.no_test_images(tests) if tests is not None else None)
    yield Check("a missing evaluation", True, not_evaluated(run) if tests else None)
    about = None if run.denoising is None else run.denoising.about
    banked = about is not None and not is_exact(about)
    yield Check("a bank below the ELBO", banked, behind_elbo(about) if about is not None and banked else None)
    yield Check("posterior collapse", about is not None, None if about is None else collapsed(about))
    yield from data_checks(run)


def _tiles(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    metrics, last = about["metrics"], max(about["sigmas"])
    noisy = -20 * math.log10(last)
    densities = [(label, f"{metrics[f'{name}_{KEY:g}']:.2f} {NATS}") for name, label in _densities(about).items()]
    return [
        *((f"{label} at σ = {KEY:g}", value) for label, value in densities),
        (f"KL at σ = {KEY:g}", f"{metrics[f'kl_{KEY:g}']:.2f} nats"),
        (f"PSNR at σ = {last:g}, with noise → denoised", f"{noisy:.2f} → {metrics[f'psnr_{last:g}']:.2f} dB"),
    ]


def _densities(about: Mapping[str, Any]) -> dict[str, str]:
    """Labels of the log-densities by their names."""
    return {"bank": "log p"} if is_exact(about) else {"elbo": "ELBO", "bank": "bank"}


def _table(about: Mapping[str, Any]) -> Table:
    metrics, densities = about["metrics"], _densities(about)
    rows = [
        (
            f"{s:g}",
            *(number_text(metrics[f"{name}_{s:g}"]) for name in (*densities, "kl")),
            f"{-20 * math.log10(s):.2f}",
            f"{metrics[f'psnr_{s:g}']:.2f}",
        )
        for s in about["sigmas"]
    ]
    labels = [f"{label} ({NATS})" for label in densities.values()]
    head = ("σ", *labels, "KL (nats)", "with noise (dB)", "denoised (dB)")
    return Table(head, rows, f"{about['title']}: {about['evaluated_on']}")


def training_charts(history: History) -> list[Chart]:
    """Loss and KL of the training, log-densities of the validation, and the bank against the ELBO.

    Args:
        history: of the training.
    """
    found = [_loss_chart(history), _kl_chart(history), *_validation_charts(history)]
    return [chart for chart in found if chart is not None]


def _loss_chart(history: History) -> Chart | None:
    loss = history.scalar("train/loss")
    if not loss:
        return None
    y_range = late_range(list(loss.values()))
    begins = "" if y_range is None else f" It begins at {next(iter(loss.values())):.4g}, outside of the chart."
    caption = f"Training loss, minus the bound of log p, with the KL times β; mean over each epoch.{begins}"
    series = [_series("training", loss, BLUE)]
    return Chart(line_chart("loss", caption, EPOCH, "loss", series, y_range=y_range), caption)


def _kl_chart(history: History) -> Chart | None:
    levels = _levels(history, "kl")
    train = history.scalar("train/kl")
    series = [_series("training", train, GREY)] if train else []
    series += [_series(f"σ = {s}", values, COLOURS[i % 4], "o") for i, (s, values) in enumerate(levels.items())]
    if not series:
        return None
    caption = "KL from the posterior to the prior, of a patch: of the validation under each noise."
    return Chart(line_chart("kl", caption, EPOCH, "KL (nats)", series, from_zero=True), caption)


def _validation_charts(history: History) -> Iterator[Chart]:
    elbo, bank = _levels(history, "elbo"), _levels(history, "bank")
    key = f"{KEY:g}"
    exact = _same(elbo, bank)
    if key in elbo and key in bank:
        best = max(elbo[key], key=lambda epoch: elbo[key][epoch])
        caption = (
            f"Log-density of held-out patches at σ = {key}, by which the best model is chosen; higher is better. Best "
            f"{'' if exact else 'ELBO '}at epoch {best}: {elbo[key][best]:.2f} nats."
        )
        series = [_series("log p" if exact else "ELBO", elbo[key], BLUE, "o")]
        series += [] if exact else [_series("bank", bank[key], ORANGE, "o")]
        yield Chart(line_chart("log-p", caption, EPOCH, f"log p ({NATS})", series), caption)
    if elbo.keys() & bank.keys() and not exact:
        caption = "Bank minus ELBO on held-out patches: above 0 the bank serves, below it is refused."
        series = [
            _series(f"σ = {s}", {e: bank[s][e] - v for e, v in elbo[s].items() if e in bank[s]}, COLOURS[i % 4], "o")
            for i, s in enumerate(s for s in elbo if s in bank)
        ]
        level = (0.0, "ELBO")
        yield Chart(line_chart("bank", caption, EPOCH, f"bank − ELBO ({NATS})", series, level=level), caption)


def _same(elbo: Mapping[str, Mapping[int, float]], bank: Mapping[str, Mapping[int, float]]) -> bool:
    """Whether bound and bank are but for rounding: a sum over all latents is recorded as both."""
    pairs = ((value, bank.get(s, {}).get(epoch, math.inf)) for s, line in elbo.items() for epoch, value in line.items())
    return all(abs(one - other) < ROUNDING for one, other in pairs)


def _levels(history: History, name: str) -> dict[str, Mapping[int, float]]:
    """The values of a quantity of the validation by the noise, the smallest first."""
    start = f"validation/{name}_"
    names = sorted((n for n in history.scalars if n.startswith(start)), key=lambda n: float(n[len(start) :]))
    return {n[len(start) :]: history.scalar(n) for n in names}


def _series(label: str, values: Mapping[int, float], colour: str, marker: str = "") -> Series:
    return Series(label, list(values), list(values.values()), colour, marker or ("o" if len(values) == 1 else ""))


def _test_charts(about: Mapping[str, Any]) -> list[Chart]:
    sigmas, metrics = about["sigmas"], about["metrics"]

    def values(name: str) -> list[float]:
        return [metrics[f"{name}_{s:g}"] for s in sigmas]

    density = "Log-density of held-out patches with noise; more noise spreads it over more of space."
    quality = f"PSNR of images with noise, and of the same images denoised with the inference '{about['inference']}'."
    noisy = [-20 * math.log10(s) for s in sigmas]
    densities = [
        Series(label, sigmas, values(name), colour, "o")
        for (name, label), colour in zip(_densities(about).items(), COLOURS, strict=False)
    ]
    qualities = [
        Series("with noise", sigmas, noisy, GREY, "o"),
        Series("denoised", sigmas, values("psnr"), BLUE, "o"),
    ]
    return [
        Chart(line_chart("density", density, SIGMA_LABEL, f"log p ({NATS})", densities), density),
        Chart(line_chart("denoising", quality, SIGMA_LABEL, "PSNR (dB)", qualities), quality),
    ]


def _examples(record: Record) -> list[Example]:
    turns, sigmas = record.about["quarter_turns"], record.about["sigmas"]
    images = grey_pixels(record.arrays["images"], 1.0, turns)
    noisy, denoised = (
        [grey_pixels(stack, 1.0, turns) for stack in record.arrays[name]] for name in ("noisy", "denoised")
    )
    examples = []
    for i, row in enumerate(record.about["examples"]):
        text = ", ".join(str(value) if j == 0 else f"{key} {value}" for j, (key, value) in enumerate(row.items()))
        pictures = [picture(images[i], f"image {text}", "image")]
        for level, sigma in enumerate(sigmas):
            pictures.append(picture(noisy[i][level], f"with noise of {sigma:g}: {text}", f"σ = {sigma:g}"))
            pictures.append(picture(denoised[i][level], f"denoised at {sigma:g}: {text}", "denoised"))
        examples.append(Example(text, pictures))
    return examples


def _patches(record: Record) -> list[Picture]:
    captions = {
        "real_patches": "patches of the evaluated images",
        "mean_patches": "samples from the prior: the mean m(z) of a random latent each",
        "drawn_patches": "the same, drawn with their variance: m(z) + √v(z) n",
    }
    return [picture(_tiled(record.arrays[name]), text, text) for name, text in captions.items()]


def _tiled(patches: npt.NDArray[np.float64]) -> Pixels:
    """Patches ``(N, p, p)`` in [0, 1] side by side in rows, each as bright as it is."""
    rows = -(-len(patches) // COLUMNS)
    size = patches.shape[-1]
    tiles = np.full((rows * COLUMNS, size + GAP, size + GAP), 128, np.uint8)
    tiles[: len(patches), :size, :size] = grey_pixels(patches, 1.0, 0)
    return tiles.reshape(rows, COLUMNS, size + GAP, size + GAP).swapaxes(1, 2).reshape(rows * (size + GAP), -1)
