"""MONAI's values, and the way back."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ScaleIntensityRangePercentilesd

from monai_blurvae.data.facts import describe_transform
from monai_blurvae.errors import DataError
from monai_blurvae.transforms import ScalePercentilesd


@pytest.mark.parametrize("size", [20, 104], ids=["by torch", "by numpy"])  # MONAI's percentiles of small and large
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_monais_and_come_back(size, clip, dtype):
    image = torch.randn(1, size, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype) * 300 + 1000
    ours, monais = (
        ScalePercentilesd("image", 1, 99, clip=clip),
        ScaleIntensityRangePercentilesd("image", 1, 99, -1, 1, clip),
    )
    scaled = ours({"image": MetaTensor(image)})
    expected = monais({"image": MetaTensor(image)})["image"]
    assert scaled["image"].dtype == expected.dtype
    assert torch.equal(scaled["image"].as_tensor(), expected.as_tensor())
    assert torch.equal(ours({"image": image})["image"], monais({"image": image})["image"].as_tensor())
    low, high = np.percentile(image.numpy(), [1, 99])
    back = ours.inverse(scaled)["image"]
    np.testing.assert_allclose(back, image.clamp(low, high) if clip else image, rtol=0, atol=1e-3)
    assert not back.applied_operations


def test_two_of_one_config_have_one_key_and_others_another():
    keys = [describe_transform(ScalePercentilesd("image", 1, upper)) for upper in (99, 99, 98)]
    assert keys[0] == keys[1] != keys[2]
    used = ScalePercentilesd("image", 1, 99)
    used({"image": MetaTensor(torch.arange(10.0)[None])})
    assert describe_transform(used) == keys[0]


def test_a_blank_image_and_other_percentiles_are_refused():
    with pytest.raises(DataError, match="give an image that is not blank"):
        ScalePercentilesd("image", 1, 99)({"image": torch.zeros(1, 4, 4)})
    with pytest.raises(ValueError, match="lower < upper"):
        ScalePercentilesd("image", 99, 1)
