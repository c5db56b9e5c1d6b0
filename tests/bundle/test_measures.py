"""The measures of a comparison from the bundle's evaluation."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_blurvae.bundle import FinishedRun, load_weights
from monai_blurvae.bundle.measures import DESCRIPTIONS, FIXED_KERNEL, to_grey_levels
from monai_blurvae.data import Datalist, SlicePatchDataset, evaluation_datalist, prepare_volumes, read_datalist
from monai_blurvae.errors import DataError
from monai_blurvae.losses import VGGFeatureLoss, WatsonLoss
from monai_blurvae.metrics import measure_model
from monai_blurvae.metrics.suite import LIKELIHOOD_KEYS, MEASURE_KEYS, NO_KERNEL
from monai_blurvae.transforms import PrepareVolume
from tests.volumes import EVALUATE, HCP, brain, cause, run, save

KERNEL_ROWS = ("kernel_width", "below_sqrt_c", "nll_kernel", "iw_nll_kernel")
D = 32 * 32


@pytest.fixture
def own_run(finished_run, tmp_path):
    """A copy of the finished run that a test may change: loss wiener, determinant omit, β 1, train_kernel true."""
    return shutil.copytree(finished_run[1], tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))


@pytest.fixture
def other_dir(tmp_path):
    """Two subjects that the run has never seen."""
    for i in (0, 1):
        save(tmp_path / "other" / f"{i}" / HCP, brain(100 + i))
    return tmp_path / "other"


def change(path, **changes):
    content = json.loads(path.read_text())
    for name, value in changes.items():
        if value is None:
            del content[name]
        else:
            content[name] = value
    path.write_text(json.dumps(content))


def evaluate(run_dir, cache_dir, folder, **settings):
    common = {"measures": "true", "importance_samples": 3, "weights_dir": str(folder / "no_weights"), "device": "cpu"}
    out = folder / "out"
    run("evaluating", EVALUATE, run_dir=str(run_dir), cache_dir=cache_dir, output_dir=str(out), **common | settings)
    return json.loads((out / "measures.json").read_text()), (out / "measures.md").read_text()


def values(content):
    return {key: row["value"] for key, row in content["measures"].items()}


def patches(datalist, cache_dir, split):
    """The patches of a split, by the parts that the bundle is wired from."""
    volumes = prepare_volumes(datalist, cache_dir, PrepareVolume(1, None), 32, 0.25, required=())
    dataset = SlicePatchDataset(getattr(volumes, split), 32, 2, 0.25)
    return torch.stack([sample["image"] for sample in dataset])


def expected(run_dir, images, reference, **arguments):
    network = ConfigParser(json.loads((run_dir / "config.json").read_text())).get_parsed_content("network_def")
    network = load_weights(network, run_dir / "model.pt")
    measures = measure_model(network, images, reference, importance_samples=3, **arguments)
    return {key: measure.value for key, measure in measures.items()}


def test_every_measure_is_described_in_the_order_of_the_suite():
    assert tuple(DESCRIPTIONS) == MEASURE_KEYS


def test_measures_stand_beside_the_tables_of_the_same_evaluation(own_run, cache_dir, random_weights_dir, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(own_run / "none"))  # no Inception from a cache
    settings = {"measures": "true", "importance_samples": 3, "weights_dir": str(random_weights_dir), "device": "cpu"}
    run("evaluating", EVALUATE, run_dir=str(own_run), cache_dir=cache_dir, **settings)
    (folder,) = (own_run / "evaluation").iterdir()
    assert {p.name for p in folder.iterdir()} == {
        "metrics.csv",
        "metrics.md",
        "evaluation.npz",
        "reconstructions.png",
        "measures.json",
        "measures.md",
    }
    content = json.loads((folder / "measures.json").read_text())
    assert tuple(content["measures"]) == MEASURE_KEYS
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    subjects = len({row["subject"] for row in rows})
    assert content["evaluated_on"] == f"{len(rows)} patches of {subjects} subjects"
    for name in ("psnr", "ssim", "kl", "kernel_width"):
        assert values(content)[name] == pytest.approx(np.mean([float(row[name]) for row in rows]), rel=1e-4)
    missing = [key for key, row in content["measures"].items() if row["value"] is None]
    assert missing == [key for key in MEASURE_KEYS if key.startswith("fid_")]
    assert all(content["measures"][key]["reason"] for key in missing)
    table = (folder / "measures.md").read_text()
    assert table.count("| nats per image |") == 7  # KL, and three likelihoods by two bounds
    assert table.count("| bits per dimension |") == 2
    assert "features: torch-fidelity Inception, 2048" in table
    assert "features: LPIPS-AlexNet, mean of each of 1152 channels" in table
    assert "K = 3 latents" in table
    assert "density of float data on [−1, 1], not comparable with figures of 8-bit data" in table


def test_without_measures_there_are_none(own_run, cache_dir):
    run("evaluating", EVALUATE, run_dir=str(own_run), cache_dir=cache_dir, measures="false", device="cpu")
    assert not list(own_run.rglob("measures.*"))
    assert list(own_run.glob("evaluation/0001/metrics.md"))


def test_the_likelihoods_are_fitted_on_the_runs_validation_subjects(own_run, cache_dir, tmp_path):
    content, _ = evaluate(own_run, cache_dir, tmp_path)
    datalist = read_datalist(own_run / "datalist.json")
    test, validation = (patches(datalist, cache_dir, split) for split in ("test", "validation"))
    right, wrong = (expected(own_run, test, reference, uses_kernel=True) for reference in (validation, test))
    found = values(content)
    for key in LIKELIHOOD_KEYS:
        assert found[key] == pytest.approx(right[key], rel=1e-5)
        assert found[key] != pytest.approx(wrong[key], rel=1e-3)
    assert content["fitted_on"] == "2 patches of 1 subjects"
    for name in ("variance", "kernel", "spectrum"):
        assert found[f"iw_nll_{name}"] <= found[f"nll_{name}"]
    for name in ("variance", "spectrum"):  # a density of float data: no grey level in the bits
        assert found[f"bpd_{name}"] == pytest.approx(found[f"nll_{name}"] / (D * math.log(2)), rel=1e-9)


def test_also_when_another_folder_is_evaluated(own_run, other_dir, cache_dir, tmp_path):
    content, table = evaluate(own_run, cache_dir, tmp_path, dataset_dir=str(other_dir))
    validation = patches(read_datalist(own_run / "datalist.json"), cache_dir, "validation")
    images = patches(evaluation_datalist(other_dir, f"*/{HCP}", None, "all"), cache_dir, "test")
    right = expected(own_run, images, validation, uses_kernel=True)
    for key in LIKELIHOOD_KEYS:
        assert values(content)[key] == pytest.approx(right[key], rel=1e-5)
    assert content["evaluated_on"] == "4 patches of 2 subjects"
    assert content["fitted_on"] == "2 patches of 1 subjects"
    assert "evaluated files are among those" not in table


@pytest.mark.parametrize(("split", "of"), [("validation", 1), ("all", 5)])
def test_measures_of_what_was_fitted_on_say_so(own_run, cache_dir, tmp_path, split, of):
    _, table = evaluate(own_run, cache_dir, tmp_path, split=split)
    assert f"1 of the {of} evaluated files are among those, so that the likelihoods come out slightly too" in table


def test_a_loss_without_a_kernel_has_reasons_in_place_of_its_measures(own_run, cache_dir, tmp_path):
    change(own_run / "config.json", loss="l2", train_kernel=False)
    content, table = evaluate(own_run, cache_dir, tmp_path)
    for key, row in content["measures"].items():
        assert (row["reason"] == NO_KERNEL) == (key in KERNEL_ROWS)
    assert table.count(f"– ({NO_KERNEL})") == len(KERNEL_ROWS)
    assert "trained on a bound of log p under the likelihood of its loss, l2;" in table


OBJECTIVES = [
    ({}, True, ["its determinant, 'omit', is not that of its covariance"]),
    ({"determinant": "epsilon"}, True, ["its determinant, 'epsilon', is not that of its covariance"]),
    ({"determinant": "exact", "train_kernel": False}, True, []),
    ({"determinant": "fixed", "train_kernel": False}, False, []),
    ({"loss": "l2"}, True, []),
    ({"loss": "l2", "train_kernel": "false"}, False, []),
    ({"loss": "l2", "train_kernel": None, "adversarial_weight": None}, False, []),
    ({"loss": "l1", "train_kernel": False}, False, []),
    ({"loss": "robust", "robust_representation": "dct", "train_kernel": False}, False, []),
    ({"loss": "sigma_vae", "train_kernel": False, "whitening": True}, True, []),
    ({"loss": "ce", "train_kernel": False}, False, ["its loss, ce, is no likelihood"]),
    ({"loss": "ssim"}, True, ["its loss, ssim, is no likelihood"]),
    ({"loss": "l2", "spectrum_weight": 0.03}, True, ["an auxiliary term was added to its loss"]),
    ({"loss": "l2", "adversarial_weight": 0.1}, True, ["an adversarial term was added to its loss"]),
    ({"loss": "l2", "beta": 0.7}, True, ["its KL had the weight β = 0.7"]),
    ({"loss": "ce", "beta": 2}, True, ["its loss, ce, is no likelihood", "its KL had the weight β = 2"]),
]


@pytest.mark.parametrize(("settings", "trains_kernel", "departures"), OBJECTIVES, ids=[str(o[0]) for o in OBJECTIVES])
def test_what_a_run_was_trained_with(own_run, settings, trains_kernel, departures):
    change(own_run / "config.json", **settings)
    objective = FinishedRun(own_run.parent, own_run).objective()
    assert objective.trains_kernel is trains_kernel
    assert objective.departures == tuple(departures)
    assert (objective.loss, objective.wiener_c) == (settings.get("loss", "wiener"), 0.025)


def test_a_fixed_kernel_is_not_the_generators(own_run, cache_dir, tmp_path):
    change(own_run / "config.json", determinant="fixed", train_kernel=True)
    content, _ = evaluate(own_run, cache_dir, tmp_path)
    assert content["training"]["fixed_kernel"] is True
    for key, row in content["measures"].items():
        assert (row["reason"] == FIXED_KERNEL) == (key in KERNEL_ROWS)


def test_other_losses_have_no_fixed_kernel(own_run):
    for settings in ({}, {"determinant": "exact"}, {"loss": "watson", "determinant": "fixed"}):
        change(own_run / "config.json", **settings)
        assert FinishedRun(own_run.parent, own_run).objective().fixed_kernel is False


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("loss", ["vgg", "watson"])
def test_a_loss_on_features_is_asked_without_its_weights(own_run, monkeypatch, loss, kernel):
    monkeypatch.setattr("monai_blurvae.networks.perceptual.load_lpips_weights", lambda *_: pytest.fail("loads weights"))
    gone = str(own_run / "gone.pt")
    change(own_run / "config.json", loss=loss, train_kernel=kernel, watson_weights=gone, spectrum_weight=0.1)
    objective = FinishedRun(own_run.parent, own_run).objective()
    assert objective.departures == (f"its loss, {loss}, is no likelihood", "an auxiliary term was added to its loss")
    assert objective.trains_kernel is kernel
    assert not any(term.is_likelihood or term.uses_kernel for term in (VGGFeatureLoss, WatsonLoss))


def test_a_term_of_ones_own_is_asked_itself(own_run):
    config = json.loads((own_run / "config.json").read_text())
    config["train"]["term"] = {"_target_": "monai_blurvae.losses.BernoulliLoss"}
    (own_run / "config.json").write_text(json.dumps(config))
    assert "is no likelihood" in FinishedRun(own_run.parent, own_run).objective().departures[0]


def test_other_errors_of_a_config_are_not_hidden(own_run):
    change(own_run / "config.json", loss="l2", beta=-1)
    with pytest.raises(RuntimeError) as error:
        FinishedRun(own_run.parent, own_run).objective()
    assert "beta must not be negative" in str(cause(error.value))


@pytest.mark.parametrize(("weighting", "of_likelihood"), [("flat", "wiener"), ("bounded_inverse", "bounded_inverse")])
def test_the_weighting_is_that_of_the_run(own_run, weighting, of_likelihood):
    change(own_run / "config.json", weighting=weighting)
    assert FinishedRun(own_run.parent, own_run).objective().weighting == of_likelihood


def test_a_model_that_was_not_trained_as_a_bound_says_so(own_run, cache_dir, tmp_path):
    change(own_run / "config.json", loss="l2", beta=0.5, spectrum_weight=0.1)
    content, table = evaluate(own_run, cache_dir, tmp_path)
    sentence = (
        "The model was not trained as a bound of this density: an auxiliary term was added to its loss; its KL had the "
        "weight β = 0.5. The figures are those of the Gaussian fitted around its decoder."
    )
    assert sentence in table
    assert sentence in content["notes"]


def test_missing_validation_volumes_stop_before_anything_is_written(own_run, other_dir, cache_dir, tmp_path):
    change(own_run / "datalist.json", dataset_dir=str(tmp_path / "gone"))
    with pytest.raises(RuntimeError) as error:
        evaluate(own_run, cache_dir, tmp_path, dataset_dir=str(other_dir))
    shown = cause(error.value)
    assert isinstance(shown, DataError)
    (entry,) = json.loads((own_run / "datalist.json").read_text())["validation"]
    assert f"validation images, but {tmp_path / 'gone' / entry['image']} is not there any more" in str(shown)
    assert f'as "dataset_dir" into {own_run / "datalist.json"}, or leave out --measures.' in str(shown)
    assert not (tmp_path / "out").exists()


def test_validation_volumes_that_moved_are_found_where_the_data_list_says(
    own_run, hcp_dir, other_dir, cache_dir, tmp_path
):
    (entry,) = json.loads((own_run / "datalist.json").read_text())["validation"]
    moved = tmp_path / "moved" / entry["image"]
    moved.parent.mkdir(parents=True)
    shutil.copy(hcp_dir / entry["image"], moved)
    change(own_run / "datalist.json", dataset_dir=str(tmp_path / "moved"))
    content, _ = evaluate(own_run, cache_dir, tmp_path, dataset_dir=str(other_dir))
    assert content["fitted_on"] == "2 patches of 1 subjects"


def test_a_validation_volume_that_changed_is_refused(own_run, other_dir, cache_dir, tmp_path):
    (entry,) = json.loads((own_run / "datalist.json").read_text())["validation"]
    replaced = tmp_path / "replaced" / entry["image"]
    replaced.parent.mkdir(parents=True)
    shutil.copy(other_dir / "0" / HCP, replaced)
    change(own_run / "datalist.json", dataset_dir=str(tmp_path / "replaced"))
    with pytest.raises(RuntimeError) as error:
        evaluate(own_run, cache_dir, tmp_path, dataset_dir=str(other_dir))
    assert f"{replaced} has changed since the training" in str(cause(error.value))


def grey_volume(path, seed):
    """8-bit noise in a black background whose 1st and 99th percentile are 0 and 255."""
    array = np.zeros((48, 40, 44), np.uint8)
    array[4:-4, 4:-4, 4:-4] = np.random.default_rng(seed).integers(0, 256, (40, 32, 36))
    array[4:-4, 18:20, 4:-4] = 255
    return save(path / HCP, array)


def test_the_stores_rounding_of_grey_levels_is_undone():
    levels = torch.arange(256, dtype=torch.float64)
    exact = levels / 127.5 - 1
    stored = (levels / 255).to(torch.float16).to(torch.float32) * 2 - 1
    assert (stored.double() - exact).abs().max() > 1e-2 / 127.5  # more than a density of 8-bit data allows
    torch.testing.assert_close(to_grey_levels(stored).double(), exact, rtol=0, atol=1e-6)
    noise = torch.rand(64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(to_grey_levels(noise), noise)


def test_8_bit_images_are_dequantised(own_run, cache_dir, tmp_path):
    for i in range(2):
        grey_volume(tmp_path / "grey" / f"{i}", i)
    grey_volume(tmp_path / "validation" / "9", 9)
    entry = {"image": f"9/{HCP}", "subject": "9"}
    Datalist(tmp_path / "validation", [], [entry], []).write(own_run / "datalist.json")
    settings = {"dataset_dir": str(tmp_path / "grey"), "eight_bit": "true"}
    content, table = evaluate(own_run, cache_dir, tmp_path, **settings)
    found = values(content)
    for name in ("variance", "spectrum"):
        bits = found[f"nll_{name}"] / (D * math.log(2)) + math.log2(127.5)
        assert found[f"bpd_{name}"] == pytest.approx(bits, rel=1e-9)
    assert "dequantised 8-bit data" in table
    assert "not comparable" not in table


def test_float_images_are_not_taken_for_8_bit(own_run, cache_dir, tmp_path):
    content, _ = evaluate(own_run, cache_dir, tmp_path, eight_bit="true")
    for key in LIKELIHOOD_KEYS:
        assert content["measures"][key]["value"] is None
        assert "are not 8-bit images scaled to [-1, 1]" in content["measures"][key]["reason"]
    assert values(content)["psnr"] is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"importance_samples": 0}, "--importance_samples is 0, but has to be a whole number of at least 1"),
        ({"measures": "maybe"}, "--measures is 'maybe', but has to be true or false"),
        ({"eight_bit": 8}, "--eight_bit is 8, but has to be true or false"),
    ],
)
def test_bad_settings(own_run, cache_dir, tmp_path, settings, message):
    with pytest.raises(RuntimeError) as error:
        evaluate(own_run, cache_dir, tmp_path, **settings)
    assert message in str(cause(error.value))
