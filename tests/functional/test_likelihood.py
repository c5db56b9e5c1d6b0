import math

import numpy as np
import pytest
import torch

from monai_blurvae.functional import (
    OTF_FLOOR,
    epsilon_half_log_det,
    gaussian_kernel,
    gaussian_log_normalizer,
    half_log_det,
    kernel_otf,
    wiener_weight,
)
from tests.dense import circulant, random_kernel, wiener_matrix

SIZES = [((6, 6), (3, 3)), ((7, 5), (3, 5)), ((4, 7), (3, 3)), ((4, 5, 3), (3, 3, 3))]


def otf_of(kernel, size):
    return kernel_otf(kernel[None, None], size)


@pytest.mark.parametrize(("size", "kernel_size"), SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("weighting", ["wiener", "bounded_inverse"])
def test_exact_is_the_determinant_of_the_dense_precision(size, kernel_size, channels, weighting):
    kernel = random_kernel(kernel_size)
    w = torch.block_diag(*[wiener_matrix(circulant(kernel, size), 0.025, weighting)] * channels)
    expected = -0.5 * torch.linalg.slogdet(w.T @ w).logabsdet
    value = half_log_det(wiener_weight(otf_of(kernel, size), 0.025, weighting), size, channels)
    torch.testing.assert_close(value, expected[None])


@pytest.mark.parametrize(("size", "kernel_size"), SIZES)
@pytest.mark.parametrize("epsilon", [0.5, 0.05])
@pytest.mark.parametrize("channels", [1, 3])
def test_epsilon_is_the_determinant_of_the_shifted_blur(size, kernel_size, epsilon, channels):
    kernel = random_kernel(kernel_size)
    blur = circulant(kernel, size)
    shifted = torch.block_diag(*[blur + epsilon * torch.eye(len(blur), dtype=blur.dtype)] * channels)
    value = epsilon_half_log_det(otf_of(kernel, size), size, epsilon, channels)
    torch.testing.assert_close(value, torch.linalg.slogdet(shifted).logabsdet[None])


def test_a_vanishing_transfer_function_is_floored_in_weight_and_determinant_alike():
    # The mean of 3 × 3 pixels on a 9 × 9 grid has zeros.
    otf = kernel_otf(torch.full((1, 1, 3, 3), 1 / 9, dtype=torch.float64), (9, 9))
    assert otf.abs().min() < OTF_FLOOR
    full = np.abs(np.fft.fft2(np.pad(np.full((3, 3), 1 / 9), (0, 6))))
    floored = np.maximum(full, OTF_FLOOR)
    log_weight = np.log(floored / (floored**2 + 0.025))
    weight = wiener_weight(otf, 0.025)
    assert half_log_det(weight, (9, 9)).item() == pytest.approx(-log_weight.sum())
    assert weight.min().item() == pytest.approx(np.exp(log_weight).min())


def test_published_size_of_the_determinant():
    # 6,779 nats for an 11 × 11 Gaussian of variance 2 on 64 × 64, computed elsewhere with the same floor
    otf = kernel_otf(gaussian_kernel(11, 2.0).double(), (64, 64))
    assert half_log_det(wiener_weight(otf, 0.025), (64, 64)).item() == pytest.approx(6779, abs=1)


def test_the_wiener_weight_peaks_at_the_root_of_c():
    magnitude = torch.linspace(0.01, 1, 1000, dtype=torch.float64)
    weight = wiener_weight(magnitude.to(torch.complex128), 0.025)
    assert magnitude[weight.argmax()].item() == pytest.approx(math.sqrt(0.025), abs=2e-3)
    assert weight.max().item() == pytest.approx(0.5 / math.sqrt(0.025), rel=1e-3)


@pytest.mark.parametrize("c", [0.0, -1.0, float("nan"), float("inf")])
def test_c_has_to_be_positive(c):
    with pytest.raises(ValueError, match="C must be a positive number"):
        wiener_weight(torch.ones(1, dtype=torch.complex64), c)


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="weighting"):
        wiener_weight(torch.ones(1, 1, 4, 3, dtype=torch.complex64), 0.1, "none")


def test_normalizer_is_the_constant_of_a_standard_gaussian():
    expected = -torch.distributions.Normal(0, 1).log_prob(torch.zeros(12, dtype=torch.float64)).sum()
    assert gaussian_log_normalizer(12) == pytest.approx(expected.item(), rel=1e-6)


def test_kernels_of_each_channel_are_not_counted_as_often_as_there_are_channels():
    otf = torch.ones(2, 3, 5, 4, dtype=torch.complex64)
    for determinant in (
        lambda: half_log_det(wiener_weight(otf, 0.025), (5, 6), 3),
        lambda: epsilon_half_log_det(otf, (5, 6), 0.5, 3),
    ):
        with pytest.raises(ValueError, match=r"shape \(2, 3, 5, 4\), but n_c channels that share a kernel have one"):
            determinant()


@pytest.mark.parametrize(
    "value",
    [
        lambda otf: half_log_det(wiener_weight(otf, 0.025), (5, 6), 3),
        lambda otf: half_log_det(wiener_weight(otf, 0.025, "bounded_inverse"), (5, 6), 3),
        lambda otf: epsilon_half_log_det(otf, (5, 6), 0.5, 3),
    ],
    ids=["exact", "exact, bounded inverse", "epsilon"],
)
def test_gradients(value):
    kernel = random_kernel((3, 3))[None, None].requires_grad_()
    assert torch.autograd.gradcheck(lambda k: value(kernel_otf(k, (5, 6))), (kernel,))
