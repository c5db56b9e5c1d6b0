"""Both sides of every threshold, and from which file each finding comes."""

import json
import math

import numpy as np
import pytest
import torch

from monai_blurvae.functional import gaussian_kernel, kernel_width
from monai_blurvae.metrics.measures import PER_IMAGE
from monai_blurvae.report import checks
from monai_blurvae.report.record import read_run
from tests.report.runs import DATALIST, evaluate, make_run, saturating, write, write_events, yardstick


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
    finding = checks.collapsed(active, 256, kl, images)
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
    assert [checks.hits_window(kernel) is not None for kernel in kernels] == [False, True]
    flat = checks.hits_window(np.ones((size, size)))
    assert "1.00 times what they hold in a flat kernel" in flat.found


def test_kernel_hits_window_at_the_threshold():
    for weight, found in ((0.249, False), (0.251, True)):
        kernel = np.full((11, 11), 1.0)
        border = np.ones((11, 11), bool)
        border[1:-1, 1:-1] = False
        kernel[border] = weight
        kernel[~border] = (121 - 40 * weight) / 81  # a mean weight of one
        assert (checks.hits_window(kernel) is not None) == found
    assert checks.hits_window(np.zeros((11, 11))) is None
    assert checks.hits_window(np.ones((1, 1))) is None


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_not_finite(value):
    scalars = {"train/loss": {1: 2.0, 2: 1.0}, "train/kl": {1: 1.0, 2: 3.0}}
    assert checks.not_finite(scalars) is None
    scalars["train/kl"] |= {3: 2.0, 4: value, 5: value}
    scalars["train/loss"] |= {5: value}
    finding = checks.not_finite(scalars)
    assert f"train/kl is {value} in epoch 4" in finding.found
    assert "3 value(s)" in finding.found


def findings(folder, evaluation=None):
    return [check.finding.title for check in checks.check_run(read_run(folder, evaluation)) if check.finding]


def unmade(folder):
    return {check.name for check in checks.check_run(read_run(folder)) if not check.made}


@pytest.fixture
def good(tmp_path):
    """A run of which there is nothing to say."""
    folder = make_run(tmp_path / "run")
    evaluate(folder / "test")
    return folder


def test_a_good_run(good):
    assert findings(good) == []
    assert unmade(good) == set()


def test_each_finding_comes_from_its_file(good):
    summary = json.loads((good / "summary.json").read_text())
    write(good / "summary.json", summary | {"skipped": ["x.nii is empty."], "remark": "SYNTHETIC images"})
    assert findings(good) == ["Not your data", "Files were left out"]
    write(good / "datalist.json", DATALIST | {"test": []})
    (good / "summary.json").unlink()
    assert findings(good)[:2] == ["The run is not finished", "No test images"]


def test_findings_of_the_evaluation(good):
    metrics = {name: {"mean": 2.0, "std": 1.0} for name in PER_IMAGE}
    evaluate(good / "test", metrics=metrics)
    assert findings(good) == ["Posterior collapse"]
    evaluate(good / "test", voxel_size=[0.7, 0.8])
    assert findings(good) == ["Other voxel size than in the training"]
    evaluate(good / "test", kernel_variance=9.0)
    assert findings(good) == ["The kernel hits the edge of its window"]
    evaluate(good / "test")
    other = evaluate(good / "evaluation" / "0001", remark="SYNTHETIC images")
    assert findings(good) == []
    assert findings(good, other) == ["Not your data"]


def test_a_network_behind_the_linear_model_comes_first(good):
    behind = yardstick(behind=True, verdict="not trained: it has a better bound (1 < 2)")
    write(good / "test" / "yardstick.json", behind)
    evaluated = [check.finding for check in checks.check_run(read_run(good)) if check.finding]
    assert [finding.title for finding in evaluated] == ["Not trained"]
    assert evaluated[0].serious
    assert evaluated[0].found.startswith("Not trained: it has a better bound (1 < 2), over 40 patches of 2 subjects; ")
    write(good / "test" / "yardstick.json", {"title": "test", "problem": "no images."})
    assert findings(good) == []
    assert unmade(good) == {"a network that is behind a linear model"}
    write(good / "test" / "yardstick.json", {"title": "test", "problem": ""})
    assert findings(good) == ["Files cannot be read"]


