import itertools
import math

import numpy as np
import pandas
import pytest

from prior_comparison.report import gain_over, mean_with_interval


def test_interval_is_that_of_all_resamples():
    """Of four subjects there are 4⁴ samples with replacement, whose means have the quantiles that are wanted."""
    values = [0.5, 1.0, 2.5, 4.0]
    means = [np.mean(sample) for sample in itertools.product(values, repeat=4)]
    found = mean_with_interval(values)
    assert (found.mean, found.least) == (2.0, 0.5)
    # a quantile of 9,999 draws of this distribution is off by one of its steps at most
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.126)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.126)


def test_interval_of_many_subjects_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(1.0, 0.5, 400)
    found = mean_with_interval(values.tolist())
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.005)
    assert found.high == pytest.approx(values.mean() + half, abs=0.005)


def test_one_subject_has_no_interval():
    found = mean_with_interval([1.5])
    assert (found.mean, found.least) == (1.5, 1.5)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_gains_are_of_the_same_slice_and_averaged_in_each_subject():
    """Three slices of one subject count as one."""
    columns = ["subject", "slice", "psnr"]
    baseline = pandas.DataFrame([("a", 0, 30.0), ("a", 1, 20.0), ("a", 2, 10.0), ("b", 0, 25.0)], columns=columns)
    method = pandas.DataFrame([("b", 0, 26.0), ("a", 2, 13.0), ("a", 1, 24.0), ("a", 0, 35.0)], columns=columns)
    found = gain_over(baseline, method)
    assert found.mean == pytest.approx((4.0 + 1.0) / 2)
    assert found.least == pytest.approx(1.0)
    assert (found.low, found.high) == pytest.approx((1.0, 4.0))
