import pytest
import torch

from prior_comparison.training import fitted_mixture, training_patches
from tests.volumes import brain, save

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    paths = [save(folder / f"{i}.nii.gz", brain(i)) for i in range(2)]
    return [{"image": str(path), "subject": path.name[0]} for path in paths]


def test_patches_are_on_the_scale_of_the_training(items, tmp_path):
    patches = training_patches(items, tmp_path, 2, 100, crop_size=32)
    assert patches.shape == (128, 8, 8)  # four crops of two volumes, 16 patches each
    assert float(patches.min()) == pytest.approx(-1, abs=1e-3)  # the background is the first percentile
    assert float(patches.max()) > 1  # the brightest voxels are not clipped
    again = training_patches(items, tmp_path, 2, 100, crop_size=32)
    torch.testing.assert_close(patches, again, rtol=0, atol=0)


def test_a_mixture_is_fitted_once(items, tmp_path):
    path = tmp_path / "mixture.npz"
    first = fitted_mixture(path, items, tmp_path, 2, 500, crop_size=32, components=3)
    written = path.stat().st_mtime_ns
    again = fitted_mixture(path, items, tmp_path, 2, 500, crop_size=32, components=3)
    assert path.stat().st_mtime_ns == written
    torch.testing.assert_close(first.means, again.means, rtol=0, atol=0)
    assert first.means.shape == (3, 64)
