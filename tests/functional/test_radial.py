import math

import numpy as np
import pytest
import torch

from monai_blurvae.functional.radial import annuli, annulus_mean, radial_power

SIZES = [(8, 8), (9, 9), (8, 11), (7, 6)]


def images(size, channels=2, batch=3):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, channels, *size, generator=generator, dtype=torch.float64) * 2 - 1


def power_by_hand(image, window):
    """Annuli of the full DFT, one frequency after the other."""
    height, width = image.shape
    if window:
        weights = np.array(
            [
                [math.sin(math.pi * i / height) ** 2 * math.sin(math.pi * j / width) ** 2 for j in range(width)]
                for i in range(height)
            ]
        )
        image = image * weights / math.sqrt((weights**2).mean())
    spectrum = np.fft.fft2(image) / math.sqrt(height * width)
    shortest = min(height, width)
    members = {r: [] for r in range(1, shortest // 2 + 1)}
    for i, fy in enumerate(np.fft.fftfreq(height)):
        for j, fx in enumerate(np.fft.fftfreq(width)):
            r = round(shortest * math.hypot(fy, fx))
            if r in members:
                members[r].append(abs(spectrum[i, j]) ** 2)
    return np.array([np.mean(values) for values in members.values()])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", [False, True])
def test_annuli_of_the_full_spectrum(size, window):
    x = images(size)
    expected = np.array([[power_by_hand(channel, window) for channel in image] for image in x.numpy()])
    torch.testing.assert_close(radial_power(x, window), torch.from_numpy(expected))


def hann(n):
    return np.array([math.sin(math.pi * i / n) ** 2 for i in range(n)])


@pytest.mark.parametrize("size", [(8, 8, 8), (6, 7, 5)])
@pytest.mark.parametrize("window", [False, True])
def test_shells_of_the_full_spectrum_of_cubes(size, window):
    x = images(size).numpy()
    if window:
        weights = np.einsum("i,j,k->ijk", *map(hann, size))
        x = x * weights / math.sqrt((weights**2).mean())
    power = np.abs(np.fft.fftn(x, axes=(2, 3, 4), norm="ortho")) ** 2
    grid = np.meshgrid(*map(np.fft.fftfreq, size), indexing="ij")
    radius = np.rint(min(size) * np.sqrt(sum(axis**2 for axis in grid)))
    expected = np.stack([power[..., radius == r].mean(-1) for r in range(1, min(size) // 2 + 1)], -1)
    torch.testing.assert_close(radial_power(images(size), window), torch.from_numpy(expected))


@pytest.mark.parametrize("size", [*SIZES, (4, 5, 6), (5, 4, 3)])
def test_annulus_means_are_those_of_the_full_spectrum(size):
    power = torch.fft.fftn(images(size), dim=tuple(range(2, 2 + len(size)))).abs().square()
    grid = np.meshgrid(*(np.fft.fftfreq(n) for n in size), indexing="ij")
    radius = np.rint(min(size) * np.sqrt(sum(axis**2 for axis in grid)))
    half = power[..., : size[-1] // 2 + 1]
    means = np.stack([power.numpy()[..., radius == r].mean(-1) for r in range(int(radius.max()) + 1)], -1)
    torch.testing.assert_close(annulus_mean(half, size), torch.from_numpy(means))
    found = annuli(size, torch.float64, torch.device("cpu"))
    np.testing.assert_array_equal(found.radius, radius[..., : size[-1] // 2 + 1])
    np.testing.assert_array_equal(found.members, np.bincount(radius.astype(int).flatten()))


def test_training_goes_on_after_inference():
    annuli.cache_clear()
    x = images((8, 8))
    with torch.inference_mode():
        radial_power(x)
    y = x.clone().requires_grad_()
    radial_power(y).sum().backward()
    assert y.grad is not None


@pytest.mark.parametrize("radius", [1, 3, 4])
def test_a_wave_has_power_at_its_own_radius_alone(radius):
    # by Parseval, all the wave's energy is in one annulus
    position = torch.arange(8, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * radius * position / 8).expand(1, 1, 8, 8)
    energy = wave.square().sum()
    power = radial_power(wave, window=False)[0, 0]
    members = [(i, j) for i in range(-4, 4) for j in range(-4, 4) if round(math.hypot(i, j)) == radius]
    expected = torch.zeros(4, dtype=torch.float64)
    expected[radius - 1] = energy / len(members)
    torch.testing.assert_close(power, expected)


@pytest.mark.parametrize("window", [False, True])
def test_white_noise_has_its_variance_at_every_radius(window):
    generator = torch.Generator().manual_seed(0)
    noise = 0.5 * torch.randn(4000, 1, 8, 8, generator=generator, dtype=torch.float64)
    mean = radial_power(noise, window).mean((0, 1))
    torch.testing.assert_close(mean, torch.full((4,), 0.25, dtype=torch.float64), rtol=0.05, atol=0)


@pytest.mark.parametrize("size", SIZES)
def test_gradients(size):
    x = images(size, channels=1, batch=2).requires_grad_()
    assert torch.autograd.gradcheck(radial_power, (x,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x = images((8, 8)).to(dtype)
    torch.testing.assert_close(radial_power(x), radial_power(x.float()))


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 1, 8, 8, 8, 8), (1, 1, 1, 8)])
def test_bad_shapes(shape):
    with pytest.raises(ValueError, match="shape"):
        radial_power(torch.zeros(shape))
