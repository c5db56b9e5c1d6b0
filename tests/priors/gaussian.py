"""A prior whose every answer has a closed form: a stationary Gaussian on a torus, the denoiser a Wiener filter."""

import math

import torch

from monai_blurvae.functional import stationary_log_prob


class GaussianPrior(torch.nn.Module):
    """Real parts N(mean, Σ) with Σ diagonal in the DFT, imaginary parts white of a given standard deviation.

    Args:
        variance: of the ortho DFT's coefficients, ``(H, W)``, alike at a frequency and its negative.
        mean: grey value.
        imaginary_std: of complex images, once their phase has been taken out.
    """

    def __init__(self, variance, mean=0.0, imaginary_std=0.05):
        super().__init__()
        self.register_buffer("variance", variance)
        self.mean = mean
        self.imaginary_std = imaginary_std
        self.offsets, self.phases = [], []

    def log_prob(self, x, sigma, *, phase=None, offset=(0, 0)):
        real, imaginary = self._parts(x, phase)
        variance = self.variance + _square(sigma, x)
        log_prob = stationary_log_prob(real - self.mean, variance[..., : x.shape[-1] // 2 + 1])
        if imaginary is None:
            return log_prob
        white = self.imaginary_std**2 + _square(sigma, x)
        terms = -0.5 * imaginary.square() / white - 0.5 * torch.log(2 * math.pi * white)
        return log_prob + terms.sum((1, 2, 3))

    def grad(self, x, sigma, *, phase=None, offset=(0, 0)):
        return (self.denoise(x, sigma, phase=phase) - x) / _square(sigma, x)

    def denoise(self, x, sigma, *, phase=None, offset=(0, 0)):
        self.offsets.append(offset)
        self.phases.append(phase)
        real, imaginary = self._parts(x, phase)
        gain = self.variance / (self.variance + _square(sigma, x))
        real = self.mean + torch.fft.ifft2(gain * torch.fft.fft2(real - self.mean)).real
        if imaginary is None:
            return real
        shrunk = imaginary * self.imaginary_std**2 / (self.imaginary_std**2 + _square(sigma, x))
        image = torch.complex(real, shrunk)
        image = image if phase is None else image * phase
        return torch.cat([image.real, image.imag], 1)

    def _parts(self, x, phase):
        if x.shape[1] == 1:
            return x, None
        image = torch.complex(x[:, :1], x[:, 1:])
        image = image if phase is None else image * phase.conj()
        return image.real, image.imag


def power_law(height, width, power=2.0, scale=1.0, dtype=torch.float64):
    """A spectrum that falls with frequency, as those of images do."""
    row, column = torch.fft.fftfreq(height, dtype=dtype)[:, None], torch.fft.fftfreq(width, dtype=dtype)[None, :]
    return scale / (row.square() + column.square() + 1 / (height * width)) ** (power / 2)


def _square(sigma, x):
    return torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1).square()
