"""What a report warns of, in plain words: what was found, why it matters and what to do.

A check of a few numbers gives a :class:`Finding`, or None when all is well. They point to where one should look; none
of them is a proof.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from monai_blurvae.handlers.voxel_size import TOLERANCE as VOXEL_SIZE_TOLERANCE
from monai_blurvae.report.record import RunRecord
from monai_blurvae.run_files import CONFIG, DENOISING_NPZ, EVALUATION_NPZ, SUMMARY, TEST

LEAST_KL = 3.0
"""Mean KL in nats below which the posterior counts as collapsed. The KL bounds what the latent tells of its image, and
3 nats tell about e³ ≈ 20 images apart, which is fewer than any test set holds."""
LEAST_PATCH_KL = 0.1
"""Nats below which the latent of a prior's patch says next to nothing: one Gaussian for all patches."""
RISE = 0.1
"""Rise of the validation PSNR in dB over a fifth of the training beyond which it has not converged. 0.1 dB are 2 % of
the squared error; seeds of one setting scatter by about that."""
PATCH_RISE = 0.5
"""Likewise of a prior's log-density, in nats a patch; seeds scatter by a few tenths."""
FEWEST_VALIDATIONS = 5
"""Validations that a line is fitted to, at least: with fewer, its own error would be too uncertain to judge it by."""
DROP = 0.5
"""Fall of the validation PSNR in dB below its best, both means of three validations, that counts as overfitting: 12 %
more squared error, several times what the mean of three wavers by."""
FEWEST_COMPARED = 6
"""Validations that overfitting is looked for in, at least: two groups of three."""
NARROWED = 0.95
"""A kernel's mean width over that of a flat one, from which on it did not narrow. Kernels that explain the blur lose
more: in a training of a few thousand iterations 11×11 kernels go from 5.5 to about 3.3 pixels with most losses."""
BORDER = 0.25
"""Mean weight of a kernel's outermost pixels over its mean weight. A flat kernel has 1, a Gaussian whose window ends at
two standard deviations about 1/4: 0.32, 0.26 and 0.24 for windows of 5, 11 and 41 pixels."""
NORMAL_MEDIAN = 1.4826
"""Standard deviation of a normal variable over the median of its absolute value."""


class Finding(NamedTuple):
    """Something that whoever uses the model should know.

    Attributes:
        title: a few words.
        found: what was found, with the numbers.
        why: why it matters.
        remedy: what to do.
        serious: whether it puts the result into question; otherwise it is worth knowing.
    """

    title: str
    found: str
    why: str
    remedy: str
    serious: bool = True


class Check(NamedTuple):
    """A check that was made, or could not be for lack of data.

    Attributes:
        name: what was looked for.
        made: whether there was something to look at.
        finding: what was found, or None.
    """

    name: str
    made: bool
    finding: Finding | None = None


class Trend(NamedTuple):
    """A line through the last validations: their epochs and number, and its rise over a fifth of the training."""

    first: int
    last: int
    validations: int
    rise: float
    error: float


def check_run(run: RunRecord) -> list[Check]:
    """All checks of a run, the serious findings first.

    Args:
        run: of a network of images or of a learned prior.
    """
    made = [*_state(run), *(_prior(run) if run.is_prior else _network(run)), *_data(run)]
    return sorted(made, key=lambda check: check.finding is None or not check.finding.serious)


def repeat_command(run_dir: Path) -> str:
    """What does a run again."""
    return f"python -m monai.bundle run training --config_file {shlex.quote(str(run_dir / CONFIG))}"


def resume_command(run_dir: Path) -> str:
    """What goes on with a run."""
    return f"{repeat_command(run_dir)} --run_dir {shlex.quote(str(run_dir))} --resume true"


def _state(run: RunRecord) -> Iterator[Check]:
    """Of the files of a run and its curves."""
    broken = Finding(
        "Files cannot be read",
        " ".join(run.problems),
        "What they hold is missing in this report.",
        "Take them from a copy, or make them again.",
    )
    yield Check("files that cannot be read", True, broken if run.problems else None)
    max_epochs = run.settings.get("max_epochs")
    asked = "" if max_epochs is None else f" of {max_epochs}"
    unfinished = Finding(
        "The run is not finished",
        f"Epoch {run.history.epochs}{asked} is the last that was written, and there is no {SUMMARY}.",
        "It was interrupted, failed or is still running; what is shown is where it stood.",
        f"If it is not running any more, go on with it: {resume_command(run.path)}",
    )
    yield Check("an unfinished run", True, unfinished if run.summary is None else None)
    yield Check("terms that are not finite", bool(run.history.scalars), not_finite(run.history.scalars))


