"""Wavelet coefficients that are few, as a prior of deepinv. Needs the extra ``recon``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pywt
import torch
from deepinv.optim import Prior
from torch import Tensor

from monai_blurvae.priors.reconstruction.splitting import as_channels, as_complex
from monai_blurvae.seeding import numpy_rng

MODE = "periodization"
"""With which the transform of an image whose sides are multiples of 2^levels is orthonormal."""


class WaveletPrior(Prior):
    """g(x) = Σ |c| over the detail coefficients c = W x of an orthonormal wavelet transform on the torus.

    Its proximal step shrinks the moduli of the coefficients, exactly where the sides are multiples of 2^levels; other
    images are continued by their reflection up to the next ones, and cropped again. Every step has the grid shifted by
    other numbers of pixels.

    Args:
        wavelet: PyWavelets' name of an orthogonal one.
        levels: of the decomposition.
        seed: of the shifts; None for none.
    """

    def __init__(self, wavelet: str, levels: int, seed: int | None = 0) -> None:
        super().__init__()
        self.explicit_prior = True
        self.wavelet = wavelet
        self.levels = levels
        self._rng = None if seed is None else numpy_rng(seed, "wavelets")

    def fn(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """g(x), ``(B,)``, with the grid as it is."""
        details = [np.abs(band).sum((-2, -1)) for level in self._decompose(_pixels(x))[1:] for band in level]
        return torch.from_numpy(np.sum(details, 0)).to(x)

    def prox(self, x: Tensor, *args: Any, gamma: float = 1.0, **kwargs: Any) -> Tensor:
        """The minimiser u of ½ ‖u − x‖² + gamma · g(u), like ``x``: soft thresholds at gamma.

        Args:
            x: real ``(B, 1, H, W)``, or real and imaginary part ``(B, 2, H, W)``, whose coefficients are complex.
            *args: not used.
            gamma: the threshold.
            **kwargs: not used.
        """
        height, width = x.shape[2:]
        shift = (0, 0) if self._rng is None else tuple(int(n) for n in self._rng.integers(0, 2**self.levels, 2))
        approximation, *details = self._decompose(np.roll(_pixels(x), shift, (1, 2)))
        shrunk = [tuple(pywt.threshold(band, float(gamma), "soft") for band in level) for level in details]
        pixels = pywt.waverec2([approximation, *shrunk], self.wavelet, MODE)[:, :height, :width]
        image = torch.from_numpy(np.roll(pixels, (-shift[0], -shift[1]), (1, 2)))[:, None]
        return (as_channels(image) if image.is_complex() else image).to(x)

    def _decompose(self, pixels: npt.NDArray[Any]) -> list[Any]:
        missing = [(0, -size % 2**self.levels) for size in pixels.shape[1:]]
        padded = np.pad(pixels, [(0, 0), *missing], mode="symmetric")
        coefficients: list[Any] = pywt.wavedec2(padded, self.wavelet, MODE, self.levels)
        return coefficients


def _pixels(x: Tensor) -> npt.NDArray[Any]:
    """``(B, H, W)``, complex where there are two channels."""
    image = as_complex(x) if x.shape[1] == 2 else x
    pixels: npt.NDArray[Any] = image[:, 0].detach().cpu().numpy()
    return pixels
