"""Resampling to larger voxels: what is too fine for them goes, what is not stays, and the way back is MONAI's."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.transforms import Spacingd

from monai_blurvae.preparation.brain import resample
from monai_blurvae.transforms import SmoothSpacingd, matching_sigma


def wave(period_mm, size, n=96):
    """Along the first axis, of amplitude 1."""
    x = np.cos(2 * np.pi * np.arange(n) * size / period_mm)
    image = torch.from_numpy(np.broadcast_to(x[:, None, None], (n, 4, 3)).copy()).float()[None]
    return MetaTensor(image, affine=torch.diag(torch.tensor([size, 1, 1, 1], dtype=torch.float64)))


def amplitude(image):
    return float(image[0, 8:-8].double().std() * 2**0.5)


def test_the_width_is_between_the_two_gaussians():
    """Variances of point spread functions add up under convolution."""
    sigma = 1 / (2 * np.sqrt(2 * np.log(2)))
    np.testing.assert_allclose(matching_sigma(0.7, 1.5) ** 2 + (0.7 * sigma) ** 2, (1.5 * sigma) ** 2, rtol=1e-12)
    assert matching_sigma(1.0, 1.0) == matching_sigma(1.0, 0.5) == matching_sigma(1.0, -1.0) == 0


@pytest.mark.parametrize("period", [2.5, 5.0, 20.0])
def test_a_wave_is_damped_by_the_gaussian_before_it_is_sampled(period):
    """By exp(−2π²σ²/p²), of 2.5 mm a tenth is left and of 20 mm nearly all, in both libraries."""
    sigma = matching_sigma(0.5, 2.0)
    expected = np.exp(-2 * (np.pi * sigma / period) ** 2)
    image = wave(period, 0.5)
    smooth = SmoothSpacingd("image", (0.5, 1, 1))({"image": image})["image"]
    torch.testing.assert_close(smooth, Spacingd("image", (0.5, 1, 1))({"image": image})["image"])
    found = SmoothSpacingd("image", (2.0, -1, -1), mode="bilinear", padding_mode="border")({"image": image})["image"]
    assert found.shape == (1, 25, 4, 3)
    assert np.diag(found.affine)[:3].tolist() == [2, 1, 1]
    np.testing.assert_allclose(amplitude(found[:, 1:]), expected, rtol=0.1, atol=0.02)
    itk = sitk.GetImageFromArray(image.numpy()[0].T)
    itk.SetSpacing((0.5, 1.0, 1.0))
    small = resample(itk, (2.0, 1.0, 1.0))
    array = torch.from_numpy(sitk.GetArrayFromImage(small).T.copy())[None]
    np.testing.assert_allclose(amplitude(array), expected, rtol=0.1, atol=0.03)


def test_the_inverse_is_that_of_spacingd():
    image = wave(20.0, 0.5)
    transform = SmoothSpacingd("image", (1.0, -1, -1), padding_mode="border")
    back = transform.inverse(transform({"image": image}))["image"]
    assert back.shape == image.shape
    torch.testing.assert_close(back.affine, image.affine)
    assert float((back - image)[0, 4:-4].abs().max()) < 0.05
