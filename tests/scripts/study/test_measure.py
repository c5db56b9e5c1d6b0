import json
from itertools import pairwise
from statistics import fmean

import pytest
import torch

from monai_blurvae.bundle.measures import images_of
from monai_blurvae.data import Datalist
from monai_blurvae.data.datalist import SPLITS
from monai_blurvae.files import write_json
from monai_blurvae.losses import ELBOLoss, WienerLoss
from monai_blurvae.metrics import fit_linear_vae, linear_yardstick
from monai_blurvae.metrics.distances import alexnet_features, polynomial_mmd
from monai_blurvae.metrics.evaluated import Evaluated
from monai_blurvae.networks import BlurVAE
from monai_blurvae.runs import TrainedObjective
from monai_blurvae.yardstick import compare
from study import linear
from study import measure as measuring
from study.folder import StudyFolder
from study.linear import BETAS, is_linear_measured, linear_cells, measure_linear
from study.measure import SAMPLE_SETS, Instruments, is_measured, mean_spectrum, measure_cells
from study.pictures import load_pictures
from study.plan import Cell

CELL = Cell("l2", 0.1, 0)


@pytest.fixture
def folder(tmp_path):
    study = StudyFolder(tmp_path / "out")
    study.write_cell(CELL, {"lr": 1})
    study.cell_dir(CELL).mkdir()
    study.model_file(CELL).write_text("weights")
    (study.cell_dir(CELL) / "summary.json").write_text("{}")
    return study


def measure(folder, instruments, **content):
    from study.measure import _key

    found = {"key": _key(folder, CELL, instruments), "measures": {}, "spectra": {}, **content}
    write_json(folder.measure_file(CELL, "test"), found)


def test_what_was_measured_with_the_same_instruments_is_not_measured_again(folder, tmp_path):
    instruments = Instruments(tmp_path / "weights", 4, "cpu")
    assert not is_measured(folder, CELL, "test", instruments)
    measure(folder, instruments)
    assert is_measured(folder, CELL, "test", instruments)
    assert not is_measured(folder, CELL, "validation", instruments)
    assert not is_measured(folder, CELL, "test", instruments._replace(importance_samples=5))
    path = folder.measure_file(CELL, "test")
    content = json.loads(path.read_text())
    del content["key"]["version"]
    write_json(path, content)
    assert not is_measured(folder, CELL, "test", instruments)
    assert [cell for cell, _ in folder.measured("test")] == [CELL]  # what an earlier version measured can be read
    measure(folder, instruments, failed="no memory")
    assert not is_measured(folder, CELL, "test", instruments)


def test_values_and_reasons_are_told_apart(folder, tmp_path):
    measures = {"psnr": {"value": 20.0, "reason": ""}, "lpips": {"value": None, "reason": "no weights"}}
    measure(folder, Instruments(tmp_path, 4, "cpu"), measures=measures)
    assert list(folder.measured("test")) == [(CELL, {"psnr": 20.0, "lpips": "no weights"})]


def test_failures_are_kept_with_the_cell(folder):
    folder.write_cell(CELL, {"lr": 1}, "the loss is nan")
    assert folder.failures() == {CELL: "the loss is nan"}
    assert folder.settings(CELL) == {"lr": 1}
    folder.write_cell(CELL, {"lr": 1})
    assert folder.failures() == {}


