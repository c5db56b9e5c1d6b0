"""What a report warns of, in plain words: what was found, why it matters and what to do.

Each check is a function of a few numbers and gives a :class:`Finding`, or None when all is well. They point to where
one should look; none of them is a proof.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from monai_blurvae.handlers.voxel_size import TOLERANCE as VOXEL_SIZE_TOLERANCE
from monai_blurvae.run_files import EVALUATION_NPZ, SUMMARY, TEST

LEAST_KL = 3.0
"""Mean KL in nats below which the posterior counts as collapsed. The KL bounds what the latent tells of its image, and
3 nats tell about e³ ≈ 20 images apart, which is fewer than any test set holds."""

RISE = 0.1
"""Rise of the validation PSNR in dB over a fifth of the training beyond which it has not converged. 0.1 dB are 2 % of
the squared error; seeds of one setting scatter by about that."""

FEWEST_VALIDATIONS = 5
"""Validations that a line is fitted to, at least: with fewer, its own error would be too uncertain to judge it by."""

DROP = 0.5
"""Fall of the validation PSNR in dB below its best, both means of three validations, that counts as overfitting: 12 %
more squared error, several times what the mean of three wavers by."""

NARROWED = 0.95
"""A kernel's mean width over that of a flat one, from which on it did not narrow. Kernels that explain the blur lose
more: in a training of a few thousand iterations 11×11 kernels go from 5.5 to about 3.3 pixels with most losses."""

BORDER = 0.25
"""Mean weight of a kernel's outermost pixels over its mean weight. A flat kernel has 1, a Gaussian whose window ends at
two standard deviations about 1/4: 0.32, 0.26 and 0.24 for windows of 5, 11 and 41 pixels."""


FEWEST_COMPARED = 6
"""Validations that overfitting is looked for in, at least: two groups of three."""


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


class Trend(NamedTuple):
    """A line through the last validations.

    Attributes:
        first: epoch of the first of them.
        last: epoch of the last one.
        validations: how many.
        rise: of the line over a fifth of the training.
        error: standard error of ``rise``.
    """

    first: int
    last: int
    validations: int
    rise: float
    error: float


def posterior_collapse(active_units: int | None, latent_size: int, kl: float, images: int) -> Finding | None:
    """The mean KL is under :data:`LEAST_KL`.

    Args:
        active_units: units whose posterior mean varies over the images, which are told, or None.
        latent_size: of the network.
        kl: mean over the images, in nats.
        images: how many were evaluated.
    """
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


def behind_linear(yardstick: Mapping[str, Any]) -> Finding | None:
    """The exact optimum of a linear VAE does better than the network, see :mod:`monai_blurvae.yardstick`.

    Args:
        yardstick: content of ``yardstick.json``, without a problem.
    """
    if not yardstick["behind"]:
        return None
    said = str(yardstick["verdict"])
    return Finding(
        "Not trained",
        f"{said[:1].upper()}{said[1:]}, over {yardstick['evaluated_on']}; it is the exact optimum of a linear VAE on "
        f"{yardstick['fitted_on']}.",
        "A network can do all that a linear model can. One that is behind it has not been trained far enough to show "
        "what it, or its loss, is good for.",
        "Train longer, with a higher learning rate, or on more patches.",
    )


def other_spacing(training: Sequence[float], evaluated: Sequence[float] | None) -> Finding | None:
    """The voxel sizes differ along an axis by more than what the evaluation itself warns of.

    Args:
        training: voxel size of the training in mm along the axes of a patch, zeros where unknown.
        evaluated: of the images evaluated, or None.
    """
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


def not_converged(psnr: Mapping[int, float]) -> Finding | None:
    """The validation PSNR still rises over the last fifth of the training.

    The line of :func:`trend` rises by more than :data:`RISE` and by more than twice its standard error.

    Args:
        psnr: on the validation images in dB, by epoch.
    """
    line = trend(psnr)
    if line is None or line.rise <= max(RISE, 2 * line.error):
        return None
    best = max(psnr, key=lambda epoch: psnr[epoch])
    return Finding(
        "Not converged",
        f"A line through the {line.validations} validations from epoch {line.first} to {line.last} rises by "
        f"{line.rise:.2f} ± {line.error:.2f} dB of PSNR over a fifth of the training; the best validation was at epoch "
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
    """A trained kernel is about as wide as a flat one; see :data:`NARROWED`.

    Args:
        first: mean width, RMS radius in pixels, in the first epoch.
        last: likewise, in the last one.
        kernel_size: of the window.
        spatial_dims: of the kernels.
    """
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


def kernel_hits_window(mean_kernel: npt.ArrayLike) -> Finding | None:
    """The mean kernel's outermost pixels weigh more than :data:`BORDER` of what they would in a flat kernel.

    Args:
        mean_kernel: ``(k, k)`` or ``(k, k, k)``, k ≥ 3.
    """
    weights = np.abs(np.asarray(mean_kernel, float))
    if min(weights.shape) < 3 or not weights.sum() > 0:
        return None
    inside = weights[(slice(1, -1),) * weights.ndim]
    border = weights.sum() - inside.sum()
    members = weights.size - inside.size
    ratio = float(border / members / weights.mean())
    if not ratio > BORDER:
        return None
    return Finding(
        "The kernel hits the edge of its window",
        f"The outermost pixels of the mean kernel hold {border / weights.sum():.0%} of its weight, {ratio:.2f} times "
        f"what they hold in a flat kernel (expected: at most {BORDER:g}).",
        "The blur reaches farther than the kernel can, so that the kernel and all that is derived from it are cut off.",
        "Train longer, since the kernel narrows as the reconstructions sharpen, or set a larger kernel_size.",
    )


def marked_data(remark: str) -> Finding | None:
    """The data are a sample or synthetic.

    Args:
        remark: what has to be said of the data; empty for real ones.
    """
    if not remark:
        return None
    return Finding(
        "Not your data",
        f"The images are marked: {remark}.",
        "They are there to try the program. Figures on them say nothing about real images.",
        "Give your own images as dataset_dir.",
        serious=False,
    )


def skipped_files(skipped: Sequence[str]) -> Finding | None:
    """Files were left out.

    Args:
        skipped: a sentence for each.
    """
    if not skipped:
        return None
    return Finding(
        "Files were left out",
        f"{len(skipped)} file(s) could not be used, the first: {skipped[0]}",
        "The model has not seen them, and if they have something in common, such as a scanner, it is missing a kind "
        "of image.",
        "Repair the files, or leave them out of the data list; all are listed under Data.",
        serious=False,
    )


def no_test_images(count: int) -> Finding | None:
    """The data list has no test images.

    Args:
        count: of the entries of the test split.
    """
    if count:
        return None
    return Finding(
        "No test images",
        "The data list names no image for the test.",
        "The validation images chose the model, so that figures on them are too good.",
        "Set some subjects apart, or evaluate on other data by bundles/…/evaluate.json with a dataset_dir.",
    )


def unfinished(finished: bool, epochs: int, max_epochs: int | None, command: str) -> Finding | None:
    """The run has no summary.

    Args:
        finished: whether it has one.
        epochs: that were written.
        max_epochs: that were asked for, or None.
        command: that goes on with it.
    """
    if finished:
        return None
    asked = "" if max_epochs is None else f" of {max_epochs}"
    return Finding(
        "The run is not finished",
        f"Epoch {epochs}{asked} is the last that was written, and there is no {SUMMARY}.",
        "It was interrupted, failed or is still running; what is shown is where it stood.",
        f"If it is not running any more, go on with it: {command}",
    )


def not_finite(scalars: Mapping[str, Mapping[int, float]]) -> Finding | None:
    """A term of the loss or a metric is infinite or not a number.

    Args:
        scalars: values by name and epoch.
    """
    broken = [
        (epoch, name) for name, values in scalars.items() for epoch, value in values.items() if not math.isfinite(value)
    ]
    if not broken:
        return None
    epoch, name = min(broken)
    return Finding(
        "Not finite",
        f"{name} is {scalars[name][epoch]} in epoch {epoch}, and {len(broken)} value(s) in all are not finite.",
        "From there on nothing can be learnt, and the weights may be broken.",
        "Begin again with a lower learning rate, with gradient_clip, or in float32.",
    )


def not_evaluated(finished: bool, evaluated: bool, test_images: int | None) -> Finding | None:
    """A finished run whose examples, spectra and latents cannot be shown.

    Args:
        finished: whether the training came to its end.
        evaluated: whether there is the record of an evaluation.
        test_images: entries of the test split, None if unknown; without any there was nothing to evaluate.
    """
    if evaluated or not finished or test_images == 0:
        return None
    return Finding(
        "Nothing to show of the test",
        f"The run's folder {TEST} holds no {EVALUATION_NPZ}.",
        "Examples, error maps, spectra and latent units cannot be shown.",
        "Evaluate the run by bundles/…/evaluate.json, and make the report of the folder that it writes.",
        serious=False,
    )


def unreadable_files(problems: Sequence[str]) -> Finding | None:
    """Files of the run are broken.

    Args:
        problems: a sentence for each.
    """
    if not problems:
        return None
    return Finding(
        "Files cannot be read",
        " ".join(problems),
        "What they hold is missing in this report.",
        "Take them from a copy, or make them again.",
    )


def size_text(size: Sequence[float]) -> str:
    """A voxel size, for example ``"0.7×0.7"``."""
    return "×".join(f"{value:.3g}" for value in size)
