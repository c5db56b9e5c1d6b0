"""The measures of a comparison from the bundle's evaluation."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch

from monai_blurvae.bundle import MeasuresHandler, fit_densities
from monai_blurvae.bundle.measures import FIXED_KERNEL, images_of
from monai_blurvae.data import Datalist, evaluation_datalist, read_datalist
from monai_blurvae.errors import DataError
from monai_blurvae.handlers.evaluation_record import EvaluationRecord
from monai_blurvae.metrics import MEASURES, fit_likelihoods, measure_model
from monai_blurvae.metrics.evaluated import Evaluated
from monai_blurvae.metrics.likelihood import Densities, dequantize
from monai_blurvae.metrics.measures import LIKELIHOOD, keys
from monai_blurvae.metrics.suite import NO_KERNEL
from monai_blurvae.run_files import EVALUATION_NPZ
from monai_blurvae.runs import Run
from tests.volumes import EVALUATE, HCP, brain, cause, run, save

KERNEL_ROWS = tuple(key for key in MEASURES if key in ("kernel_width", "below_sqrt_c") or key.endswith("_kernel"))
LIKELIHOOD_KEYS = keys(LIKELIHOOD)
D = 32 * 32


@pytest.fixture
def own_run(finished_run, tmp_path):
    """A copy of the finished run that a test may change: the paper's loss, β 1, the kernel trained."""
    return shutil.copytree(finished_run[1], tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))


@pytest.fixture
def other_dir(tmp_path):
    """Two subjects that the run has never seen."""
    for i in (0, 1):
        save(tmp_path / "other" / f"{i}" / HCP, brain(100 + i))
    return tmp_path / "other"


def change(path, changes):
    """Values of a JSON file by their ids; None removes."""
    content = json.loads(path.read_text())
    for id, value in changes.items():
        *parents, name = id.split("#")
        section = content
        for parent in parents:
            section = section[parent]
        if value is None:
            del section[name]
        else:
            section[name] = value
    path.write_text(json.dumps(content))


def target(loss, **arguments):
    """The section of a reconstruction term."""
    return {"_target_": f"monai_blurvae.losses.{loss}", **arguments}


def evaluate(run_dir, cache_dir, folder, **settings):
    common = {"measures": True, "importance_samples": 3, "weights_dir": str(folder / "no_weights"), "device": "cpu"}
    out = folder / "out"
    run("evaluating", EVALUATE, run_dir=str(run_dir), cache_dir=cache_dir, evaluation_dir=str(out), **common | settings)
    return json.loads((out / "measures.json").read_text()), (out / "measures.md").read_text()


def values(content):
    return {key: row["value"] for key, row in content["measures"].items()}


def patches(run_dir, datalist, cache_dir, split):
    """The patches of a split, as the run's config cuts them."""
    return images_of(Run(run_dir).dataset("test", datalist.items(split), cache_dir))


def expected(run_dir, images, reference, **arguments):
    network = Run(run_dir).network()
    fitted = Densities(fit_likelihoods(network, reference, **arguments))
    measures = measure_model(Evaluated.of(network, images, samples=3, fit=lambda: fitted))
    return {key: measure.value for key, measure in measures.items()}


