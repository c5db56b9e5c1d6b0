import sys

import numpy as np
import pytest
import torch
from scipy import linalg

from monai_blurvae.errors import WeightsError
from monai_blurvae.metrics.distances import (
    Features,
    alexnet_features,
    frechet_distance,
    inception_features,
    inception_weights_file,
    polynomial_mmd,
)
from monai_blurvae.networks.perceptual import PerceptualFeatures, weight_shapes


def features(count, size, seed=0, shift=0.0, name="test"):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return Features(name, values * torch.linspace(0.5, 2, size, dtype=torch.float64) + shift)


@pytest.mark.parametrize("counts", [(5, 5), (4, 9)])
def test_mmd_is_the_mean_over_pairs(counts):
    x, y = features(counts[0], 3), features(counts[1], 3, seed=1, shift=0.5)

    def k(a, b):
        return float(a @ b / 3 + 1) ** 3

    def others(z):
        return np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])

    expected = others(x.values) + others(y.values) - 2 * np.mean([k(a, b) for a in x.values for b in y.values])
    distance = polynomial_mmd(x, y)
    assert distance.value == pytest.approx(expected)
    assert distance.features == "test"


def test_mmd_is_that_of_the_kernel_inception_distance():
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = features(20, 6), features(20, 6, seed=1, shift=0.3)
    assert polynomial_mmd(x, y).value == pytest.approx(float(kid.poly_mmd(x.values, y.values)))


