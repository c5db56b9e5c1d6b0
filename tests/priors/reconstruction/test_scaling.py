import numpy as np
import pytest
import torch

from monai_blurvae.errors import DataError
from monai_blurvae.priors.reconstruction import CartesianMRI, estimate_noise_std, gaussian_line_mask, kspace_scale
from monai_blurvae.priors.reconstruction.operator import percentile
from tests.priors.phantom import scan


def test_percentile_is_numpys():
    values = torch.rand(997, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for q in (0, 1, 50, 99, 100):
        assert percentile(values, q) == pytest.approx(np.percentile(values.numpy(), q))


def test_scale_is_that_of_the_zero_filled_magnitude():
    kspace, operator, _ = scan(coils=3)
    expected = np.percentile(operator.adjoint(kspace).abs().numpy(), 99)
    assert kspace_scale(kspace, operator) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("coils", [1, 4])
def test_noise_alone(coils):
    """Of complex white noise the median is exact; a tenth of 8192 samples and more give it to a few percent."""
    mask = gaussian_line_mask(128, 2)
    maps = torch.ones(coils, 128, 128, dtype=torch.complex64)
    operator = CartesianMRI(mask, (128, 128), maps)
    noise = torch.complex(*torch.randn(2, 2, coils, 128, 128, generator=torch.Generator().manual_seed(0))) * 0.03
    assert estimate_noise_std(operator.mask * noise, operator) == pytest.approx(0.03, rel=0.08)


def test_no_sample_in_common():
    masks = torch.stack([torch.tensor([1.0, 0, 1, 0]), torch.tensor([0.0, 1, 0, 1])])[:, None, None]
    operator = CartesianMRI(masks, (4, 4))
    with pytest.raises(DataError, match="give noise_std"):
        estimate_noise_std(torch.ones(2, 1, 4, 4, dtype=torch.complex64), operator)
