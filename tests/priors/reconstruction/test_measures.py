import numpy as np
import pytest
import torch
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from monai_blurvae.priors.reconstruction import reconstruction_measures
from tests.priors.phantom import head


def test_against_scikit_image():
    reference = head(slices=2)
    image = (reference + 0.1 * torch.randn(2, 1, 48, 40, generator=torch.Generator().manual_seed(0))).abs()
    for found, one, true in zip(
        reconstruction_measures(image * 1j, reference.to(torch.complex64)), image, reference, strict=True
    ):
        one, true = one[0].numpy(), true[0].numpy()
        nmse = mean_squared_error(true, one) / np.square(true).mean()
        ssim = structural_similarity(
            true, one, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert found["nmse"] == pytest.approx(nmse, rel=1e-4)
        assert found["rmse_percent"] == pytest.approx(100 * nmse**0.5, rel=1e-4)
        assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(true, one, data_range=1.0), rel=1e-4)
        assert found["ssim"] == pytest.approx(ssim, abs=1e-3)


def test_the_range_is_the_largest_of_all_references():
    reference = 7 * head(slices=2)
    image = reference + 0.5
    for data_range, expected in ((None, 7.0), (14.0, 14.0)):
        found = reconstruction_measures(image, reference, data_range)[1]["psnr"]
        assert found == pytest.approx(20 * np.log10(expected / 0.5), rel=1e-5)
