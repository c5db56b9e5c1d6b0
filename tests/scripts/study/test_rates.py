import numpy as np
import pytest

from study.rates import NotReached, common_rate, covered_range, value_at_rate


def test_a_line_in_log_rate_is_met_exactly():
    rates = [400.0, 25.0, 100.0]
    values = [3 + 2 * np.log(r) for r in rates]
    for rate in (25.0, 30.0, 99.0, 173.0, 400.0):
        assert value_at_rate(rates, values, rate) == pytest.approx(3 + 2 * np.log(rate), rel=1e-12)


def test_between_two_models_only_these_two_count():
    rates, values = [10.0, 40.0, 90.0], [1.0, 5.0, -7.0]
    assert value_at_rate(rates, values, 20.0) == pytest.approx(3.0)  # 20 is halfway from 10 to 40 in the logarithm
    assert value_at_rate(rates, values, 60.0) == pytest.approx(-1.0)


def test_equal_rates_count_with_their_mean():
    assert value_at_rate([10.0, 10.0, 40.0], [0.0, 2.0, 5.0], 10.0) == pytest.approx(1.0)


@pytest.mark.parametrize("rate", [9.99, 40.01])
def test_nothing_is_extrapolated(rate):
    result = value_at_rate([40.0, 10.0], [1.0, 2.0], rate)
    assert result == NotReached(10.0, 40.0)
    assert str(result) == "not reached (its rates: 10 to 40)"


def test_collapsed_models_are_left_out():
    assert value_at_rate([0.0, 10.0, 40.0], [99.0, 1.0, 2.0], 20.0) == pytest.approx(1.5)
    only = value_at_rate([0.0, float("nan"), 40.0], [1.0, 2.0, 3.0], 20.0)
    assert only == NotReached(40.0, 40.0)
    assert str(only) == "not reached (its only rate: 40)"
    with pytest.raises(ValueError, match="no model with a positive rate"):
        value_at_rate([0.0], [1.0], 20.0)


def test_the_rate_has_to_be_positive():
    with pytest.raises(ValueError, match="rate must be positive"):
        value_at_rate([10.0], [1.0], 0.0)


def test_common_rate_is_the_middle_of_the_largest_overlap():
    # Two ranges overlap from 20 to 50, three from 40 to 50.
    assert common_rate([(10, 50), (20, 100), (40, 60)]) == pytest.approx(np.sqrt(40 * 50))


def test_common_rate_of_equal_overlaps_is_in_the_widest():
    assert common_rate([(1, 10), (5, 20), (100, 900), (200, 1000)]) == pytest.approx(np.sqrt(200 * 900))


def test_common_rate_stays_with_the_reference():
    ranges = [(100, 200), (110, 190), (120, 180), (10, 40), (30, 90)]
    assert 120 <= common_rate(ranges) <= 180
    assert common_rate(ranges, reference=(10, 40)) == pytest.approx(np.sqrt(30 * 40))


def test_points_do_not_draw_the_common_rate_to_themselves():
    ranges = [(10, 50), (20, 100)]
    assert common_rate([*ranges, (12, 12), (12, 12), (49, 49)]) == common_rate(ranges) == pytest.approx(np.sqrt(1000))
    assert common_rate([*ranges, (12, 12)], reference=(10, 50)) == pytest.approx(np.sqrt(1000))
    assert common_rate(ranges, reference=(12, 12)) == pytest.approx(np.sqrt(1000))
    assert common_rate([(12, 12)]) is None
    assert common_rate([(12, 12)], reference=(12, 12)) is None


def test_common_rate_of_ranges_that_touch_or_of_none():
    assert common_rate([(10, 20), (20, 40)]) == pytest.approx(20)
    assert common_rate([]) is None


def test_a_row_covers_what_all_its_seeds_do():
    assert covered_range([[10, 80, 30], [70, 12]]) == (12, 70)
    assert covered_range([[10, 20], [30, 40]]) is None
    assert covered_range([[0.0]]) is None
    assert covered_range([]) is None