def test_mmd_has_no_bias():
    values = [polynomial_mmd(features(6, 2, seed), features(10, 2, 1000 + seed)).value for seed in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0


@pytest.mark.parametrize("counts", [(50, 40), (6, 40), (6, 7)])
def test_frechet_distance_against_the_matrix_square_root(counts):
    x, y = features(counts[0], 8), features(counts[1], 8, seed=1, shift=0.5)
    cov_x, cov_y = np.cov(x.values.numpy().T), np.cov(y.values.numpy().T)
    # Tr (Σ_x Σ_y)^½ = tr (Σ_x^½ Σ_y Σ_x^½)^½, whose matrices are symmetric; singular ones have exact zeros to clip.
    eigenvalues, vectors = linalg.eigh(cov_x)
    root = vectors @ np.diag(np.sqrt(np.maximum(eigenvalues, 0))) @ vectors.T
    mixed = np.sqrt(np.maximum(linalg.eigvalsh(root @ cov_y @ root), 0)).sum()
    shift = (x.values.mean(0) - y.values.mean(0)).square().sum().item()
    expected = shift + np.trace(cov_x) + np.trace(cov_y) - 2 * mixed
    assert frechet_distance(x, y).value == pytest.approx(expected, abs=1e-6)
    if min(counts) > 8:
        direct = shift + np.trace(cov_x + cov_y - 2 * linalg.sqrtm(cov_x @ cov_y).real)
        assert frechet_distance(x, y).value == pytest.approx(direct)


def test_frechet_distance_against_monai():
    from monai.metrics.fid import get_fid_score

    x, y = features(60, 5), features(60, 5, seed=1, shift=0.3)
    assert frechet_distance(x, y).value == pytest.approx(float(get_fid_score(x.values, y.values)), rel=1e-4)


def test_frechet_distance_of_commuting_covariances_has_a_closed_form():
    # ‖m − m'‖² + Σ_i (σ_i − σ'_i)² where the covariances share their eigenvectors, here exactly those of the sample
    sample = features(200, 4).values
    white = (sample - sample.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(sample.T.cov())).T
    rotation = torch.linalg.qr(features(4, 4, seed=3).values).Q
    s, t = torch.tensor([1.0, 2.0, 3.0, 0.5]).double(), torch.tensor([2.0, 0.1, 3.0, 1.5]).double()
    x, y = Features("test", white * s @ rotation), Features("test", white.flip(0) * t @ rotation + 0.25)
    expected = 4 * 0.25**2 + (s - t).square().sum().item()
    assert frechet_distance(x, y).value == pytest.approx(expected)
    assert frechet_distance(x, x).value == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("distance", [polynomial_mmd, frechet_distance])
def test_sets_that_do_not_compare(distance):
    with pytest.raises(ValueError, match=r"'other' of shape \(5, 3\)"):
        distance(features(5, 3), features(5, 3, name="other"))
    with pytest.raises(ValueError, match="same features"):
        distance(features(5, 3), features(5, 4))
    with pytest.raises(ValueError, match="at least 2 images of each, but has 1 and 5"):
        distance(features(1, 3), features(5, 3))


def images(count=5, channels=1, size=40, seed=0):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def alexnet_dir(tmp_path_factory):
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path_factory.mktemp("alexnet")
    weights = {
        key: torch.randn(shape, generator=generator) * 0.05 + 0.01 for key, shape in weight_shapes("alex").items()
    }
    torch.save(weights, folder / "lpips_alex.pt")
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_alexnet_features_are_means_over_the_image(alexnet_dir, channels):
    x = images(channels=channels)
    result = alexnet_features(x, alexnet_dir, batch_size=2)
    stages = PerceptualFeatures("alex", alexnet_dir)(x)
    expected = torch.cat([stage.mean((2, 3)) for stage in stages], 1)
    assert "LPIPS-AlexNet" in result.name
    assert result.values.shape == (5, 1152)
    torch.testing.assert_close(result.values, expected, rtol=1e-4, atol=1e-4)
    assert expected.abs().max() > 0


def test_without_torch_fidelity_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ImportError, match=r"monai-blurvae\[fid\]"):
        inception_weights_file()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch.hub, so that the tests find no weights but their own."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_missing_weights_are_named_and_not_downloaded(tmp_path, hub):
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    name = module.URL_INCEPTION_V3.rpartition("/")[2]
    with pytest.raises(WeightsError, match=f"{name} does not exist"):
        inception_features(images(), weights_dir=tmp_path)
    (hub / "checkpoints").mkdir(parents=True)
    (hub / "checkpoints" / name).touch()
    assert inception_weights_file(tmp_path) == hub / "checkpoints" / name
    (tmp_path / name).touch()
    assert inception_weights_file(tmp_path) == tmp_path / name
    with pytest.raises(WeightsError, match="is no file of torch-fidelity's Inception weights"):
        inception_features(images(), weights_dir=tmp_path)
    torch.save({"other": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(WeightsError, match="is no file of torch-fidelity's Inception weights"):
        inception_features(images(), weights_dir=tmp_path)


def test_bad_arguments_for_inception(tmp_path):
    with pytest.raises(ValueError, match="Inception features have the sizes"):
        inception_features(images(), (100,), tmp_path)
    with pytest.raises(ValueError, match="Inception takes images"):
        inception_features(images(channels=2), weights_dir=tmp_path)


@pytest.mark.parametrize("channels", [1, 3])
def test_fid_is_that_of_torchmetrics(tmp_path, hub, monkeypatch, channels):
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    fid = pytest.importorskip("torchmetrics.image.fid")
    network_class = module.FeatureExtractorInceptionV3
    path = tmp_path / module.URL_INCEPTION_V3.rpartition("/")[2]
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(network_class, "load_state_dict", lambda *_, **__: None)
        torch.save(network_class("random", ["64"]).state_dict(), path)

    x, y = images(4, channels, 32), images(4, channels, 32, seed=1) * 0.5
    result = [inception_features(z, (64, 192), tmp_path, batch_size=3) for z in (x, y)]
    assert {size: tuple(f.values.shape) for size, f in result[0].items()} == {64: (4, 64), 192: (4, 192)}
    # Without antialiasing torchmetrics resizes as the original FID did, and torch-fidelity does.
    metric = fid.FrechetInceptionDistance(feature=64, feature_extractor_weights_path=str(path), antialias=False)
    for z, features, real in ((x, result[0], True), (y, result[1], False)):
        grey_levels = ((z + 1) / 2 * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
        torch.testing.assert_close(features[64].values, metric.inception(grey_levels), rtol=1e-5, atol=1e-6)
        metric.update(grey_levels, real=real)
    distance = frechet_distance(result[0][64], result[1][64])
    assert distance.features == "torch-fidelity Inception, 64"
    assert distance.value == pytest.approx(metric.compute().item(), rel=1e-3)
    assert distance.value > 0