def _network(run: RunRecord) -> Iterator[Check]:
    """Of a network of images."""
    known = run.yardstick if run.yardstick is not None and not run.yardstick["problem"] else None
    behind = _behind_linear(known) if known is not None and known["behind"] else None
    yield Check("a network that is behind a linear model", known is not None, behind)
    psnr = run.history.scalar("validation/psnr")
    over = run.summary is not None and trend(psnr) is not None  # an unfinished one needs no saying twice
    yield Check("a training that has not converged", over, not_converged(psnr) if over else None)
    yield Check("overfitting", len(psnr) >= FEWEST_COMPARED, overfitting(psnr))
    widths = list(run.history.scalar("train/kernel_width").values())
    size = run.settings.get("kernel_size")
    trained = run.history.trains_kernel
    known_size = size if trained and isinstance(size, int) and len(widths) > 1 else None
    wide = kernel_not_narrowed(widths[0], widths[-1], known_size, run.spatial_dims) if known_size else None
    yield Check("a kernel that did not narrow", known_size is not None, wide)
    record = run.evaluation
    # a kernel that is still flat reaches the edge too, for the same reason
    kernel = record.mean_kernel if trained and record is not None and wide is None else None
    yield Check("a kernel that hits its window", kernel is not None, None if kernel is None else hits_window(kernel))
    yield from _evaluated(run, record is not None, EVALUATION_NPZ)
    if record is None:
        yield Check("posterior collapse", False)
        yield Check("another voxel size", False)
        return
    about = record.about
    collapse = collapsed(about["active_units"], about["latent_size"], about["metrics"]["kl"]["mean"], about["images"])
    yield Check("posterior collapse", True, collapse)
    trained_size, here = about["training_voxel_size"], about["voxel_size"]
    yield Check("another voxel size", all(trained_size) and here is not None, other_spacing(trained_size, here))


def _prior(run: RunRecord) -> Iterator[Check]:
    """Of a learned prior."""
    log_p = run.history.scalar("validation/log_p")
    over = run.summary is not None and trend(log_p) is not None
    finding = not_converged(log_p, PATCH_RISE, "nats a patch of log p") if over else None
    yield Check("a training that has not converged", over, finding)
    yield from _evaluated(run, run.denoising is not None, DENOISING_NPZ)
    about = None if run.denoising is None else run.denoising.about
    banked = about if about is not None and not is_exact(about) else None
    yield Check("a bank below the ELBO", banked is not None, None if banked is None else behind_elbo(banked))
    yield Check("posterior collapse", about is not None, None if about is None else patch_collapsed(about))


def _evaluated(run: RunRecord, evaluated: bool, file: str) -> Iterator[Check]:
    """Of the test at the end."""
    no_test = Finding(
        "No test images",
        "The data list names no image for the test.",
        "The validation images chose the model, so that figures on them are too good.",
        "Set some subjects apart, or evaluate on other data by bundles/…/evaluate.json with a dataset_dir.",
    )
    yield Check("missing test images", run.test_images is not None, no_test if run.test_images == 0 else None)
    missing = Finding(
        "Nothing to show of the test",
        f"The run's folder {TEST} holds no {file}.",
        "Nothing that a test tells can be shown: examples, their measures, what the latent holds.",
        "Evaluate the run by bundles/…/evaluate.json, and make the report of the folder that it writes.",
        serious=False,
    )
    absent = run.summary is not None and not evaluated and run.test_images != 0
    yield Check("a missing evaluation", True, missing if absent else None)


def _data(run: RunRecord) -> Iterator[Check]:
    """Of the data of a run."""
    marked = Finding(
        "Not your data",
        f"The images are marked: {run.remark}.",
        "They are there to try the program. Figures on them say nothing about real images.",
        "Give your own images as dataset_dir.",
        serious=False,
    )
    yield Check("sample or synthetic data", True, marked if run.remark else None)
    skipped = Finding(
        "Files were left out",
        f"{len(run.skipped)} file(s) could not be used, the first: {(run.skipped or [''])[0]}",
        "The model has not seen them, and if they have something in common, such as a scanner, it is missing a kind "
        "of image.",
        "Repair the files, or leave them out of the data list; all are listed under Data.",
        serious=False,
    )
    yield Check("files that were left out", run.summary is not None, skipped if run.skipped else None)


def _behind_linear(yardstick: Mapping[str, Any]) -> Finding:
    """The exact optimum of a linear VAE does better than the network, see :mod:`monai_blurvae.yardstick`."""
    said = str(yardstick["verdict"])
    return Finding(
        "Not trained",
        f"{said[:1].upper()}{said[1:]}, over {yardstick['evaluated_on']}; it is the exact optimum of a linear VAE on "
        f"{yardstick['fitted_on']}.",
        "A network can do all that a linear model can. One that is behind it has not been trained far enough to show "
        "what it, or its loss, is good for.",
        "Train longer, with a higher learning rate, or on more patches.",
    )


