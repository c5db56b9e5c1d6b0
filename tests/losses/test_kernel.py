"""The kernel step on pixels whose blur is known: the true convolution of a larger image, cut out."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

from monai_blurvae.losses import KernelLoss


def off_centre(size):
    """An anisotropic Gaussian, turned and moved off the middle."""
    radius = size // 2
    axis = torch.arange(-radius, radius + 1, dtype=torch.float64)
    row, column = torch.meshgrid(axis - 0.12 * size, axis + 0.07 * size, indexing="ij")
    turn = math.radians(30)
    along, across = row * math.cos(turn) + column * math.sin(turn), column * math.cos(turn) - row * math.sin(turn)
    kernel = torch.exp(-0.5 * (along / (0.16 * size)) ** 2 - 0.5 * (across / (0.07 * size)) ** 2)
    return (kernel / kernel.sum())[None, None]


def random_kernel(*size):
    kernel = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return kernel / kernel.sum()


def scene(channels, size):
    """A random walk along each axis, with power at low frequencies above all, and a different level at each border."""
    steps = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for axis in range(2, steps.ndim):
        steps = steps.cumsum(axis)
    return steps / steps.abs().max()


def truly_blurred(image, kernel):
    """By scipy, in the image domain; the values near the border, which depend on its extension, are cut off later."""
    return torch.from_numpy(np.stack([convolve(c.numpy(), kernel[0, 0].numpy()) for c in image[0]])[None])


def minimiser(term, blurred, image, shape):
    """The loss is quadratic in the kernel, so that one Newton step from anywhere arrives."""
    start = torch.zeros(math.prod(shape), dtype=torch.float64)

    def loss(values):
        return term(blurred, image, values.reshape(1, 1, *shape))

    gradient = torch.autograd.functional.jacobian(loss, start)
    hessian = torch.autograd.functional.hessian(loss, start, vectorize=True)
    return torch.linalg.solve(hessian, -gradient).reshape(1, 1, *shape)


@pytest.mark.parametrize(
    ("kernel", "channels", "crop"),
    [
        (off_centre(11), 1, (40, 40)),
        (off_centre(11), 3, (40, 37)),
        (random_kernel(11, 11), 1, (40, 40)),
        (random_kernel(5, 9), 1, (24, 31)),
        (random_kernel(3, 3, 5), 1, (12, 11, 13)),
    ],
    ids=["off-centre", "colour, odd width", "random", "rectangular", "3-D"],
)
def test_a_known_blur_is_found(kernel, channels, crop):
    margin = max(kernel.shape[2:])
    image = scene(channels, [n + 2 * margin for n in crop])
    cut = (slice(None), slice(None), *(slice(margin, margin + n) for n in crop))
    blurred, image = truly_blurred(image, kernel)[cut], image[cut]
    shape = kernel.shape[2:]
    found = minimiser(KernelLoss(), blurred, image, shape)
    assert (found - kernel).abs().max() < 1e-6
    circular = minimiser(KernelLoss("circular"), blurred, image, shape)
    assert (circular - kernel).abs().max() > 10 * (found - kernel).abs().max()
    assert KernelLoss()(blurred, image, kernel) == pytest.approx(0, abs=1e-18)


def test_a_kernel_of_41_pixels_is_found_by_descent():
    kernel = off_centre(41)
    image = torch.randn(1, 1, 180, 180, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    blurred, image = truly_blurred(image, kernel)[..., 42:138, 42:138], image[..., 42:138, 42:138]
    found = torch.zeros_like(kernel, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [found], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-12, tolerance_change=1e-15
    )

    def closure():
        optimizer.zero_grad()
        loss = KernelLoss()(blurred, image, found)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert (found - kernel).abs().max() < 1e-3 * kernel.max()
