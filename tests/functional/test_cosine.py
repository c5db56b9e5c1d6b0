import pytest
import scipy.fft
import torch

from monai_blurvae.functional import dct_matrix

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [1, 5, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_scipys_transform(size, dtype):
    x = torch.rand(3, size, generator=torch.Generator().manual_seed(0), dtype=dtype)
    expected = torch.from_numpy(scipy.fft.dct(x.numpy(), norm="ortho"))
    torch.testing.assert_close(x @ dct_matrix(size, dtype, CPU).T, expected)


def test_training_goes_on_after_inference():
    dct_matrix.cache_clear()
    with torch.inference_mode():
        dct_matrix(4, torch.float64, CPU)
    x = torch.ones(4, dtype=torch.float64, requires_grad=True)
    (dct_matrix(4, torch.float64, CPU) @ x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())  # a rotation keeps the length