@pytest.mark.parametrize(
    ("psnr", "title"),
    [
        (lambda epoch: 10 + 0.1 * epoch, "Not converged"),
        (lambda epoch: saturating(epoch) - 2 * checks.DROP * (epoch > 14), "Overfitting"),
        (lambda epoch: saturating(epoch) if epoch < 20 else float("nan"), "Not finite"),
    ],
)
def test_findings_of_the_training(tmp_path, psnr, title):
    folder = make_run(tmp_path, psnr=psnr)
    evaluate(folder / "test")
    assert findings(folder) == [title]


def test_an_unfinished_run_is_not_called_unconverged(tmp_path):
    folder = make_run(tmp_path, psnr=lambda epoch: 10 + 0.1 * epoch, finished=False, max_epochs=400)
    (finding,) = [check.finding for check in checks.check_run(read_run(folder)) if check.finding]
    assert "Epoch 20 of 400" in finding.found
    assert str(folder / "config.json") in finding.remedy
    assert "a training that has not converged" in unmade(folder)


def test_a_kernel_that_is_as_wide_as_a_flat_one(tmp_path):
    """The edge, which it reaches too, is not called another finding."""
    folder = make_run(tmp_path, kernel_size=5)
    evaluate(folder / "test", kernel_size=5, kernel_variance=100.0)
    assert findings(folder) == ["The kernel did not narrow"]


def test_a_kernel_that_was_not_trained_is_not_looked_at(tmp_path):
    folder = make_run(tmp_path, kernel=False, kernel_size=5)
    evaluate(folder / "test", kernel_size=5, kernel_variance=100.0)
    assert findings(folder) == []
    assert unmade(folder) == {"a kernel that did not narrow", "a kernel that hits its window"}


def test_a_run_without_test(tmp_path):
    folder = make_run(tmp_path)
    assert findings(folder) == ["Nothing to show of the test"]
    write(folder / "datalist.json", DATALIST | {"test": []})
    assert findings(folder) == ["No test images"]
    (folder / "datalist.json").unlink()
    assert findings(folder) == ["Nothing to show of the test"]
    assert "missing test images" in unmade(folder)


def test_a_run_that_has_only_begun(tmp_path):
    write(tmp_path / "config.json", {})
    assert findings(tmp_path) == ["The run is not finished"]
    write_events(tmp_path / "tensorboard", range(1, 2), size=8)
    assert findings(tmp_path) == ["The run is not finished"]


def test_broken_files_are_named_and_the_rest_is_used(good):
    files = ("datalist.json", "versions.json", "summary.json", "test/evaluation.npz", "test/metrics.csv")
    for name in files:
        (good / name).write_text("{\n1\n")
    write(good / "test" / "measures.json", {"title": "test", "notes": [], "measures": {"psnr": {"value": 1.0}}})
    (first, *_) = [check.finding for check in checks.check_run(read_run(good)) if check.finding]
    assert first.title == "Files cannot be read"
    for name in (*files, "test/measures.json"):
        assert str(good / name) in first.found
    assert read_run(good).history.epochs == 20


@pytest.mark.parametrize("content", [[], {"training": {}}, {"test": ["a.nii"]}, {"test": None}])
def test_a_data_list_that_is_none(good, content):
    write(good / "datalist.json", content)
    assert "Files cannot be read" in findings(good)


def test_the_remarks_of_training_and_evaluation_are_both_told(good):
    write(good / "datalist.json", DATALIST | {"remark": "crops of photographs"})
    assert read_run(good).remark == "crops of photographs"
    evaluate(good / "test", remark="SYNTHETIC images")
    assert read_run(good).remark == "SYNTHETIC images; crops of photographs"
    write(good / "datalist.json", DATALIST | {"description": "synthetic: MNI152"})
    evaluate(good / "test")
    assert read_run(good).remark == "synthetic: MNI152"
