import logging

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, Invertd

from monai_blurvae.errors import DataError
from monai_blurvae.transforms import NaNToBackgroundd

NAN = float("nan")


@pytest.mark.parametrize("kind", [np.array, torch.tensor, lambda values: MetaTensor(torch.tensor(values))])
def test_nan_becomes_the_smallest_finite_value_and_is_counted(caplog, kind):
    caplog.set_level(logging.INFO)
    filled = NaNToBackgroundd("image")({"image": kind([NAN, -2.0, 3.0, NAN])})["image"]
    assert filled.tolist() == [-2, -2, 3, -2]
    assert "the volume holds NaN in 2 of 4 voxels (50.0%), which are taken for background." in caplog.messages


def test_infinities_are_left_for_others_to_refuse():
    filled = NaNToBackgroundd("image")({"image": torch.tensor([NAN, -np.inf, 3.0])})["image"]
    assert filled.tolist() == [3, -np.inf, 3]


def test_a_volume_of_nan_alone_is_refused():
    with pytest.raises(DataError, match=r"x/y\.nii holds NaN alone"):
        NaNToBackgroundd("image")({"image": MetaTensor(torch.full((2,), NAN), meta={"filename_or_obj": "x/y.nii"})})


@pytest.mark.parametrize("values", [[NAN, 1.0, 2.0, NAN], [1.0, 2.0, 3.0, 4.0]])
def test_the_inverse_puts_nan_where_the_file_had_it(values):
    volume = MetaTensor(torch.tensor(values).reshape(1, 2, 2, 1))
    transform = Compose([Flipd("image", 0), NaNToBackgroundd("image"), Flipd("image", 1)])
    data = transform({"image": volume.clone()})
    data["pred"] = MetaTensor(torch.ones(1, 2, 2, 1))
    inverted = Invertd("pred", transform, "image")(data)["pred"]
    np.testing.assert_array_equal(inverted.isnan(), np.isnan(volume))
    assert (inverted[~inverted.isnan()] == 1).all()
