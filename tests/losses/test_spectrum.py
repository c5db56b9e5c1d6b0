import numpy as np
import pytest
import torch

from monai_blurvae.losses.spectral import SpectrumLoss


def data(channels=1, batch=2, size=(8, 8)):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, batch, channels, *size, generator=generator, dtype=torch.float64) * 2 - 1


def log_power_by_hand(image, floor):
    """log10 of the mean power in each annulus of the full DFT of an image that is not windowed."""
    n = len(image)
    power = np.abs(np.fft.fft2(image) / n) ** 2
    frequency = n * np.fft.fftfreq(n)
    radius = np.rint(np.hypot(frequency[:, None], frequency[None, :]))
    return np.array([np.log10(power[radius == r].mean() + floor) for r in range(1, n // 2 + 1)])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("floor", [1e-6, 1e-2])
@pytest.mark.parametrize("window", [False, True])
def test_value_from_the_full_spectrum(channels, floor, window):
    y, x = data(channels)
    hann = np.sin(np.pi * np.arange(8) / 8) ** 2
    weight = np.outer(hann, hann) if window else np.ones((8, 8))
    weight = weight / np.sqrt((weight**2).mean())
    expected = torch.zeros(2, dtype=torch.float64)
    for i in range(2):
        for c in range(channels):
            a, b = (log_power_by_hand(weight * images[i, c].numpy(), floor) for images in (y, x))
            expected[i] += 64 * ((a - b) ** 2).mean()
    torch.testing.assert_close(SpectrumLoss(floor, window, reduction="none")(y, x), expected)


@pytest.mark.parametrize("window", [False, True])
def test_ten_times_the_contrast_costs_four_a_pixel(window):
    # two decades of power at every radius, far above the floor
    _, x = data(channels=3)
    value = SpectrumLoss(floor=1e-15, window=window)(10 * x, x)
    assert value.item() == pytest.approx(3 * 64 * 2**2, rel=1e-6)


def test_the_phase_does_not_matter():
    y, x = data()
    shifted = torch.roll(x, (2, 3), (2, 3))
    assert SpectrumLoss(window=False)(shifted, x).item() == pytest.approx(0, abs=1e-18)
    assert SpectrumLoss(window=False)(y, x).item() > 1


def test_the_gradient_gives_a_blurred_image_its_power_back():
    x = data(size=(16, 16))[1]
    blurred = (x + x.roll(1, 2) + x.roll(1, 3) + x.roll((1, 1), (2, 3))) / 4
    contrast = torch.ones((), dtype=torch.float64, requires_grad=True)
    SpectrumLoss()(contrast * blurred, x).backward()
    assert contrast.grad < 0


def test_a_flat_image_keeps_value_and_gradient_finite():
    x = data()[1]
    flat = torch.zeros_like(x).requires_grad_()
    value = SpectrumLoss()(flat, x)
    value.backward()
    assert value.isfinite()
    assert flat.grad.isfinite().all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_perfect_reconstruction_costs_nothing(channels):
    x = data(channels)[0]
    assert SpectrumLoss()(x, x).item() == 0


def test_reductions_and_independence_of_the_batch():
    y, x = data(channels=3, batch=4)
    each = SpectrumLoss(reduction="none")(y, x)
    torch.testing.assert_close(SpectrumLoss(reduction="mean")(y, x), each.mean())
    torch.testing.assert_close(SpectrumLoss(reduction="sum")(y, x), each.sum())
    torch.testing.assert_close(SpectrumLoss(reduction="none")(y[1:2], x[1:2]), each[1:2])
    assert not SpectrumLoss.is_likelihood


@pytest.mark.parametrize("size", [(6, 6), (5, 7)])
@pytest.mark.parametrize("window", [False, True])
def test_gradients(size, window):
    y, x = data(channels=3, size=size)
    assert torch.autograd.gradcheck(SpectrumLoss(window=window), (y.requires_grad_(), x.requires_grad_()))


@pytest.mark.parametrize("floor", [0, -1e-6, float("nan")])
def test_bad_floor(floor):
    with pytest.raises(ValueError, match="floor"):
        SpectrumLoss(floor)