def collapsed(active_units: int | None, latent_size: int, kl: float, images: int) -> Finding | None:
    """The mean KL of a number of images, in nats, is under :data:`LEAST_KL`; the active units are told, if known."""
    if kl >= LEAST_KL:
        return None
    units = "" if active_units is None else f"{active_units} of {latent_size} latent units are active, and "
    return Finding(
        "Posterior collapse",
        f"Over {images} images, {units}the mean KL is {kl:.3g} nats (expected: at least {LEAST_KL:g} nats).",
        "The latent says little about its image: the decoder gives nearly the same for all of them, and samples and "
        "reconstructions are close to the mean image.",
        "Lower beta, train longer or with a higher learning rate, or use a smaller latent_size if the reconstructions "
        "are good all the same.",
    )


def other_spacing(training: Sequence[float], evaluated: Sequence[float] | None) -> Finding | None:
    """Voxel sizes in mm, zeros or None where unknown, differ by more than what the evaluation itself warns of."""
    if evaluated is None or not all(training) or not all(evaluated):
        return None
    if max(abs(b / a - 1) for a, b in zip(training, evaluated, strict=True)) <= VOXEL_SIZE_TOLERANCE:
        return None
    return Finding(
        "Other voxel size than in the training",
        f"The evaluated images have voxels of {size_text(evaluated)} mm along the axes of a patch, those of the "
        f"training {size_text(training)} mm (tolerance {VOXEL_SIZE_TOLERANCE:.0%}).",
        "The network knows structures by their size in pixels, so that images of another voxel size are foreign to it "
        "and are reconstructed worse.",
        "Resample the images to the training's voxel size, or train on images like these.",
    )


def trend(values: Mapping[int, float]) -> Trend | None:
    """A line, by least squares, through the validations in the last fifth of the training.

    Where those are fewer than :data:`FEWEST_VALIDATIONS`, it goes through the last ones before them too.

    Args:
        values: by epoch.

    Returns:
        None with too few validations, or values that are not finite.
    """
    epochs = sorted(values)
    if len(epochs) < FEWEST_VALIDATIONS:
        return None
    fifth = epochs[-1] / 5
    late = [epoch for epoch in epochs if epoch > epochs[-1] - fifth]
    late = late if len(late) >= FEWEST_VALIDATIONS else epochs[-FEWEST_VALIDATIONS:]
    x = np.array(late, float) - np.mean(late)
    y = np.array([values[epoch] for epoch in late])
    if not np.isfinite(y).all():
        return None
    slope = float((x * y).sum() / (x**2).sum())
    residual = y - y.mean() - slope * x
    error = math.sqrt(float((residual**2).sum()) / (len(late) - 2) / float((x**2).sum()))
    return Trend(late[0], late[-1], len(late), slope * fifth, error * fifth)


def not_converged(values: Mapping[int, float], least: float = RISE, unit: str = "dB of PSNR") -> Finding | None:
    """A validation measure still rises over the last fifth of the training.

    The line of :func:`trend` rises by more than ``least`` and by more than twice its standard error.

    Args:
        values: of the measure by epoch; higher is better.
        least: rise that counts.
        unit: of the values, and what they are.
    """
    line = trend(values)
    if line is None or line.rise <= max(least, 2 * line.error):
        return None
    best = max(values, key=lambda epoch: values[epoch])
    return Finding(
        "Not converged",
        f"A line through the {line.validations} validations from epoch {line.first} to {line.last} rises by "
        f"{line.rise:.2f} ± {line.error:.2f} {unit} over a fifth of the training; the best validation was at epoch "
        f"{best}.",
        "The model would go on to improve, and its figures compare with no model that was trained to the end.",
        f"Go on with the run, with max_epochs {2 * line.last} or more.",
    )


def overfitting(psnr: Mapping[int, float]) -> Finding | None:
    """The validation PSNR ends more than :data:`DROP` below its best.

    Compared are means of three validations in a row, the best ones and the last ones, since the best of many noisy
    values is too high. The fall also has to exceed three times the noise, which is taken from the median step from one
    validation to the next, so that a steep beginning does not count.

    Args:
        psnr: on the validation images in dB, by epoch.
    """
    epochs = sorted(psnr)
    values = np.array([psnr[epoch] for epoch in epochs])
    if len(values) < FEWEST_COMPARED or not np.isfinite(values).all():
        return None
    means = np.convolve(values, np.ones(3) / 3, "valid")
    best = int(means.argmax())
    drop = float(means[best] - means[-1])
    noise = float(np.median(np.abs(np.diff(values)))) * NORMAL_MEDIAN / math.sqrt(2)
    if drop <= max(DROP, 3 * noise):
        return None
    return Finding(
        "Overfitting",
        f"The validation PSNR was {means[best]:.2f} dB around epoch {epochs[best + 1]} and is {means[-1]:.2f} dB at "
        "the end, means of three validations each.",
        "The network goes on to learn its training images by heart. The model that is kept is the best on the "
        "validation images, but the epochs after it were of no use, and more would be of none.",
        "Train on more images, draw more patches of each, or use a narrower network or a higher beta.",
    )


