"""How sure a mean over subjects is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 9999


class Interval(NamedTuple):
    """A mean with a bootstrap interval.

    Attributes:
        mean: over subjects.
        low: end of the interval; NaN for one subject.
        high: the other.
        least: the smallest value of a subject.
    """

    mean: float
    low: float
    high: float
    least: float


def mean_with_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of one value for each subject, and the percentile bootstrap interval of 95 %, by SciPy.

    Args:
        values: of subjects, which are what is drawn anew.
        seed: of the draws.
    """
    from scipy.stats import bootstrap

    mean, least = float(np.mean(values)), float(np.min(values))
    if len(values) < 2:
        return Interval(mean, float("nan"), float("nan"), least)
    low, high = bootstrap(
        (np.asarray(values),),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(low), float(high), least)
