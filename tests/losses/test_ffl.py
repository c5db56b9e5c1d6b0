import pytest
import torch

from monai_blurvae.losses.spectral import FocalFrequencyTerm

SIZES = [(8, 8), (7, 9), (6, 5)]


def data(channels=1, batch=2, size=(6, 7)):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, batch, channels, *size, generator=generator, dtype=torch.float64) * 2 - 1


def by_hand(y, x, alpha, log_matrix):
    """Over the full spectrum, one channel of one image after the other."""
    total = torch.zeros(len(x), dtype=torch.float64)
    for i in range(len(x)):
        for channel in range(x.shape[1]):
            magnitude = torch.fft.fft2(x[i, channel] - y[i, channel], norm="ortho").abs()
            weight = magnitude**alpha
            if log_matrix:
                weight = torch.log(weight + 1)
            total[i] += (weight / weight.max() * magnitude**2).sum()
    return total


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("alpha", "log_matrix"), [(1.0, False), (0.5, False), (2.0, True), (0.0, False)])
def test_value_over_the_full_spectrum(channels, size, alpha, log_matrix):
    y, x = data(channels, size=size)
    term = FocalFrequencyTerm(alpha, log_matrix, reduction="none")
    torch.testing.assert_close(term(y, x), by_hand(y, x, alpha, log_matrix))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("alpha", "log_matrix"), [(1.0, False), (0.5, False), (2.0, True)])
def test_value_and_gradient_are_those_of_the_authors_package(channels, size, alpha, log_matrix):
    package = pytest.importorskip("focal_frequency_loss")
    y, x = data(channels, size=size)
    y.requires_grad_()
    theirs = package.FocalFrequencyLoss(alpha=alpha, log_matrix=log_matrix)
    expected = torch.stack([x[0].numel() * theirs(y[i : i + 1], x[i : i + 1]) for i in range(len(x))])
    values = FocalFrequencyTerm(alpha, log_matrix, reduction="none")(y, x)
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=0)
    (gradient,) = torch.autograd.grad(values.sum(), y)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), y)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-12)


def test_in_float32_it_stays_within_1e_5_of_the_authors_package():
    package = pytest.importorskip("focal_frequency_loss")
    y, x = (value.float() for value in data(channels=3, batch=1, size=(64, 64)))
    expected = x[0].numel() * package.FocalFrequencyLoss()(y, x)
    torch.testing.assert_close(FocalFrequencyTerm()(y, x), expected, rtol=1e-5, atol=0)


def test_without_focus_it_is_the_squared_error():
    y, x = data(channels=3)
    squared_error = (x - y).square().flatten(1).sum(1)
    torch.testing.assert_close(FocalFrequencyTerm(alpha=0, reduction="none")(y, x), squared_error)


@pytest.mark.parametrize("log_matrix", [False, True])
def test_a_perfect_reconstruction_costs_nothing_and_has_a_gradient(log_matrix):
    x = data()[0]
    y = x.clone().requires_grad_()
    value = FocalFrequencyTerm(log_matrix=log_matrix)(y, x)
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, y)
    assert (gradient == 0).all()


def test_a_perfect_channel_does_not_spoil_the_others():
    y, x = data(channels=3)
    y[:, 1] = x[:, 1]
    others = FocalFrequencyTerm(reduction="none")(y[:, [0, 2]], x[:, [0, 2]])
    torch.testing.assert_close(FocalFrequencyTerm(reduction="none")(y, x), others)


def test_reductions_and_independence_of_the_batch():
    y, x = data(channels=3, batch=4)
    each = FocalFrequencyTerm(reduction="none")(y, x)
    torch.testing.assert_close(FocalFrequencyTerm(reduction="mean")(y, x), each.mean())
    torch.testing.assert_close(FocalFrequencyTerm(reduction="sum")(y, x), each.sum())
    torch.testing.assert_close(FocalFrequencyTerm(reduction="none")(y[1:2], x[1:2]), each[1:2])
    assert not FocalFrequencyTerm.is_likelihood


def test_gradients():
    # alpha = 0 alone has weights that do not depend on the images
    y, x = data(channels=3)
    y.requires_grad_()
    x.requires_grad_()
    assert torch.autograd.gradcheck(FocalFrequencyTerm(alpha=0), (y, x))

    term = FocalFrequencyTerm()
    power = torch.fft.rfft2(x - y, norm="ortho").abs().square()
    fixed = term.weight(power)
    term.weight = lambda power: fixed
    assert torch.autograd.gradcheck(term, (y, x))


@pytest.mark.parametrize("alpha", [-1, float("nan")])
def test_bad_alpha(alpha):
    with pytest.raises(ValueError, match="alpha"):
        FocalFrequencyTerm(alpha)
