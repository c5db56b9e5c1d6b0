import math

import numpy as np
import pytest
import torch

from monai_blurvae.functional import (
    OTF_FLOOR,
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
    value = half_log_det(otf_of(kernel, size), size, "exact", c=0.025, weighting=weighting, channels=channels)
    torch.testing.assert_close(value, expected[None])


@pytest.mark.parametrize(("size", "kernel_size"), SIZES)
@pytest.mark.parametrize("epsilon", [0.5, 0.05])
@pytest.mark.parametrize("channels", [1, 3])
def test_epsilon_is_the_determinant_of_the_shifted_blur(size, kernel_size, epsilon, channels):
    kernel = random_kernel(kernel_size)
    blur = circulant(kernel, size)
    shifted = torch.block_diag(*[blur + epsilon * torch.eye(len(blur), dtype=blur.dtype)] * channels)
    value = half_log_det(otf_of(kernel, size), size, "epsilon", epsilon=epsilon, channels=channels)
    torch.testing.assert_close(value, torch.linalg.slogdet(shifted).logabsdet[None])


def test_a_vanishing_transfer_function_is_floored_in_weight_and_determinant_alike():
    # The mean of 3 × 3 pixels on a 9 × 9 grid has zeros.
    otf = kernel_otf(torch.full((1, 1, 3, 3), 1 / 9, dtype=torch.float64), (9, 9))
    assert otf.abs().min() < OTF_FLOOR
    full = np.abs(np.fft.fft2(np.pad(np.full((3, 3), 1 / 9), (0, 6))))
    floored = np.maximum(full, OTF_FLOOR)
    log_weight = np.log(floored / (floored**2 + 0.025))
    assert half_log_det(otf, (9, 9), "exact").item() == pytest.approx(-log_weight.sum())
    assert wiener_weight(otf, 0.025).min().item() == pytest.approx(np.exp(log_weight).min())


def test_published_size_of_the_determinant():
    # 6,779 nats for an 11 × 11 Gaussian of variance 2 on 64 × 64, computed elsewhere with the same floor
    otf = kernel_otf(gaussian_kernel(11, 2.0).double(), (64, 64))
    assert half_log_det(otf, (64, 64), "exact", c=0.025).item() == pytest.approx(6779, abs=1)


def test_omit_is_zero_and_fixed_is_exact_without_gradient():
    kernel = random_kernel((3, 3))[None, None].requires_grad_()
    otf = kernel_otf(kernel, (6, 6))
    assert torch.equal(half_log_det(otf, (6, 6), "omit"), torch.zeros(1, dtype=torch.float64))
    fixed = half_log_det(otf, (6, 6), "fixed")
    assert torch.equal(fixed, half_log_det(otf, (6, 6), "exact").detach())
    assert not fixed.requires_grad


def test_the_wiener_weight_peaks_at_the_root_of_c():
    magnitude = torch.linspace(0.01, 1, 1000, dtype=torch.float64)
    weight = wiener_weight(magnitude.to(torch.complex128), 0.025)
    assert magnitude[weight.argmax()].item() == pytest.approx(math.sqrt(0.025), abs=2e-3)
    assert weight.max().item() == pytest.approx(0.5 / math.sqrt(0.025), rel=1e-3)


@pytest.mark.parametrize("c", [0.0, -1.0, float("nan"), float("inf")])
def test_c_has_to_be_positive(c):
    with pytest.raises(ValueError, match="C must be a positive number"):
        wiener_weight(torch.ones(1, dtype=torch.complex64), c)


def test_unknown_modes_are_refused():
    otf = torch.ones(1, 1, 4, 3, dtype=torch.complex64)
    with pytest.raises(ValueError, match="determinant mode"):
        half_log_det(otf, (4, 4), "large")
    with pytest.raises(ValueError, match="weighting"):
        wiener_weight(otf, 0.1, "none")


def test_normalizer_is_the_constant_of_a_standard_gaussian():
    expected = -torch.distributions.Normal(0, 1).log_prob(torch.zeros(12, dtype=torch.float64)).sum()
    assert gaussian_log_normalizer(12) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("mode", ["exact", "epsilon"])
@pytest.mark.parametrize("weighting", ["wiener", "bounded_inverse"])
def test_gradients(mode, weighting):
    kernel = random_kernel((3, 3))[None, None].requires_grad_()

    def value(k):
        return half_log_det(kernel_otf(k, (5, 6)), (5, 6), mode, weighting=weighting, channels=3)

    assert torch.autograd.gradcheck(value, (kernel,))