def test_measures_stand_beside_the_tables_of_the_same_evaluation(own_run, cache_dir, random_weights_dir, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(own_run / "none"))  # no Inception from a cache
    settings = {"measures": True, "importance_samples": 3, "weights_dir": str(random_weights_dir), "device": "cpu"}
    run("evaluating", EVALUATE, run_dir=str(own_run), cache_dir=cache_dir, **settings)
    (folder,) = (own_run / "evaluation").iterdir()
    assert {p.name for p in folder.iterdir()} == {
        "metrics.csv",
        "metrics.md",
        "evaluation.npz",
        "reconstructions.png",
        "samples.png",
        "yardstick.json",
        "yardstick.md",
        "measures.json",
        "measures.md",
        "copying.json",
        "nearest_training.png",
    }
    content = json.loads((folder / "measures.json").read_text())
    assert list(content["measures"]) == list(MEASURES)
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    subjects = len({row["subject"] for row in rows})
    assert (len(rows), subjects) == (2, 1)
    assert content["evaluated_on"] == "2 patches of 1 subject"
    for name in ("psnr", "ssim", "kl", "kernel_width"):
        assert values(content)[name] == pytest.approx(np.mean([float(row[name]) for row in rows]), rel=1e-4)
    missing = [key for key, row in content["measures"].items() if row["value"] is None]
    assert missing == [key for key in MEASURES if key.startswith("fid_")]
    assert all(content["measures"][key]["reason"] for key in missing)
    table = (folder / "measures.md").read_text()
    assert table.count("| nats per image |") == 7  # KL, and three likelihoods by two bounds
    assert table.count("| bits per dimension |") == 2
    assert "features: torch-fidelity Inception, 2048" in table
    assert "features: LPIPS-AlexNet, mean of each of 1152 channels" in table
    assert "K = 3 latents" in table
    assert "density of float data on [−1, 1], not comparable with figures of 8-bit data" in table


def test_nearness_to_training_images(own_run, cache_dir):
    run("evaluating", EVALUATE, run_dir=str(own_run), cache_dir=cache_dir, measures=True, device="cpu")
    copying = json.loads((own_run / "evaluation/0001/copying.json").read_text())
    assert copying["test_images"] == 2
    assert set(copying["c_t"]) == {"samples", "reconstructions"}
    assert all(0 < least <= copying["median_distance"][name] for name, least in copying["least_distance"].items())


def test_training_images_that_are_gone_stop_nothing(own_run, other_dir, cache_dir):
    training = json.loads((own_run / "datalist.json").read_text())["training"]
    datalist = json.loads((own_run / "datalist.json").read_text())
    datalist["training"] = [{**item, "image": f"/gone/{i}.nii.gz"} for i, item in enumerate(training)]
    (own_run / "datalist.json").write_text(json.dumps(datalist))
    settings = {"dataset_dir": str(other_dir), "cache_dir": cache_dir, "measures": True, "device": "cpu"}
    run("evaluating", EVALUATE, run_dir=str(own_run), **settings)
    assert not (own_run / "evaluation/0001/copying.json").exists()
    assert (own_run / "evaluation/0001/measures.json").exists()


def test_without_measures_there_are_none(own_run, cache_dir):
    run("evaluating", EVALUATE, run_dir=str(own_run), cache_dir=cache_dir, measures=False, device="cpu")
    assert not list(own_run.rglob("measures.*"))
    assert list(own_run.glob("evaluation/0001/metrics.md"))


def test_the_likelihoods_are_fitted_on_the_runs_validation_subjects(own_run, cache_dir, tmp_path):
    content, _ = evaluate(own_run, cache_dir, tmp_path)
    datalist = read_datalist(own_run / "datalist.json")
    test, validation = (patches(own_run, datalist, cache_dir, split) for split in ("test", "validation"))
    right, wrong = (expected(own_run, test, reference, uses_kernel=True) for reference in (validation, test))
    found = values(content)
    for key in LIKELIHOOD_KEYS:
        assert found[key] == pytest.approx(right[key], rel=1e-5)
        assert found[key] != pytest.approx(wrong[key], rel=1e-3)
    assert content["fitted_on"] == "2 patches of 1 subject"
    for name in ("variance", "kernel", "spectrum"):
        assert found[f"iw_nll_{name}"] <= found[f"nll_{name}"]
    for name in ("variance", "spectrum"):  # a density of float data: no grey level in the bits
        assert found[f"bpd_{name}"] == pytest.approx(found[f"nll_{name}"] / (D * math.log(2)), rel=1e-9)


