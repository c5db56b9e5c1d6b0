"""Both sides of every threshold."""

import math

import numpy as np
import pytest
import torch

from monai_blurvae.functional import gaussian_kernel, kernel_width
from monai_blurvae.report import checks


@pytest.mark.parametrize(
    ("active", "kl", "images", "found"),
    [
        (26, 3.0, 32, False),
        (0, 30.0, 32, False),
        (26, 2.99, 32, True),
        (None, 30.0, 32, False),
        (None, 0.1, 32, True),
    ],
)
def test_posterior_collapse(active, kl, images, found):
    finding = checks.posterior_collapse(active, 256, kl, images)
    assert (finding is not None) == found
    if finding:
        assert f"{kl:.3g} nats" in finding.found


@pytest.mark.parametrize(
    ("training", "evaluated", "found"),
    [
        ((0.7, 0.7), (0.734, 0.7), False),
        ((0.7, 0.7), (0.7, 0.736), True),
        ((1.0, 1.0), (0.94, 1.0), True),
        ((0.0, 0.0), (1.0, 1.0), False),
        ((1.0, 1.0), None, False),
        ((1.0, 1.0), (0.0, 0.0), False),
    ],
)
def test_other_spacing(training, evaluated, found):
    assert (checks.other_spacing(training, evaluated) is not None) == found


def line(rise, epochs=100, every=2, noise=0.0, start=20.0):
    """A PSNR that rises by so many dB over a fifth of the training."""
    rng = np.random.default_rng(0)
    last = range(every, epochs + 1, every)
    return {epoch: start + rise * epoch / (epochs / 5) + noise * rng.normal() for epoch in last}


def test_the_trend_is_numpys_fit_with_its_error():
    psnr = line(0.3, noise=0.2)
    found = checks.trend(psnr)
    late = [epoch for epoch in psnr if epoch > 80]
    (slope, _), covariance = np.polyfit(late, [psnr[epoch] for epoch in late], 1, cov=True)
    assert (found.first, found.last, found.validations) == (82, 100, 10)
    assert found.rise == pytest.approx(20 * slope)
    assert found.error == pytest.approx(20 * math.sqrt(covariance[0, 0]))


def test_a_few_validations_are_looked_at_from_further_back():
    psnr = {10 * i: float(i) for i in range(1, 8)}
    assert (checks.trend(psnr).first, checks.trend(psnr).validations) == (30, 5)
    assert checks.trend({10 * i: float(i) for i in range(1, 5)}) is None
    assert checks.trend({**psnr, 70: math.nan}) is None


@pytest.mark.parametrize(("rise", "found"), [(0.099, False), (0.101, True), (0.0, False), (-0.5, False)])
def test_not_converged(rise, found):
    assert (checks.not_converged(line(rise)) is not None) == found
    psnr = {**line(rise), 10: 40.0}  # an outlier long before the last fifth
    finding = checks.not_converged(psnr)
    assert (finding is not None) == found
    if finding:
        assert "epoch 82 to 100" in finding.found
        assert "was at epoch 10" in finding.found
        assert "max_epochs 200" in finding.remedy


def test_noise_is_no_rise():
    rng = np.random.default_rng(0)
    flat = [{epoch: 20 + 0.3 * rng.normal() for epoch in range(10, 401, 10)} for _ in range(400)]
    assert sum(checks.not_converged(psnr) is not None for psnr in flat) < 0.06 * len(flat)
    assert checks.not_converged(line(1.0, noise=0.3)) is not None


def fallen(drop):
    """A PSNR that rises steeply to 25 dB, stays, and falls by so many dB."""
    values = [10.0, 20.0, 24.0, *[25.0] * 20, *[25 - drop] * 3]
    return {10 * i: value for i, value in enumerate(values, 1)}


@pytest.mark.parametrize(("drop", "found"), [(0.501, True), (0.499, False), (0.0, False), (-1.0, False)])
def test_overfitting(drop, found):
    finding = checks.overfitting(fallen(drop))
    assert (finding is not None) == found
    if finding:
        assert "was 25.00 dB" in finding.found
        assert "is 24.50 dB" in finding.found


