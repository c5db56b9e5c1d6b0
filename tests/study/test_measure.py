import pytest
import torch

from monai_blurvae.files import write_json
from monai_blurvae.study.folder import StudyFolder
from monai_blurvae.study.measure import Instruments, is_measured, mean_spectrum, patches_of
from monai_blurvae.study.plan import Cell

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
    from monai_blurvae.study.measure import _key

    found = {"key": _key(folder, CELL, instruments), "measures": {}, "spectra": {}, **content}
    write_json(folder.measure_file(CELL, "test"), found)


def test_what_was_measured_with_the_same_instruments_is_not_measured_again(folder, tmp_path):
    instruments = Instruments(tmp_path / "weights", 4, "cpu")
    assert not is_measured(folder, CELL, "test", instruments)
    measure(folder, instruments)
    assert is_measured(folder, CELL, "test", instruments)
    assert not is_measured(folder, CELL, "validation", instruments)
    assert not is_measured(folder, CELL, "test", instruments._replace(importance_samples=5))
    measure(folder, instruments, failed="no memory")
    assert not is_measured(folder, CELL, "test", instruments)


def test_values_and_reasons_are_told_apart(folder, tmp_path):
    measures = {"psnr": {"value": 20.0, "reason": ""}, "lpips": {"value": None, "reason": "no weights"}}
    measure(folder, Instruments(tmp_path, 4, "cpu"), measures=measures)
    (found,) = folder.measured("test")
    assert (found.cell, dict(found.values), dict(found.reasons)) == (CELL, {"psnr": 20.0}, {"lpips": "no weights"})


def test_failures_are_kept_with_the_cell(folder):
    folder.write_cell(CELL, {"lr": 1}, "the loss is nan")
    assert folder.failures() == {CELL: "the loss is nan"}
    assert folder.settings(CELL) == {"lr": 1}
    folder.write_cell(CELL, {"lr": 1})
    assert folder.failures() == {}


def test_the_spectrum_of_white_noise_is_flat_at_its_variance():
    noise = 0.1 * torch.randn(512, 1, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert mean_spectrum(noise) == pytest.approx([-2.0] * 16, abs=0.05)


def test_patches_do_not_depend_on_the_cell(finished_run, hcp_dir, cache_dir):
    from monai_blurvae.data import prepare_volumes, read_datalist
    from monai_blurvae.transforms import PrepareVolume

    datalist = read_datalist(finished_run[1] / "datalist.json")
    volumes = prepare_volumes(datalist, cache_dir, PrepareVolume(1, None), 32, 0.25)
    settings = {"patch_size": 32, "eval_patches_per_volume": 3, "min_foreground": 0.25}
    first, second = patches_of(volumes.test, settings), patches_of(volumes.test, settings)
    assert torch.equal(first, second)
    assert first.shape == (3 * len(volumes.test), 1, 32, 32)