def test_the_spectrum_of_white_noise_is_flat_at_its_variance():
    noise = 0.1 * torch.randn(512, 1, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert mean_spectrum(noise) == pytest.approx([-2.0] * 16, abs=0.05)


class Run:
    """A finished run whose images are those that it is asked for."""

    latent_size = 4

    def __init__(self, run_dir):
        assert (run_dir / "model.pt").is_file()

    def setting(self, name, default):
        return {"quarter_turns": 1, "yardstick_images": 64}[name]

    def network(self, device):
        torch.manual_seed(0)
        return BlurVAE(in_channels=1, image_size=32, channels=(4, 8), latent_size=4, kernel_size=5).to(device).eval()

    def closed_form_objective(self):
        return ELBOLoss(WienerLoss(), beta=0.5)

    def objective(self):
        return TrainedObjective("WienerLoss", True, 0.025, "wiener", (), False, True)

    def dataset(self, section, items, cache_dir):
        assert section == {"s5": "train", "s6": "validate", "s7": "test"}[items[0]["subject"]]
        seed = int(items[0]["subject"][1])
        images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        return [{"image": image} for image in images]


@pytest.fixture
def trained(folder, monkeypatch):
    """A study of one cell that was trained."""
    monkeypatch.setattr(measuring, "Run", Run)
    monkeypatch.setattr(linear, "Run", Run)
    parts = {split: [{"image": f"s{i}.nii.gz", "subject": f"s{i}"}] for i, split in enumerate(SPLITS, 5)}
    for entries in parts.values():
        (folder.path / entries[0]["image"]).touch()
    Datalist.of(folder.path, parts).write(folder.datalist)
    return folder


def test_measures_keep_each_patch_and_several_sets_of_samples(trained, random_weights_dir):
    measure_cells(trained, [CELL], "test", str(trained.path / "cache"), Instruments(random_weights_dir, 2, "cpu"))
    content = json.loads(trained.measure_file(CELL, "test").read_text())
    values = {name: measure["value"] for name, measure in content["measures"].items()}
    for name in ("psnr", "ssim", "lpips"):
        assert len(content["per_patch"][name]) == content["patches"] == 2
        assert fmean(content["per_patch"][name]) == pytest.approx(values[name], abs=1e-5)
    assert values["mmd_alexnet_sd"] > 0
    assert is_measured(trained, CELL, "test", Instruments(random_weights_dir, 2, "cpu"))
    spectra = trained.spectra(CELL, "test")
    drawn = {f"{of}_draw_{name}" for of in ("reconstruction", "sample") for name in ("variance", "kernel", "spectrum")}
    assert spectra.keys() == {"images", "reconstruction", "sample"} | drawn
    assert values.keys() >= {f"spectrum_{name}" for name in drawn}
    # white noise lifts the smallest power of the means to its own
    assert min(spectra["sample_draw_variance"]) > min(spectra["sample"])
    assert trained.spectra(CELL, "validation") == {}
    pictures = load_pictures(trained.picture_file(CELL, "test"))
    assert pictures.images.shape == (2, 32, 32, 1)
    assert abs(values["psnr_z"] - values["psnr"]) < 3
    assert values["nll_table6"] < values["nll_kernel"]  # the constants alone are 32² · ½ log 2π = 941 nats


def test_a_cell_stands_beside_the_linear_vae_of_its_objective(trained, tmp_path):
    measure_cells(trained, [CELL], "test", str(tmp_path), Instruments(tmp_path / "none", 1, "cpu"))
    training, images = (
        torch.stack([item["image"] for item in Run(trained.cell_dir(CELL)).dataset(section, [{"subject": s}], "")])
        for section, s in (("train", "s5"), ("test", "s7"))
    )
    expected = compare(
        Evaluated.of(Run(trained.cell_dir(CELL)).network("cpu"), images),
        ELBOLoss(WienerLoss(), beta=0.5),
        lambda weight: fit_linear_vae(training, 4, 1.0, weight),
    )
    found = trained.yardstick(CELL, "test")
    assert found["behind"] == expected["behind"]
    assert found["linear"] == pytest.approx(expected["linear"], rel=1e-5)
    assert trained.yardstick(CELL, "validation") == {}


def test_what_keeps_a_cell_from_being_compared_is_said(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "closed_form_objective", lambda self: (_ for _ in ()).throw(ValueError("no objective")))
    measure_cells(trained, [CELL], "test", str(tmp_path), Instruments(tmp_path / "none", 1, "cpu"))
    assert trained.yardstick(CELL, "test") == {"problem": "no objective"}
    assert list(trained.measured("test"))


def test_the_linear_model_is_measured_at_every_beta(trained, tmp_path):
    assert not is_linear_measured(trained, CELL, "test")
    measure_linear(trained, CELL, "test", str(tmp_path))
    assert is_linear_measured(trained, CELL, "test")
    cells = list(linear_cells(trained, "test"))
    assert [cell["beta"] for cell in cells] == list(BETAS)
    assert all(first["kl"] >= second["kl"] for first, second in pairwise(cells))
    run = Run(trained.cell_dir(CELL))
    training, images = (
        torch.stack([item["image"] for item in run.dataset(section, [{"subject": s}], "")])
        for section, s in (("train", "s5"), ("test", "s7"))
    )
    by_hand = linear_yardstick(images, training, 4, 1.0)
    at_one = next(cell for cell in cells if cell["beta"] == 1.0)
    for key in ("psnr", "ssim", "kl"):
        assert at_one[key] == pytest.approx(by_hand[key], rel=1e-5)
    assert at_one["row"] == "linear"
    assert list(linear_cells(trained, "validation")) == []
    write_json(trained.datalist, {})
    assert not is_linear_measured(trained, CELL, "test")


def test_the_validation_is_measured_on_what_the_likelihoods_are_fitted_on(trained, tmp_path, monkeypatch):
    given = []
    real = measuring.measure_model
    monkeypatch.setattr(
        measuring,
        "measure_model",
        lambda found, **k: given.append((found.images, images_of(found.fit.args[3]))) or real(found, **k),
    )
    for split in ("validation", "test"):
        measure_cells(trained, [CELL], split, str(trained.path / "cache"), Instruments(tmp_path / "none", 1, "cpu"))
    (validation, fitted), (test, fitted_too) = given
    assert torch.equal(validation, fitted)
    assert torch.equal(fitted, fitted_too)
    assert not torch.equal(test, fitted)


def test_a_cell_that_fails_is_noted(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "network", lambda *_: (_ for _ in ()).throw(ValueError("other weights")))
    measure_cells(trained, [CELL], "test", str(trained.path / "cache"), Instruments(tmp_path / "none", 1, "cpu"))
    assert json.loads(trained.measure_file(CELL, "test").read_text())["failed"] == "other weights"
    assert list(trained.measured("test")) == []


def test_without_weights_reasons_name_no_folder_of_this_computer(trained, tmp_path):
    measure_cells(trained, [CELL], "test", str(trained.path / "cache"), Instruments(tmp_path / "none", 2, "cpu"))
    text = trained.measure_file(CELL, "test").read_text()
    content = json.loads(text)
    assert content["measures"]["mmd_alexnet"]["value"] is None
    assert content["measures"]["lpips"]["reason"].startswith("weights_dir/lpips_alex.pt")
    assert str(tmp_path) not in text
    assert set(content["per_patch"]) == {"psnr", "ssim"}


class Sampler:
    """Its samples are white noise of a standard deviation that grows from set to set."""

    def __init__(self, growth):
        self.growth, self.sets = growth, []

    def sample(self, count, generator):
        scale = 0.1 + self.growth * len(self.sets)
        self.sets.append(scale * torch.randn(count, 1, 32, 32, generator=generator))
        return self.sets[-1]


def test_the_mmd_is_the_mean_over_sets_of_samples(random_weights_dir):
    images = torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sampler = Sampler(growth=0.1)
    found = measuring._sampled_mmd(sampler, images, random_weights_dir, "cpu")
    real = alexnet_features(images, random_weights_dir)
    values = torch.tensor(
        [polynomial_mmd(alexnet_features(x, random_weights_dir), real).value for x in sampler.sets], dtype=torch.float64
    )
    assert len(values) == SAMPLE_SETS
    assert not torch.allclose(sampler.sets[0] / 0.1, sampler.sets[1] / 0.2)  # sets differ
    assert found["mmd_alexnet"].value == pytest.approx(values.mean().item())
    assert found["mmd_alexnet_sd"].value == pytest.approx(values.std().item())
