import numpy as np
import pytest
import torch
from scipy import ndimage

from monai_blurvae.functional import blur, gaussian_kernel
from monai_blurvae.metrics.spectra import (
    fourier_ring_correlation,
    laplacian_variance,
    log_spectrum_distance,
    relative_sharpness,
    ring_resolution,
)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numpy_log_spectrum(images, window):
    """The mean power of each radius by definition: all frequencies of the full DFT, one radius at a time."""
    x = images.numpy()
    n = x.shape[-1]
    if window:
        hann = np.sin(np.pi * np.arange(n) / n) ** 2
        hann = np.outer(hann, hann)
        x = x * hann / np.sqrt((hann**2).mean())
    power = np.abs(np.fft.fft2(x, norm="ortho")) ** 2
    frequency = np.fft.fftfreq(n) * n
    radius = np.rint(np.hypot(*np.meshgrid(frequency, frequency)))
    by_radius = [power[..., radius == r].mean((0, 2)) for r in range(1, n // 2 + 1)]
    return np.log10(np.stack(by_radius))


@pytest.mark.parametrize("window", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 9])
def test_spectrum_distance_against_numpy(window, channels, size):
    a, b = randn(5, channels, size, size), randn(8, channels, size, size, seed=1) * 0.3
    expected = np.sqrt(((numpy_log_spectrum(a, window) - numpy_log_spectrum(b, window)) ** 2).mean())
    assert log_spectrum_distance(a, b, window).item() == pytest.approx(expected)
    assert log_spectrum_distance(b, a, window).item() == pytest.approx(expected)


def test_sets_are_measured_in_parts():
    a, b = randn(150, 3, 9, 9) * torch.linspace(0.5, 2, 150).double().view(-1, 1, 1, 1), randn(70, 3, 9, 9, seed=1)
    expected = np.sqrt(((numpy_log_spectrum(a, True) - numpy_log_spectrum(b, True)) ** 2).mean())
    assert log_spectrum_distance(a, b).item() == pytest.approx(expected)
    expected = [np.mean([ndimage.laplace(channel)[1:-1, 1:-1].var() for channel in image]) for image in a.numpy()]
    np.testing.assert_allclose(laplacian_variance(a).numpy(), expected)


@pytest.mark.parametrize("window", [True, False])
def test_spectrum_distance_of_scaled_images(window):
    x = randn(4, 1, 16, 16)
    assert log_spectrum_distance(x, x, window).item() == 0
    assert log_spectrum_distance(0.1 * x, x, window).item() == pytest.approx(2)


def test_spectrum_distance_knows_neither_order_nor_phase():
    x = randn(4, 1, 16, 16)
    assert log_spectrum_distance(x.flip(0), x).item() == pytest.approx(0, abs=1e-12)
    assert log_spectrum_distance(x.roll((3, 5), (2, 3)), x, window=False).item() == pytest.approx(0, abs=1e-12)


def test_flat_images_have_a_finite_distance():
    assert torch.isfinite(log_spectrum_distance(torch.zeros(2, 1, 16, 16), randn(2, 1, 16, 16).float()))


def test_blur_shows_in_both_measures():
    x = randn(4, 1, 32, 32)
    images = [blur(x, gaussian_kernel(7, variance).double().expand(4, -1, -1, -1)) for variance in (0.2, 0.5, 1.0)]
    distances = [log_spectrum_distance(y, x).item() for y in images]
    sharpness = [relative_sharpness(y, x).item() for y in images]
    assert 0 < distances[0] < distances[1] < distances[2]
    assert 1 > sharpness[0] > sharpness[1] > sharpness[2]


@pytest.mark.parametrize("shape", [(2, 1, 8, 6), (2, 3, 7, 7), (2, 2, 5, 6, 4)])
def test_laplacian_against_scipy(shape):
    x = randn(*shape)
    interior = (slice(1, -1),) * (len(shape) - 2)
    expected = [np.mean([ndimage.laplace(channel.numpy())[interior].var() for channel in image]) for image in x]
    np.testing.assert_allclose(laplacian_variance(x).numpy(), expected)


def test_sharpness_is_a_ratio_of_means():
    a, b = randn(3, 1, 8, 8), randn(5, 1, 8, 8, seed=1)
    assert relative_sharpness(a, a).item() == pytest.approx(1)
    assert relative_sharpness(0.5 * b, b).item() == pytest.approx(0.25)
    expected = laplacian_variance(a).mean() / laplacian_variance(b).mean()
    assert relative_sharpness(a, b).item() == pytest.approx(expected.item())
    with_flat = torch.cat([b, torch.zeros(5, 1, 8, 8, dtype=b.dtype)])
    assert relative_sharpness(b, with_flat).item() == pytest.approx(2)


def test_bad_images():
    x = randn(2, 1, 8, 8)
    for function in (log_spectrum_distance, relative_sharpness):
        with pytest.raises(ValueError, match=r"have shapes \(2, 1, 8, 8\) and \(2, 1, 8, 7\)"):
            function(x, x[..., 1:])
        with pytest.raises(ValueError, match="two sets of images"):
            function(x[:0], x)
    with pytest.raises(ValueError, match="at least 3 pixels"):
        laplacian_variance(x[..., :2])
    with pytest.raises(ValueError, match="constant"):
        relative_sharpness(x, torch.ones_like(x))


def numpy_ring_correlation(a, b):
    """By definition, all frequencies of the full DFT, one ring at a time."""
    n = a.shape[-1]
    hann = np.sin(np.pi * np.arange(n) / n) ** 2
    x, y = (np.fft.fft2((z - z.mean((2, 3), keepdims=True)) * np.outer(hann, hann)) for z in (a.numpy(), b.numpy()))
    frequency = np.fft.fftfreq(n) * n
    radius = np.rint(np.hypot(*np.meshgrid(frequency, frequency)))
    rings = [radius == r for r in range(1, n // 2 + 1)]
    cross = [(x * y.conj())[..., ring].sum().real for ring in rings]
    return np.array(cross) / [np.linalg.norm(x[..., ring]) * np.linalg.norm(y[..., ring]) for ring in rings]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 9])
def test_ring_correlation_against_numpy(size, channels):
    a, noise = randn(70, channels, size, size), randn(70, channels, size, size, seed=1)
    b = a + noise
    np.testing.assert_allclose(fourier_ring_correlation(a, b).numpy(), numpy_ring_correlation(a, b))
    np.testing.assert_allclose(fourier_ring_correlation(a, -3 * a + 1).numpy(), -np.ones(size // 2))


def test_power_of_its_own_does_not_raise_the_ring_correlation():
    x, noise = randn(200, 1, 32, 32), randn(200, 1, 32, 32, seed=1)
    correlation = fourier_ring_correlation(x + 2 * noise, x)
    # of independent white noises of power 1 and 4: 1 / √(1 + 4)
    assert correlation[4:].mean().item() == pytest.approx(5**-0.5, abs=0.01)
    assert fourier_ring_correlation(noise, x)[4:].abs().max() < 0.1
    assert fourier_ring_correlation(torch.zeros_like(x), x).abs().max() == 0


def test_resolution_is_where_a_filter_cuts_off():
    x, noise = randn(50, 1, 64, 64), randn(50, 1, 64, 64, seed=1)
    frequency = torch.fft.fftfreq(64, dtype=torch.float64) * 64
    low = torch.hypot(frequency[:, None], frequency[None]) <= 16.5
    kept = torch.fft.ifft2(torch.fft.fft2(x) * low + torch.fft.fft2(noise) * ~low).real
    assert ring_resolution(kept, x).item() == pytest.approx(64 / 16.5, rel=0.03)
    assert ring_resolution(x, x).item() == 2
    # white noise as strong as the image: 1 / √2 in every ring
    assert ring_resolution(x + noise, x, threshold=0.6).item() == 2
    assert ring_resolution(noise, x).item() > 32


def test_ring_correlation_needs_pairs():
    with pytest.raises(ValueError, match=r"pairs of images"):
        fourier_ring_correlation(randn(2, 1, 8, 8), randn(3, 1, 8, 8))
