import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from monai_blurvae.metrics import ActiveUnits, CappedPSNRMetric, image_pair, make_ssim_metric, to_unit_range


def pair(channels):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, channels, 32, 40, generator=generator)
    return (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1), x


@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_against_scikit_image_and_its_cap(channels):
    y, x = pair(channels)
    values = CappedPSNRMetric()(y, x).flatten()
    expected = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert CappedPSNRMetric()(x, x).flatten().tolist() == [100.0] * 3


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_against_scikit_image(channels):
    y, x = pair(channels)
    values = make_ssim_metric()(y, x).flatten()
    expected = []
    for a, b in zip(x, y, strict=True):
        # MONAI takes the mean over the places where the whole 11 x 11 window fits
        _, local = structural_similarity(
            a.double().numpy(),
            b.double().numpy(),
            channel_axis=0,
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            truncate=3.4,
            use_sample_covariance=False,
            full=True,
        )
        expected.append(local[:, 5:-5, 5:-5].mean())
    np.testing.assert_allclose(values, expected, atol=2e-4)


def test_unit_range():
    images = torch.tensor([-1.5, -1.0, 0.0, 1.0, 2.0])
    assert to_unit_range(images).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    prediction, image = image_pair({"pred": images, "image": -images})
    assert prediction.tolist() == to_unit_range(images).tolist()
    assert image.tolist() == [1.0, 1.0, 0.5, 0.0, 0.0]


def test_active_units_count_varying_means():
    metric = ActiveUnits()
    means = torch.zeros(100, 4)
    means[:, 1] = torch.linspace(-1, 1, 100)  # variance 0.34
    means[:, 2] = torch.linspace(-0.1, 0.1, 100)  # variance 0.0034, below 0.01
    means[:, 3] = 5.0
    metric.update(means[:60])
    metric.update(means[60:])
    assert metric.compute() == 1
    metric.reset()
    metric.update(means[:1])
    assert metric.compute() == 0


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_identical_images_have_an_ssim_of_one(spatial_dims):
    x = torch.rand(1, 1, *[16] * spatial_dims)
    assert make_ssim_metric(spatial_dims)(x, x).item() == pytest.approx(1, abs=1e-5)
