"""Scans in and out of a training's grid and intensities."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import AdjustContrastd as Contrast
from monai.transforms import (
    CenterSpatialCropd,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ResizeWithPadOrCropd,
    ScaleIntensityRanged,
)

from monai_blurvae.data import VolumeReader
from monai_blurvae.errors import SettingsError
from monai_blurvae.inferers import prepare_scan, with_resampling
from monai_blurvae.transforms import NaNToBackgroundd, ScalePercentilesd
from tests.volumes import brain, save

AFFINE = np.array([[0, 0, -1.5, 10], [-1.0, 0, 0, 20], [0, 2.0, 0, 30], [0, 0, 0, 1]])
READ = [
    LoadImaged("image", reader=VolumeReader()),
    EnsureChannelFirstd("image", channel_dim="no_channel"),
    Orientationd("image", axcodes="RAS", labels=None),
    NaNToBackgroundd("image"),
]
PERCENTILES = ScalePercentilesd("image", 1, 99, clip=True)


@pytest.fixture
def scan(tmp_path):
    array = brain(1, (30, 26, 22)).astype(np.float32) + 1000
    return str(save(tmp_path / "a.nii.gz", array, affine=AFFINE)), array.astype(np.float64)


@pytest.mark.parametrize(
    "scaling",
    [
        [PERCENTILES],
        [ScaleIntensityRanged("image", 1000, 3000, -1.0, 1.0)],
        [ScaleIntensityRanged("image", 500, 700), PERCENTILES],
        [PERCENTILES, ResizeWithPadOrCropd("image", 40, value=-1.0)],
    ],
    ids=["percentiles", "range", "range percentiles", "padded"],
)
def test_scalings_are_taken_back(scan, scaling):
    path, array = scan
    prepared = prepare_scan(path, READ + scaling)
    back = prepared.intensities(prepared.image)[0].numpy()
    cut = any(step is PERCENTILES for step in scaling)
    low, high = np.percentile(array, [1, 99]) if cut else (array.min(), array.max())
    np.testing.assert_allclose(back, array.clip(low, high), rtol=0, atol=1e-6 * np.ptp(array))
    assert prepared.scaling.below == (array < low).sum()
    assert prepared.scaling.above == (array > high).sum()
    if cut:
        assert prepared.scaling.high == pytest.approx(high, abs=1e-3)


def test_what_has_no_inverse_is_refused(scan):
    prepared = prepare_scan(scan[0], [*READ, Contrast("image", gamma=2.0)])
    with pytest.raises(SettingsError, match="AdjustContrastd changes intensities and has no inverse"):
        prepared.intensities(prepared.image)
    assert prepared.to_scan(prepared.image).shape[1:] == scan[1].shape


def test_what_a_training_cuts_away_has_no_value(scan):
    path, array = scan
    prepared = prepare_scan(path, [*READ, CenterSpatialCropd("image", 16)])
    back = prepared.intensities(prepared.image)[0].numpy()
    assert np.isfinite(back).sum() == 16**3
    kept = np.isfinite(back)
    np.testing.assert_allclose(back[kept], array[kept], rtol=1e-6)


def test_nan_is_put_back(tmp_path):
    array = brain(1, (30, 26, 22)).astype(np.float32)
    array[array == 0] = np.nan
    prepared = prepare_scan(str(save(tmp_path / "a.nii", array, affine=AFFINE)), [*READ, PERCENTILES])
    assert torch.isfinite(prepared.image).all()
    back = prepared.to_scan(prepared.image)[0].numpy()
    np.testing.assert_array_equal(np.isnan(back), np.isnan(array))


def test_resampling_to_the_voxels_of_the_training_and_back(tmp_path):
    """A plane of constant slope survives linear interpolation, but for the border."""
    x, y, z = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in (30, 26, 22)), indexing="ij")
    array = (3 * x + 2 * y - z + 100).astype(np.float32)
    path = str(save(tmp_path / "a.nii.gz", array, affine=AFFINE))
    prepared = prepare_scan(path, with_resampling(READ, (0.75, 1.0), slice_axis=2))
    assert prepared.voxel_size == pytest.approx((0.75, 1.0, 2.0))
    back = prepared.intensities(prepared.image)[0].numpy()
    assert back.shape == array.shape
    np.testing.assert_allclose(back[2:-2, 2:-2, 2:-2], array[2:-2, 2:-2, 2:-2], atol=1e-2)
    assert nib.aff2axcodes(prepared.image.affine.numpy()) == ("R", "A", "S")
