import json

import pytest

from monai_blurvae.metrics.measures import PER_IMAGE
from monai_blurvae.report.checks import DROP
from monai_blurvae.report.findings import check_run
from monai_blurvae.report.run_record import read_run
from tests.report.runs import DATALIST, evaluate, make_run, saturating, write, write_events, yardstick


def findings(folder, evaluation=None):
    return [check.finding.title for check in check_run(read_run(folder, evaluation)) if check.finding]


def unmade(folder):
    return {check.name for check in check_run(read_run(folder)) if not check.made}


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
    evaluated = [check.finding for check in check_run(read_run(good)) if check.finding]
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
        (lambda epoch: saturating(epoch) - 2 * DROP * (epoch > 14), "Overfitting"),
        (lambda epoch: saturating(epoch) if epoch < 20 else float("nan"), "Not finite"),
    ],
)
def test_findings_of_the_training(tmp_path, psnr, title):
    folder = make_run(tmp_path, psnr=psnr)
    evaluate(folder / "test")
    assert findings(folder) == [title]


def test_an_unfinished_run_is_not_called_unconverged(tmp_path):
    folder = make_run(tmp_path, psnr=lambda epoch: 10 + 0.1 * epoch, finished=False, max_epochs=400)
    (finding,) = [check.finding for check in check_run(read_run(folder)) if check.finding]
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
    (first, *_) = [check.finding for check in check_run(read_run(good)) if check.finding]
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
