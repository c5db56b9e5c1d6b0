"""The linear VAE beside the network at the end of a training and in later evaluations."""

import json
import shutil

import pytest
import torch

from monai_blurvae.bundle.measures import images_of
from monai_blurvae.data import read_datalist, reference_images
from monai_blurvae.metrics import fit_linear_vae, linear_yardstick, measure_linear_vae
from monai_blurvae.metrics.evaluated import Evaluated
from monai_blurvae.runs import Run
from monai_blurvae.yardstick import standard_of
from monai_blurvae.yardstick.comparison import KEPT_WEIGHT, MEAN_KERNEL
from tests.volumes import EVALUATE, TINY, run


@pytest.fixture
def own_run(finished_run, tmp_path):
    """A copy of the finished run that a test may change: the paper's loss at β = 1."""
    return shutil.copytree(finished_run[1], tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))


def read(folder):
    return json.loads((folder / "yardstick.json").read_text())


def evaluate(run_dir, cache_dir, **settings):
    run("evaluating", EVALUATE, run_dir=str(run_dir), cache_dir=str(cache_dir), device="cpu", **settings)
    return read(max((run_dir / "evaluation").iterdir()))


def test_a_training_ends_beside_the_linear_vae_of_its_objective(own_run, cache_dir):
    content, finished = read(own_run / "test"), Run(own_run)
    datalist = read_datalist(own_run / "datalist.json")
    images = images_of(finished.dataset("test", datalist.items("test"), cache_dir))
    training = reference_images(finished.training_dataset(cache_dir), TINY["yardstick_images"], 2**30)
    network = finished.network()
    weight = standard_of(finished.closed_form_objective(), Evaluated.of(network, images)).weight
    assert content["linear"] == pytest.approx(linear_yardstick(images, training, 4, 1.0, weight), rel=1e-4)
    plain = measure_linear_vae(fit_linear_vae(training, 4, content["equal_rate"]["beta"]), images)
    for key in ("psnr", "ssim", "kl"):
        assert content["equal_rate"][key] == pytest.approx(plain[key], rel=1e-4)
    summary = json.loads((own_run / "summary.json").read_text())["test"]
    for key in ("psnr", "ssim", "kl"):
        assert content["network"][key] == pytest.approx(summary[key], rel=1e-4)
    assert (content["beta"], content["weight"], content["latent_size"]) == (1.0, MEAN_KERNEL, 4)
    assert content["behind"]  # two epochs
    assert content["fitted_on"] == f"{len(training)} patches of 3 subjects of the training"
    table = (own_run / "test" / "yardstick.md").read_text()
    assert "Not trained: a 4-component linear model has a better bound (" in table
    assert content["verdict"].startswith("not trained: ")


def test_an_evaluation_of_the_same_images_finds_the_same(own_run, cache_dir):
    before, found = read(own_run / "test"), evaluate(own_run, cache_dir)
    assert found["weight"] == MEAN_KERNEL
    for column in ("network", "linear", "equal_rate"):
        assert found[column].keys() == before[column].keys()
        for key, value in before[column].items():  # None where there is no such figure
            assert found[column][key] == (value if value is None else pytest.approx(value, rel=1e-4))


def test_without_the_trainings_images_the_models_that_the_run_kept_are_used(own_run, cache_dir, hcp_dir):
    datalist = json.loads((own_run / "datalist.json").read_text())
    for entry in datalist["training"]:
        entry["image"] = "gone.nii.gz"
    (own_run / "datalist.json").write_text(json.dumps(datalist))
    found = evaluate(own_run, cache_dir, dataset_dir=str(hcp_dir))
    assert (found["problem"], found["weight"]) == ("", KEPT_WEIGHT)
    assert found["fitted_on"] == read(own_run / "test")["fitted_on"]
    (own_run / "linear.pt").unlink()
    found = evaluate(own_run, cache_dir, dataset_dir=str(hcp_dir))
    assert "the linear model is fitted on the run's training images, but" in found["problem"]
    table = (max((own_run / "evaluation").iterdir()) / "yardstick.md").read_text()
    assert "They were not compared: the linear model is fitted" in table


def test_what_the_run_kept_is_small_and_holds_both_models(own_run):
    content = torch.load(own_run / "linear.pt", weights_only=True)
    assert [model["weight"] is None for model in content["models"]] == [False, True]
    assert (own_run / "linear.pt").stat().st_size < 100_000