def test_also_when_another_folder_is_evaluated(own_run, other_dir, cache_dir, tmp_path):
    content, table = evaluate(own_run, cache_dir, tmp_path, dataset_dir=str(other_dir))
    validation = patches(own_run, read_datalist(own_run / "datalist.json"), cache_dir, "validation")
    images = patches(own_run, evaluation_datalist(other_dir, f"*/{HCP}", None, "all"), cache_dir, "test")
    right = expected(own_run, images, validation, uses_kernel=True)
    for key in LIKELIHOOD_KEYS:
        assert values(content)[key] == pytest.approx(right[key], rel=1e-5)
    assert content["evaluated_on"] == "4 patches of 2 subjects"
    assert content["fitted_on"] == "2 patches of 1 subject"
    assert "evaluated files are among those" not in table


@pytest.mark.parametrize(("split", "of"), [("validation", 1), ("all", 5)])
def test_measures_of_what_was_fitted_on_say_so(own_run, cache_dir, tmp_path, split, of):
    _, table = evaluate(own_run, cache_dir, tmp_path, split=split)
    assert f"1 of the {of} evaluated files are among those, so that the likelihoods come out slightly too" in table


def test_a_loss_without_a_kernel_has_reasons_in_place_of_its_measures(own_run, cache_dir, tmp_path):
    changes = {"loss": "L2Loss", "trains_kernel": False, "departures": []}
    change(own_run / "settings.json", {f"objective#{name}": value for name, value in changes.items()})
    content, table = evaluate(own_run, cache_dir, tmp_path)
    for key, row in content["measures"].items():
        assert (row["reason"] == NO_KERNEL) == (key in KERNEL_ROWS)
    assert table.count(f"– ({NO_KERNEL})") == len(KERNEL_ROWS)
    assert "trained on a bound of log p under the likelihood of its loss, L2Loss;" in table


def test_a_fixed_kernel_is_not_the_generators(own_run, cache_dir, tmp_path):
    change(own_run / "settings.json", {"objective#fixed_kernel": True})
    content, _ = evaluate(own_run, cache_dir, tmp_path)
    assert content["training"]["fixed_kernel"] is True
    for key, row in content["measures"].items():
        assert (row["reason"] == FIXED_KERNEL) == (key in KERNEL_ROWS)


def test_a_model_that_was_not_trained_as_a_bound_says_so(own_run, cache_dir, tmp_path):
    departures = ["an auxiliary term was added to its loss", "its KL had the weight β = 0.5"]
    change(own_run / "settings.json", {"objective#departures": departures})
    content, table = evaluate(own_run, cache_dir, tmp_path)
    sentence = (
        "The model was not trained as a bound of this density: an auxiliary term was added to its loss; its KL had the "
        "weight β = 0.5. The figures are those of the Gaussian fitted around its decoder."
    )
    assert sentence in table
    assert sentence in content["notes"]


def test_missing_validation_volumes_stop_before_anything_is_written(own_run, other_dir, cache_dir, tmp_path):
    change(own_run / "datalist.json", {"dataset_dir": str(tmp_path / "gone")})
    with pytest.raises(RuntimeError) as error:
        evaluate(own_run, cache_dir, tmp_path, dataset_dir=str(other_dir))
    shown = cause(error.value)
    assert isinstance(shown, DataError)
    (entry,) = json.loads((own_run / "datalist.json").read_text())["validation"]
    assert "validation images" in str(shown)
    assert str(tmp_path / "gone" / entry["image"]) in str(shown)
    assert f'as "dataset_dir" into {own_run / "datalist.json"}' in str(shown)
    assert not (tmp_path / "out").exists()


def test_without_measures_missing_validation_volumes_take_the_draws_alone(own_run, other_dir, cache_dir, tmp_path):
    change(own_run / "datalist.json", {"dataset_dir": str(tmp_path / "gone")})
    given = {"dataset_dir": str(other_dir), "evaluation_dir": str(tmp_path / "out"), "device": "cpu"}
    run("evaluating", EVALUATE, run_dir=str(own_run), cache_dir=cache_dir, **given)
    drawn = EvaluationRecord.read(tmp_path / "out" / EVALUATION_NPZ).about["draws"]
    assert drawn["likelihoods"] == []
    assert "is not there any more" in drawn["missing"]


