"""Every term is computed in float32, whatever autocast or the type of its arguments asks for."""

import copy
from contextlib import nullcontext

import pytest
import torch

from monai_blurvae.losses import ELBOLoss, KernelLoss, SpectrumLoss
from monai_blurvae.networks import VAEOutput
from tests.losses.terms import SIZE, VARIANTS


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def channels(request):
    return request.param


@pytest.fixture(params=VARIANTS)
def term(request, channels, random_weights_dir):
    return VARIANTS[request.param](channels, random_weights_dir)


def data(channels):
    generator = torch.Generator().manual_seed(0)
    y, x = (torch.rand(3, channels, *SIZE, generator=generator) * 1.6 - 0.8 for _ in range(2))
    kernel = torch.rand(3, 1, 5, 5, generator=generator)
    return y, x, kernel / kernel.sum((2, 3), keepdim=True)


def low_precision():
    return torch.autocast("cpu", torch.bfloat16)


def value_and_gradient(call, y, context):
    y = y.clone().requires_grad_()
    with context:
        value = call(y)
    return value, torch.autograd.grad(value, y)[0]


def test_autocast_changes_no_term(term, channels):
    y, x, kernel = data(channels)
    again = copy.deepcopy(term)  # fitted ones change with each call
    expected = value_and_gradient(lambda r: term(r, x, kernel), y, nullcontext())
    found = value_and_gradient(lambda r: again(r, x, kernel), y, low_precision())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    if term.is_likelihood:
        log_prob = term.log_prob(y, x, kernel)
        with low_precision():
            assert torch.equal(term.log_prob(y, x, kernel), log_prob)


def test_autocast_changes_no_objective(term, channels):
    y, x, kernel = data(channels)
    z = torch.linspace(-1, 1, 12).view(3, 4)
    objective = ELBOLoss(term, auxiliary=[(0.1, SpectrumLoss())])
    again = copy.deepcopy(objective)
    expected = value_and_gradient(lambda r: objective(VAEOutput(r, z, z, z), x, kernel).loss, y, nullcontext())
    found = value_and_gradient(lambda r: again(VAEOutput(r, z, z, z), x, kernel).loss, y, low_precision())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted(term, channels, dtype):
    y, x, kernel = (tensor.to(dtype) for tensor in data(channels))
    z = torch.linspace(-1, 1, 12, dtype=dtype).view(3, 4)
    again, objective = copy.deepcopy(term), ELBOLoss(copy.deepcopy(term))
    lifted = copy.deepcopy(objective)
    torch.testing.assert_close(term(y, x, kernel), again(y.float(), x.float(), kernel.float()), rtol=0, atol=0)
    found = objective(VAEOutput(y, z, z, z), x, kernel)
    expected = lifted(VAEOutput(y.float(), *[z.float()] * 3), x.float(), kernel.float())
    torch.testing.assert_close(tuple(found), tuple(expected), rtol=0, atol=0)


def test_autocast_changes_no_kernel_loss(channels):
    y, x, kernel = data(channels)
    expected = KernelLoss()(y, x, kernel)
    with low_precision():
        assert torch.equal(KernelLoss()(y, x, kernel), expected)
