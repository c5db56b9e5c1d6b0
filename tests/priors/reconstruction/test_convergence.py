import math

import pytest
import torch

from monai_blurvae.priors.reconstruction import CartesianMRI, ConvergenceWatcher, centred_fft, magnitude_psnr


def test_the_figures_of_each_step():
    """The transform is unitary: of fully sampled data the residual is the distance of the images."""
    image = torch.complex(*torch.randn(2, 1, 1, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    operator = CartesianMRI(torch.ones(8), (6, 8))
    reference = image.abs()[0, 0, 1:5]
    watcher = ConvergenceWatcher(centred_fft(image), operator, reference, 4.0, lambda x: x[..., 1:5, :])
    watcher(1, 0.9 * image)
    watcher(2, 0.99 * image)
    (zero, *steps), power = watcher.rows, float(reference.square().mean())
    assert zero[0] < 1e-12
    assert math.isnan(zero[1])
    for (residual, change, psnr), share, before in zip(steps, (0.9, 0.99), (1.0, 0.9), strict=True):
        assert residual == pytest.approx(1 - share)
        assert change == pytest.approx(abs(share - before) / share)
        assert psnr == pytest.approx(10 * math.log10(4.0**2 / ((1 - share) ** 2 * power)))


def test_without_a_reference_there_is_no_psnr():
    operator = CartesianMRI(torch.tensor([0.0, 1, 1, 0]), (4, 4))
    watcher = ConvergenceWatcher(operator.forward(torch.ones(1, 1, 4, 4, dtype=torch.complex64)), operator)
    assert math.isnan(watcher.rows[0][2])


def test_psnr_of_magnitudes():
    x = torch.full((1, 1, 4, 4), 1j, dtype=torch.complex128)
    assert magnitude_psnr(0.9 * x, x, 2.0) == [pytest.approx(10 * math.log10(4 / 0.01))]
