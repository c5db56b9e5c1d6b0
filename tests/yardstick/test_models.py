import os

import pytest
import torch

from monai_blurvae.errors import DataError
from monai_blurvae.metrics import fit_linear_vae, measure_linear_vae
from monai_blurvae.yardstick import LinearModels, models
from tests.metrics.test_linear import make_images

WEIGHT = torch.full((1, 1, 16, 9), 2.0) + torch.arange(9)


def dataset(seed=0, number=30):
    return [{"image": image} for image in make_images(number, (1, 16, 16), seed).float()]


@pytest.fixture
def fits(monkeypatch):
    """The weights that were fitted."""
    seen = []

    def fit(images, latent_size, beta, weight=None):
        seen.append(None if weight is None else "weight")
        return fit_linear_vae(images, latent_size, beta, weight)

    monkeypatch.setattr(models, "fit_linear_vae", fit)
    return seen


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_a_model_is_that_of_the_trainings_images(tmp_path, weight):
    data = dataset()
    images = torch.stack([item["image"] for item in data])
    for _ in range(2):  # fitted, and read
        found = LinearModels(data, 5, tmp_path)(weight)
        expected = measure_linear_vae(fit_linear_vae(images, 5, 1.0, weight), images)
        assert measure_linear_vae(found, images) == pytest.approx(expected, rel=1e-5)


def test_it_is_fitted_once_and_again_when_something_changes(tmp_path, fits):
    def give(data, latent_size=5, weight=None):
        return LinearModels(data, latent_size, tmp_path)(weight)

    give(dataset())
    give(dataset())
    assert fits == [None]
    give(dataset(seed=1))
    give(dataset(), latent_size=4)
    give(dataset(number=29))
    assert fits == [None] * 4
    give(dataset(), weight=WEIGHT)
    give(dataset(), weight=WEIGHT + 0.1)
    give(dataset(), weight=WEIGHT)
    assert fits == [None] * 4 + ["weight"] * 2
    assert not list(tmp_path.rglob("*.part"))


def test_a_damaged_file_is_made_again(tmp_path, fits):
    LinearModels(dataset(), 5, tmp_path)(None)
    (path,) = (tmp_path / "linear").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    LinearModels(dataset(), 5, tmp_path)(None)
    LinearModels(dataset(), 5, tmp_path)(None)
    assert fits == [None, None]


def test_where_nothing_can_be_kept_it_is_fitted_all_the_same(tmp_path, fits):
    (tmp_path / "file").write_text("no folder")
    given = LinearModels(dataset(), 5, tmp_path / "file")
    assert given(None) is given(None)
    assert fits == [None]


def test_the_cache_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "MOST_CACHED", 2)
    given = LinearModels(dataset(), 3, tmp_path)
    for age, weight in enumerate((None, WEIGHT, WEIGHT + 1, WEIGHT + 2)):
        given(weight)
        for path in (tmp_path / "linear").iterdir():
            os.utime(path, (path.stat().st_mtime - 10, path.stat().st_mtime - 10))
        assert len(list((tmp_path / "linear").iterdir())) == min(2, age + 1)


def gone():
    raise DataError("the training's images are not there any more.")


def test_what_a_run_kept_stands_for_its_training(tmp_path, fits):
    trained = LinearModels(dataset(), 5, tmp_path / "cache")
    plain, weighted = trained(None), trained(WEIGHT)
    trained.keep(tmp_path / "linear.pt")

    later = LinearModels(gone, 5, tmp_path / "other", tmp_path / "linear.pt")
    images = torch.stack([item["image"] for item in dataset(seed=2)])
    assert measure_linear_vae(later(None), images) == measure_linear_vae(plain, images)
    assert measure_linear_vae(later(WEIGHT), images) == measure_linear_vae(weighted, images)
    assert later.fitted_on == trained.fitted_on == "30 images of the training"
    torch.testing.assert_close(later(WEIGHT + 1).weight, WEIGHT.double())  # another one cannot be had
    again = LinearModels(dataset(), 5, tmp_path / "cache", tmp_path / "linear.pt")
    torch.testing.assert_close(again(WEIGHT + 1).weight, WEIGHT.double() + 1)
    assert fits == [None, "weight", "weight"]


def test_without_both_there_is_a_reason(tmp_path, caplog):
    with pytest.raises(DataError, match="not there any more"):
        LinearModels(gone, 5, tmp_path, tmp_path / "linear.pt")(None)
    (tmp_path / "linear.pt").write_text("damaged")
    with pytest.raises(DataError, match="not there any more"):
        LinearModels(gone, 5, tmp_path, tmp_path / "linear.pt")(WEIGHT)
    assert "cannot be read" in caplog.text


def test_few_images_of_many_values_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "MOST_VALUES", 10 * 16 * 16)
    given = LinearModels(dataset(), 5, tmp_path)
    given(None)
    assert given.fitted_on == "10 images of the training, as many as memory allows"
    monkeypatch.setattr(models, "MOST_KEPT", 5 * 16 * 16 - 1)
    given.keep(tmp_path / "linear.pt")
    assert not (tmp_path / "linear.pt").exists()
