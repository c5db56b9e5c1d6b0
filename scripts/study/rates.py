"""Comparisons at one rate: models whose latents carry the same number of nats."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

Range = tuple[float, float]


class NotReached(NamedTuple):
    """The rates, in nats, of a row whose β grid does not bracket the wanted one."""

    lowest: float
    highest: float

    def __str__(self) -> str:
        if self.lowest == self.highest:
            return f"not reached (its only rate: {self.lowest:.4g})"
        return f"not reached (its rates: {self.lowest:.4g} to {self.highest:.4g})"


def usable_rates(rates: Sequence[float]) -> list[bool]:
    """Whether each rate has a finite logarithm; that of a collapsed posterior, 0, has none."""
    return [bool(np.isfinite(rate) and rate > 0) for rate in rates]


def value_at_rate(rates: Sequence[float], values: Sequence[float], rate: float) -> float | NotReached:
    """Interpolate a measure at a rate, piecewise linearly in the logarithm of the rate; never extrapolate.

    Args:
        rates: KL in nats of one row's models, in any order; those that are not positive are left out, of equal ones the
            mean counts.
        values: of the measure, one for each model.
        rate: where to interpolate, in nats.

    Returns:
        The value, or :class:`NotReached`.

    Raises:
        ValueError: without a model of positive rate, or if ``rate`` is not positive.
    """
    if rate <= 0:
        raise ValueError(f"rate must be positive, but is {rate}.")
    kept = [(r, v) for r, v, usable in zip(rates, values, usable_rates(rates), strict=True) if usable]
    if not kept:
        raise ValueError("there is no model with a positive rate.")
    distinct = sorted({r for r, _ in kept})
    if not distinct[0] <= rate <= distinct[-1]:
        return NotReached(distinct[0], distinct[-1])
    means = [float(np.mean([v for r, v in kept if r == one])) for one in distinct]
    return float(np.interp(np.log(rate), np.log(distinct), means))


def common_rate(ranges: Sequence[Range], reference: Range | None = None) -> float | None:
    """The rate at which to compare: the middle, in the logarithm, of where most ranges overlap.

    Args:
        ranges: lowest and highest rate of each row, in nats, positive. A row with a single rate has nothing to
            interpolate, and does not count.
        reference: range that the rate has to lie in, that of the row with which the others are compared; likewise.

    Returns:
        The rate in nats; where equally many ranges overlap in several places, of the widest. None without a range.
    """
    ranges = [(low, high) for low, high in ranges if low < high]
    if reference is not None and not reference[0] < reference[1]:
        reference = None
    ends = sorted({end for bounds in ranges for end in bounds} | set(reference or ()))
    if reference is not None:
        ends = [end for end in ends if reference[0] <= end <= reference[1]]
    if not ranges or not ends:
        return None
    # Between neighbouring ends the number of ranges is constant; a single point is an interval, too.
    pieces = [(a, a) for a in ends] + list(pairwise(ends))

    def merit(piece: Range) -> tuple[int, float]:
        covering = sum(low <= piece[0] and piece[1] <= high for low, high in ranges)
        return covering, float(np.log(piece[1] / piece[0]))

    low, high = max(pieces, key=merit)
    return float(np.sqrt(low * high))


def covered_range(rates_by_seed: Sequence[Sequence[float]]) -> Range | None:
    """The rates that the models of every seed of a row bracket, or None where there are none."""
    usable = [[r for r, good in zip(rates, usable_rates(rates), strict=True) if good] for rates in rates_by_seed]
    if not usable or not all(usable):
        return None
    low, high = max(min(rates) for rates in usable), min(max(rates) for rates in usable)
    return (low, high) if low <= high else None
