"""The scale of a scan, whose units are arbitrary, and its noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monai_blurvae.errors import DataError
from monai_blurvae.priors.reconstruction.operator import CartesianMRI

PERCENTILE = 99
"""Of the zero-filled magnitude, that is 1 in the units of the reconstructions (Tezcan et al. 2019)."""

PLAUSIBLE = (1e-3, 5.0)
"""Where that percentile lies in k-space that has been scaled, also of a slice with next to nothing in it."""

OUTER = 0.1
"""The noise is measured in this share of the samples, those farthest from the centre."""


def kspace_scale(kspace: Tensor, operator: CartesianMRI) -> float:
    """The 99th percentile of the zero-filled magnitude over all slices of a batch; k-space is to be divided by it.

    Args:
        kspace: ``(B, N, H, W)``.
        operator: of this k-space.

    Raises:
        DataError: if k-space does not fit, or the percentile is 0.
    """
    operator.check_kspace(kspace)
    scale = percentile(operator.adjoint(kspace).abs(), PERCENTILE)
    if not scale > 0:
        raise DataError("the zero-filled image is 0 nearly everywhere; the scan may be empty.")
    return scale


def percentile(values: Tensor, q: float) -> float:
    """The q-th percentile of all values, by NumPy's rule; torch's own takes 16 million at most."""
    ordered = values.flatten().sort().values.double()
    place = q / 100 * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))


def check_units(kspace: Tensor, operator: CartesianMRI) -> None:
    """Refuse k-space that is not in the units of the prior.

    Raises:
        DataError: with what was found.
    """
    found = kspace_scale(kspace, operator)
    if not PLAUSIBLE[0] <= found <= PLAUSIBLE[1]:
        raise DataError(
            f"k-space is in other units: the {PERCENTILE}th percentile of its zero-filled magnitude is {found:.3g}, "
            "where about 1 is expected; divide it by kspace_scale."
        )


def estimate_noise_std(kspace: Tensor, operator: CartesianMRI) -> float:
    """The noise of a scan, from the median power of its outer samples, where an image has next to nothing.

    Args:
        kspace: ``(B, N, H, W)``.
        operator: of this k-space.

    Returns:
        Standard deviation of the real and of the imaginary part, each.

    Raises:
        DataError: if no sample is common to all slices.
    """
    height, width = operator.image_size
    row = torch.linspace(-1, 1, height)[:, None]
    column = torch.linspace(-1, 1, width)[None, :]
    sampled = operator.mask.bool().all(0)[0]
    if not sampled.any():
        raise DataError("no sample is common to all slices, from which the noise could be measured; give noise_std.")
    radius = torch.where(sampled, torch.hypot(row, column), -1)
    count = max(1, round(OUTER * int(sampled.sum())))
    outer = radius.flatten().topk(count).indices.to(kspace.device)
    samples = kspace.abs().flatten(-2)[..., outer]
    # |k|² / 2s² is exponential, with median ln 2
    return float((samples.double().square().median() / (2 * math.log(2))).sqrt())
