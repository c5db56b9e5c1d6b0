import pytest
import torch

from monai_blurvae.functional import (
    blur,
    kernel_otf,
    ortho_spectrum,
    spectral_sum,
    weighted_spectral_sum,
    wiener_weight,
)
from tests.dense import circulant, random_kernel, wiener_matrix

CASES = [
    ((6, 6), (3, 3)),
    ((7, 5), (3, 5)),
    ((5, 8), (5, 3)),
    ((9, 7), (1, 7)),
    ((4, 5, 6), (3, 3, 5)),
    ((5, 4, 3), (3, 1, 3)),
]


def images(batch, channels, size, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("size", "kernel_size"), CASES)
@pytest.mark.parametrize("channels", [1, 3])
def test_blur_is_the_circulant_product(size, kernel_size, channels):
    x = images(2, channels, size)
    kernels = torch.stack([random_kernel(kernel_size, seed) for seed in (0, 1)])[:, None]
    expected = torch.stack(
        [(circulant(k[0], size) @ xi.flatten(1).T).T.reshape(xi.shape) for xi, k in zip(x, kernels, strict=True)]
    )
    torch.testing.assert_close(blur(x, kernels), expected)


def test_blur_is_a_convolution_not_a_correlation():
    x = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    x[..., 2, 2] = 1
    kernel = torch.arange(9, dtype=torch.float64).reshape(1, 1, 3, 3)
    torch.testing.assert_close(blur(x, kernel)[..., 1:4, 1:4], kernel)


@pytest.mark.parametrize(("size", "kernel_size"), CASES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("weighting", ["wiener", "bounded_inverse"])
def test_weighted_sum_is_the_norm_under_the_dense_wiener_inverse(size, kernel_size, channels, weighting):
    residual = images(2, channels, size)
    kernels = torch.stack([random_kernel(kernel_size, seed) for seed in (0, 1)])[:, None]
    weight = wiener_weight(kernel_otf(kernels, size), 0.025, weighting)
    expected = [
        (wiener_matrix(circulant(k[0], size), 0.025, weighting) @ r.flatten(1).T).square().sum()
        for r, k in zip(residual, kernels, strict=True)
    ]
    torch.testing.assert_close(weighted_spectral_sum(residual, weight), torch.stack(expected))


@pytest.mark.parametrize("size", [(6, 6), (6, 7), (4, 5, 6), (1, 1), (2, 2)])
def test_parseval(size):
    x = images(3, 2, size)
    power = ortho_spectrum(x).abs().square()
    torch.testing.assert_close(spectral_sum(power, size), x.square().flatten(1).sum(1))


def test_otf_of_a_kernel_that_sums_to_one_is_one_at_frequency_zero():
    otf = kernel_otf(random_kernel((5, 5))[None, None], (8, 9))
    assert otf.shape == (1, 1, 8, 5)
    assert otf[0, 0, 0, 0] == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_inputs_are_transformed_in_float32(dtype):
    x = images(1, 1, (8, 8)).to(dtype)
    assert blur(x, random_kernel((3, 3))[None, None].to(dtype)).dtype == torch.float32


@pytest.mark.parametrize(
    ("kernel_size", "image_size", "message"),
    [((4, 4), (8, 8), "even"), ((9, 9), (8, 8), "larger"), ((3, 3), (8, 8, 8), "does not fit")],
)
def test_unusable_kernels_are_refused(kernel_size, image_size, message):
    with pytest.raises(ValueError, match=message):
        kernel_otf(torch.ones(1, 1, *kernel_size), image_size)


@pytest.mark.parametrize(("size", "kernel_size"), [((5, 6), (3, 3)), ((3, 4, 5), (3, 3, 3))])
def test_gradients(size, kernel_size):
    x = images(2, 2, size).requires_grad_()
    kernel = torch.stack([random_kernel(kernel_size, s) for s in (0, 1)])[:, None].requires_grad_()
    assert torch.autograd.gradcheck(blur, (x, kernel))

    def weighted(residual, k):
        return weighted_spectral_sum(residual, wiener_weight(kernel_otf(k, size), 0.025))

    assert torch.autograd.gradcheck(weighted, (x, kernel))