def flat_width(kernel_size: int, spatial_dims: int = 2) -> float:
    """RMS radius in pixels of a flat kernel of size k along each of d axes, √(d (k² − 1) / 12)."""
    return math.sqrt(spatial_dims * (kernel_size**2 - 1) / 12)


def kernel_not_narrowed(first: float, last: float, kernel_size: int, spatial_dims: int = 2) -> Finding | None:
    """Kernels, of this RMS radius in pixels in the first and last epoch, are about as wide as a flat one."""
    flat = flat_width(kernel_size, spatial_dims)
    if last < NARROWED * flat:
        return None
    size = "×".join([str(kernel_size)] * spatial_dims)
    return Finding(
        "The kernel did not narrow",
        f"The predicted kernels are {last:.2f} pixels wide (RMS radius) at the end and were {first:.2f} in the first "
        f"epoch; a flat kernel of {size} has {flat:.2f}.",
        "Such a kernel tells nothing of the blur of the reconstructions, and a loss that weighs by it weighs nearly "
        "all frequencies alike or at random.",
        "Train longer; if it stays so, look at the reconstructions: they may be too blurred for the window, which "
        "a larger kernel_size widens.",
    )


def hits_window(mean_kernel: npt.ArrayLike) -> Finding | None:
    """The outermost pixels of a kernel ``(k, k[, k])`` weigh more than :data:`BORDER` of what they do in a flat one."""
    weights = np.abs(np.asarray(mean_kernel, float))
    if min(weights.shape) < 3 or not weights.sum() > 0:
        return None
    inside = weights[(slice(1, -1),) * weights.ndim]
    border = weights.sum() - inside.sum()
    ratio = float(border / (weights.size - inside.size) / weights.mean())
    if not ratio > BORDER:
        return None
    return Finding(
        "The kernel hits the edge of its window",
        f"The outermost pixels of the mean kernel hold {border / weights.sum():.0%} of its weight, {ratio:.2f} times "
        f"what they hold in a flat kernel (expected: at most {BORDER:g}).",
        "The blur reaches farther than the kernel can, so that the kernel and all that is derived from it are cut off.",
        "Train longer, since the kernel narrows as the reconstructions sharpen, or set a larger kernel_size.",
    )


def not_finite(scalars: Mapping[str, Mapping[int, float]]) -> Finding | None:
    """A term of the loss or a metric, by name and epoch, is infinite or not a number."""
    broken = [(e, name) for name, values in scalars.items() for e, value in values.items() if not math.isfinite(value)]
    if not broken:
        return None
    epoch, name = min(broken)
    return Finding(
        "Not finite",
        f"{name} is {scalars[name][epoch]} in epoch {epoch}, and {len(broken)} value(s) in all are not finite.",
        "From there on nothing can be learnt, and the weights may be broken.",
        "Begin again with a lower learning rate, with gradient_clip, or in float32.",
    )


def is_exact(about: Mapping[str, Any]) -> bool:
    """Whether an evaluated prior sums over all of its latents, so that there is one log-density, without a bound."""
    return bool(about["latent_size"] == 0)


def behind_elbo(about: Mapping[str, Any]) -> Finding | None:
    """The mean log-density of an evaluated prior's bank, over all σ, is below the encoder's bound."""
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


def patch_collapsed(about: Mapping[str, Any]) -> Finding | None:
    """The latent of an evaluated prior's patch tells next to nothing under the least noise."""
    sigma = min(about["sigmas"])
    kl = about["metrics"][f"kl_{sigma:g}"]
    if kl >= LEAST_PATCH_KL:
        return None
    return Finding(
        "Posterior collapse",
        f"The mean KL at σ = {sigma:g} is {kl:.3g} nats a patch (expected: at least {LEAST_PATCH_KL:g}).",
        "Mean and variance hardly depend on the latent, and the prior acts like one Gaussian of all patches.",
        "Lower beta, or train longer or with a higher learning rate.",
    )


def size_text(size: Sequence[float]) -> str:
    """A voxel size, for example ``"0.7×0.7"``."""
    return "×".join(f"{value:.3g}" for value in size)