def test_at_most_so_many_images_spread_over_all_are_fitted_on(own_run):
    network = Run(own_run).network()
    images = torch.rand(7, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    fitted = fit_densities(Run(own_run), network, "", [{"image": image} for image in images], most=3)
    expected = fit_likelihoods(network, images[[0, 2, 4]], uses_kernel=True)
    assert fitted.fitted_on == "3 images"
    assert fitted.likelihoods["kernel"].variance == pytest.approx(expected["kernel"].variance)
    with pytest.raises(DataError, match="has no validation images"):
        fit_densities(Run(own_run), network, "", [])


def test_validation_volumes_that_moved_are_found_where_the_data_list_says(
    own_run, hcp_dir, other_dir, cache_dir, tmp_path
):
    (entry,) = json.loads((own_run / "datalist.json").read_text())["validation"]
    moved = tmp_path / "moved" / entry["image"]
    moved.parent.mkdir(parents=True)
    shutil.copy(hcp_dir / entry["image"], moved)
    change(own_run / "datalist.json", {"dataset_dir": str(tmp_path / "moved")})
    content, _ = evaluate(own_run, cache_dir, tmp_path, dataset_dir=str(other_dir))
    assert content["fitted_on"] == "2 patches of 1 subject"


def test_a_validation_volume_that_changed_is_refused(own_run, other_dir, cache_dir, tmp_path):
    (entry,) = json.loads((own_run / "datalist.json").read_text())["validation"]
    replaced = tmp_path / "replaced" / entry["image"]
    replaced.parent.mkdir(parents=True)
    shutil.copy(other_dir / "0" / HCP, replaced)
    change(own_run / "datalist.json", {"dataset_dir": str(tmp_path / "replaced")})
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
    levels = torch.arange(256, dtype=torch.float64)[:, None, None]
    exact = levels / 127.5 - 1
    stored = (levels / 255).to(torch.float16).to(torch.float32) * 2 - 1
    assert (stored.double() - exact).abs().max() > 1e-2 / 127.5  # more than a density of 8-bit data allows
    torch.testing.assert_close(dequantize(stored), dequantize(exact.float()), rtol=0, atol=1e-6)


def test_8_bit_images_are_dequantised(own_run, cache_dir, tmp_path):
    for i in range(2):
        grey_volume(tmp_path / "grey" / f"{i}", i)
    grey_volume(tmp_path / "validation" / "9", 9)
    entry = {"image": f"9/{HCP}", "subject": "9"}
    Datalist(tmp_path / "validation", [], [entry], []).write(own_run / "datalist.json")
    settings = {"dataset_dir": str(tmp_path / "grey"), "eight_bit": True}
    content, table = evaluate(own_run, cache_dir, tmp_path, **settings)
    found = values(content)
    for name in ("variance", "spectrum"):
        bits = found[f"nll_{name}"] / (D * math.log(2)) + math.log2(127.5)
        assert found[f"bpd_{name}"] == pytest.approx(bits, rel=1e-9)
    assert "dequantised 8-bit data" in table
    assert "not comparable" not in table


def test_float_images_are_not_taken_for_8_bit(own_run, cache_dir, tmp_path):
    content, _ = evaluate(own_run, cache_dir, tmp_path, eight_bit=True)
    for key in LIKELIHOOD_KEYS:
        assert content["measures"][key]["value"] is None
        assert "are not 8-bit images scaled to [-1, 1]" in content["measures"][key]["reason"]
    assert values(content)["psnr"] is not None


@pytest.mark.parametrize("count", [0, 1.5, "many"])
def test_there_is_at_least_one_latent_of_each_image(own_run, tmp_path, count):
    run = Run(own_run)
    with pytest.raises(ValueError, match=r"importance_samples is .*, but has to be a whole number of at least 1"):
        MeasuresHandler(tmp_path, run, run.network(), tmp_path, importance_samples=count)
