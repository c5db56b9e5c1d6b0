"""Artefacts and lesions that are put into scans, to see whether a score of unusualness finds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import GibbsNoise, KSpaceSpikeNoise, RandBiasField, RandRicianNoise
from scipy.ndimage import gaussian_filter

Volume = npt.NDArray[np.float64]
Change = Callable[[Volume, np.random.Generator, float], Volume]
"""Takes a volume ``(X, Y, Z)`` whose background is 0 and whose 99th percentile is 1, slices along the last axis, and a
strength, 1 as in the functions' own words; gives one of the same shape."""

LESION_RADIUS = 5.0
"""In voxels, where a lesion is half as strong as in its middle."""


def lesion(sign: float) -> Change:
    """A ball with a soft edge, 0.4 brighter (``sign`` 1) or darker (−1) than what was there, inside the anatomy."""

    def change(volume: Volume, rng: np.random.Generator, strength: float) -> Volume:
        inside = np.argwhere(gaussian_filter((volume > 0).astype(float), LESION_RADIUS) > 0.9)
        centre = inside[rng.integers(len(inside))]
        grid = np.indices(volume.shape) - centre[:, None, None, None]
        ball = 1 / (1 + np.exp(2 * (np.sqrt((grid**2).sum(0)) - LESION_RADIUS)))
        return np.maximum(volume + sign * 0.4 * strength * np.where(ball > 1e-3, ball, 0), 0)

    return change


def motion(volume: Volume, rng: np.random.Generator, strength: float) -> Volume:
    """TorchIO's, after Shaw et al. (2019): two moves in the plane of up to 2° and 2 voxels while k-space is sampled.

    Interpolated by cubic splines: a line between voxels would smooth, and that is found in place of the motion.
    """
    angles = np.zeros((2, 3))
    angles[:, 0] = rng.uniform(-2, 2, 2)
    moves = np.concatenate([np.zeros((2, 1)), rng.uniform(-2, 2, (2, 2))], 1)
    move = _torchio().Motion(strength * angles, strength * moves, np.sort(rng.uniform(0, 1, 2)), "bspline")
    lines_last = np.ascontiguousarray(volume.transpose(2, 0, 1))  # it samples k-space along the last axis
    return _of_torch(move, lines_last).transpose(1, 2, 0)


def ghosting(volume: Volume, rng: np.random.Generator, strength: float) -> Volume:
    """TorchIO's: every second line of k-space is 15 % too weak, but for the central 4 %."""
    return _of_torch(_torchio().Ghosting(2, 1, 0.15 * strength, 0.04), volume)


def noise(volume: Volume, rng: np.random.Generator, strength: float) -> Volume:
    """MONAI's Rician noise of standard deviation 0.05."""
    transform = RandRicianNoise(prob=1, std=0.05 * strength, relative=False, sample_std=False)
    transform.set_random_state(int(rng.integers(2**31)))
    return _of_torch(transform, volume)


def bias_field(volume: Volume, rng: np.random.Generator, strength: float) -> Volume:
    """MONAI's, the exponential of a polynomial of degree 3 with coefficients of 0.1 to 0.2."""
    transform = RandBiasField(prob=1, degree=3, coeff_range=(0.1 * strength, 0.2 * strength))
    transform.set_random_state(int(rng.integers(2**31)))
    return _of_torch(transform, volume)


def gibbs_ringing(volume: Volume, rng: np.random.Generator, strength: float) -> Volume:
    """MONAI's: frequencies beyond a ball are cut off, of which 0.4 of the radius is left (0.4 to the strength)."""
    return _of_torch(GibbsNoise(alpha=1 - 0.4**strength), volume)


def spike(volume: Volume, rng: np.random.Generator, strength: float) -> Volume:
    """MONAI's: in each slice one frequency has e⁻² of the amplitude of the mean (times the strength)."""
    place = [size // 2 + int(rng.integers(8, 20)) for size in volume.shape[:2]]
    slices = []
    for slice_ in np.moveaxis(volume, 2, 0):
        if slice_.any():
            largest = float(np.log(np.abs(np.fft.fftn(slice_)).max() + 1e-10))
            slice_ = _of_torch(KSpaceSpikeNoise([(0, *place)], [largest - 2 + np.log(strength)]), slice_)
        slices.append(slice_)
    return np.stack(slices, 2)


def blur(volume: Volume, rng: np.random.Generator, strength: float) -> Volume:
    """A Gaussian of 1.5 voxels in the plane."""
    return gaussian_filter(volume, (1.5 * strength, 1.5 * strength, 0))


CHANGES: dict[str, Change] = {
    "bright lesion": lesion(1),
    "dark lesion": lesion(-1),
    "motion": motion,
    "ghosting": ghosting,
    "noise": noise,
    "bias field": bias_field,
    "Gibbs ringing": gibbs_ringing,
    "k-space spike": spike,
    "blurred": blur,
}

LESIONS = ("bright lesion", "dark lesion")
"""Those of the changes that have a place, so that a map can be asked where they are."""


def _torchio() -> Any:
    try:
        import torchio
    except ImportError as error:
        raise ImportError(
            "motion and ghosting are TorchIO's, which is not installed; run pip install 'monai-blurvae[study]'."
        ) from error
    return torchio


def _of_torch(transform: Callable[..., object], image: Volume) -> Volume:
    made = transform(torch.as_tensor(image)[None].float())
    return np.asarray(made)[0].astype(np.float64)
