import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_blurvae.errors import DataError
from monai_blurvae.transforms import CheckVolumed


def outlier():
    array = np.zeros((1, 20, 20, 20))
    array[0, 3, 4, 5] = 1
    return array


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1.0, np.nan]), r"holds 1 NaN value\(s\) among 2"),
        (np.array([1.0, -np.inf, np.nan, np.nan]), r"holds 2 NaN and 1 infinite value\(s\) among 4"),
        (np.full((1, 4, 4), 7), "single value 7"),
        (outlier(), "all but constant, its percentiles 1 and 99 are both 0"),
    ],
)
def test_unusable_volumes_are_refused_by_name(array, message):
    with pytest.raises(DataError, match=f"the volume .*{message}"):
        CheckVolumed("image")({"image": array})
    with pytest.raises(DataError, match=rf"x/y\.nii .*{message}"):
        CheckVolumed("image")({"image": MetaTensor(array, meta={"filename_or_obj": "x/y.nii"})})


def test_others_pass_unchanged():
    volume = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert CheckVolumed("image")({"image": volume})["image"] is volume
    assert CheckVolumed("image", lower=0, upper=100)({"image": outlier()})["image"].max() == 1


def bright(value, share):
    """A tenth of ramp from 100 to 200 in zeros, with a share of very bright voxels."""
    array = np.zeros(10_000)
    array[:1000] = np.linspace(100, 200, 1000)
    array[: int(share * 10_000)] = value
    return array


def test_bright_voxels_that_squeeze_the_foreground_are_warned_of_with_a_percentile_that_helps(caplog):
    array = np.concatenate([bright(1e5, 0.02), np.linspace(100, 200, 10_000)])
    CheckVolumed("image", upper=99.5)({"image": array})
    (message,) = caplog.messages
    assert "90 % of its foreground lie in the lowest 0.19% of the range" in message
    assert "set upper of CheckVolumed and of ScalePercentilesd to 99." not in message
    percentile = float(message.rpartition(" to ")[2].rstrip("."))
    caplog.clear()
    CheckVolumed("image", upper=percentile)({"image": array})
    assert not caplog.messages


@pytest.mark.parametrize("array", [bright(200, 0.02), bright(1e5, 0.005), np.arange(1000.0), np.arange(1000) % 2])
def test_ordinary_volumes_are_not_warned_of(caplog, array):
    CheckVolumed("image")({"image": array})
    assert not caplog.messages


def test_percentiles_are_checked():
    with pytest.raises(ValueError, match="lower < upper"):
        CheckVolumed("image", lower=99, upper=1)