def test_overfitting_takes_two_groups_of_three():
    steps = {1: 25.0, 2: 25.0, 3: 25.0, 4: 20.0, 5: 20.0, 6: 20.0}
    assert checks.overfitting(steps) is not None
    assert checks.overfitting(dict(list(steps.items())[1:])) is None
    assert checks.overfitting({**steps, 6: math.nan}) is None


def test_noise_is_no_fall():
    rng = np.random.default_rng(0)
    noisy = [{epoch: 20 + 0.3 * rng.normal() for epoch in range(10, 401, 10)} for _ in range(300)]
    assert sum(checks.overfitting(psnr) is not None for psnr in noisy) < 0.02 * len(noisy)
    wild = {epoch: 20 + 2.0 * (-1) ** i for i, epoch in enumerate(range(10, 401, 10))}
    assert checks.overfitting({**wild, 410: 18.0, 420: 18.0}) is None


def test_the_width_of_a_flat_kernel():
    for size in (5, 11, 41):
        assert checks.flat_width(size) == pytest.approx(float(kernel_width(torch.ones(1, 1, size, size))), rel=1e-5)


FLAT = checks.flat_width(11)


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [
        (5.4, 3.3, False),
        (5.4, 0.951 * FLAT, True),  # like a flat kernel, though narrower than in the first epoch
        (5.4, 0.949 * FLAT, False),
        (0.79 * FLAT, 0.79 * FLAT, False),  # it narrowed within the first epoch
        (4.4, 5.8, True),
    ],
)
def test_kernel_not_narrowed(first, last, found):
    assert (checks.kernel_not_narrowed(first, last, 11) is not None) == found


@pytest.mark.parametrize(("size", "inside", "outside"), [(11, 2.2, 2.6), (41, 9.0, 11.0)])
def test_kernel_hits_window(size, inside, outside):
    kernels = [gaussian_kernel(size, sigma**2)[0, 0].numpy() for sigma in (inside, outside)]
    assert [checks.kernel_hits_window(kernel) is not None for kernel in kernels] == [False, True]
    flat = checks.kernel_hits_window(np.ones((size, size)))
    assert "1.00 times what they hold in a flat kernel" in flat.found


def test_kernel_hits_window_at_the_threshold():
    for weight, found in ((0.249, False), (0.251, True)):
        kernel = np.full((11, 11), 1.0)
        border = np.ones((11, 11), bool)
        border[1:-1, 1:-1] = False
        kernel[border] = weight
        kernel[~border] = (121 - 40 * weight) / 81  # a mean weight of one
        assert (checks.kernel_hits_window(kernel) is not None) == found
    assert checks.kernel_hits_window(np.zeros((11, 11))) is None
    assert checks.kernel_hits_window(np.ones((1, 1))) is None


def test_data():
    assert checks.marked_data("") is None
    assert "crops of photographs" in checks.marked_data("crops of photographs").found
    assert checks.skipped_files([]) is None
    finding = checks.skipped_files(["a.nii is empty.", "b.nii is no volume."])
    assert "2 file(s)" in finding.found
    assert "a.nii is empty." in finding.found
    assert checks.no_test_images(1) is None
    assert checks.no_test_images(0) is not None


def test_state():
    assert checks.unfinished(True, 3, 10, "go on") is None
    finding = checks.unfinished(False, 3, 10, "go on")
    assert "Epoch 3 of 10" in finding.found
    assert finding.remedy.endswith("go on")
    assert "Epoch 3 is" in checks.unfinished(False, 3, None, "").found
    assert checks.not_evaluated(True, True, 4) is None
    assert checks.not_evaluated(False, False, 4) is None
    assert checks.not_evaluated(True, False, 0) is None  # there was nothing to evaluate
    assert checks.not_evaluated(True, False, 4) is not None
    assert checks.not_evaluated(True, False, None) is not None
    assert checks.unreadable_files([]) is None
    assert "x is broken." in checks.unreadable_files(["x is broken."]).found


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_not_finite(value):
    scalars = {"train/loss": {1: 2.0, 2: 1.0}, "train/kl": {1: 1.0, 2: 3.0}}
    assert checks.not_finite(scalars) is None
    scalars["train/kl"] |= {3: 2.0, 4: value, 5: value}
    scalars["train/loss"] |= {5: value}
    finding = checks.not_finite(scalars)
    assert f"train/kl is {value} in epoch 4" in finding.found
    assert "3 value(s)" in finding.found
