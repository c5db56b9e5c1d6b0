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
        (np.array([1.0, np.nan]), "NaN or infinite"),
        (np.array([1.0, -np.inf]), "NaN or infinite"),
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


def test_percentiles_are_checked():
    with pytest.raises(ValueError, match="lower < upper"):
        CheckVolumed("image", lower=99, upper=1)
