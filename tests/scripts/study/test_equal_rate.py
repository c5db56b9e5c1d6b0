from statistics import stdev

import pytest

pytest.importorskip("pandas")

from study.equal_rate import against_reference_table, equal_rate_table
from study.rates import value_at_rate
from study.tables import QUALITY
from study.text import to_latex
from tests.scripts.study.test_tables import L2, WIENER, entry, measured, results


def grid(row, value, seeds=(0,), kls=(10.0, 40.0), **others):
    """Two β with the given validation rates, and the same measure at both."""
    return [
        measured(row, b, s, kl=kl, psnr=value(s), **others) for s in seeds for b, kl in zip((2, 1), kls, strict=True)
    ]


def against(cells, rate=20.0, rows=(L2, WIENER)):
    return against_reference_table("T", rows, results(cells, cells), rate)


def test_equal_rate_goes_by_validation_rates_within_each_seed():
    # Test rates are far off: they play no part. sqrt(10 · 40) = 20 is halfway.
    validation = [measured("l2", b, s, kl=kl) for s in (0, 1) for b, kl in ((1.0, 10.0), (0.1, 40.0))]
    test = [
        measured("l2", 1.0, 0, kl=1.0, psnr=10.0),
        measured("l2", 0.1, 0, kl=2.0, psnr=20.0),
        measured("l2", 1.0, 1, kl=1.0, psnr=14.0),
        measured("l2", 0.1, 1, kl=2.0, psnr=20.0),
    ]
    table = equal_rate_table("T", [L2], results(validation, test), 20.0)
    assert table.lines[0].leading[:2] == ("L2", "2")
    found = entry(table, 0, "psnr")
    assert found[:2] == (pytest.approx(16.0), pytest.approx(stdev([15.0, 17.0])))
    assert entry(table, 0, "ssim") == (None, None, "not measured")


def test_a_rate_that_is_not_reached_is_said_not_extrapolated():
    validation = [measured("l2", 1.0, kl=10.0), measured("l2", 0.1, kl=40.0)]
    test = [measured("l2", b, psnr=20.0) for b in (1.0, 0.1)]
    line = equal_rate_table("T", [L2], results(validation, test), 41.0).lines[0]
    assert line.seeds is None
    assert line.note == "not reached (its rates: 10 to 40)"


def test_seeds_that_do_not_reach_the_rate_are_counted():
    validation = [measured("l2", b, s, kl=kl) for s, scale in ((0, 1), (1, 10)) for b, kl in ((1, 10 * scale), (2, 40))]
    test = [measured("l2", b, s, psnr=20.0) for s in (0, 1) for b in (1, 2)]
    line = equal_rate_table("T", [L2], results(validation, test), 20.0).lines[0]
    assert line.leading[:2] == ("L2", "1")
    assert line.note == "1 of 2 seeds do not reach it"


def test_pairs_are_of_one_seed():
    # Seeds differ by 10 dB, rows by 1 and 3: paired, the spread is that of 1 and 3.
    l2 = grid("l2", {0: 20.0, 1: 30.0, 2: 50.0}.get, seeds=(0, 1, 2))
    wiener = grid("wiener", {0: 21.0, 1: 33.0, 5: 90.0}.get, seeds=(0, 1, 5))
    table = against(l2 + wiener)
    found = entry(table, 1, "psnr_difference")
    assert found[:2] == (pytest.approx(2.0), pytest.approx(stdev([1.0, 3.0])))
    assert table.lines[1].leading[:3] == ("Wiener", "20", "2")
    assert table.lines[1].note == "1 of 3 seeds without L2's"
    assert table.lines[1].competes


def test_spectra_are_compared_by_their_ratio_and_what_is_neither_better_not_at_all():
    l2 = grid("l2", lambda s: 20.0, spectrum_sample=0.5, spectrum_reconstruction=0.25, active_units=7.0)
    wiener = grid("wiener", lambda s: 19.0, spectrum_sample=0.4, spectrum_reconstruction=0.5, active_units=7.0)
    table = against(l2 + wiener)
    assert entry(table, 1, "spectrum_sample_ratio")[0] == pytest.approx(0.8)
    assert entry(table, 1, "spectrum_reconstruction_ratio")[0] == pytest.approx(2.0)
    assert entry(table, 1, "psnr_difference") == (pytest.approx(-1.0), None, "")
    assert (entry(table, 0, "spectrum_sample_ratio")[0], entry(table, 0, "psnr_difference")[0]) == (1.0, 0.0)
    keys = {measure.key.rsplit("_", 1)[0] for measure in table.measures}
    assert keys == {measure.key for measure in QUALITY.measures if measure.better}


def test_each_row_is_interpolated_at_the_rate_before_it_is_compared():
    # At 20 nats L2 is halfway between 10 and 12 dB in log KL, Wiener at its lower end.
    l2 = [measured("l2", b, kl=kl, psnr=v) for b, kl, v in ((2, 10.0, 10.0), (1, 40.0, 12.0))]
    wiener = [measured("wiener", b, kl=kl, psnr=v) for b, kl, v in ((2, 20.0, 15.0), (1, 90.0, 99.0))]
    assert entry(against(l2 + wiener), 1, "psnr_difference")[0] == pytest.approx(4.0)


def test_a_row_that_reaches_no_rate_of_the_reference_is_not_compared():
    cells = grid("l2", lambda s: 20.0) + grid("wiener", lambda s: 20.0, kls=(50.0, 60.0))
    line = against(cells).lines[1]
    assert (line.leading[:3], line.seeds) == (("Wiener", "–", "0"), None)
    assert line.note == "not reached (its rates: 50 to 60)"
    assert line.note == equal_rate_table("T", [L2, WIENER], results(cells, cells), 20.0).lines[1].note


def test_a_row_of_one_beta_is_compared_at_its_own_rate():
    # L2 is 10 dB at 10 nats and 12 dB at 40; at 10 · √2 nats it is a quarter of the way in the logarithm.
    l2 = [measured("l2", b, kl=kl, psnr=v) for b, kl, v in ((2, 10.0, 10.0), (1, 40.0, 12.0))]
    cells = [*l2, measured("wiener", 0.1, kl=10 * 2**0.5, psnr=13.0)]
    table = against(cells)
    line = table.lines[1]
    assert entry(table, 1, "psnr_difference")[0] == pytest.approx(13.0 - 10.5)
    assert line.leading[:3] == ("Wiener", "14.14", "1")
    assert line.note == "one β: at its own rate, 14.14 nats"
    assert (line.competes, table.lines[0].competes) == (False, True)
    equal = equal_rate_table("T", [WIENER], results(cells, cells), 20.0).lines[0]
    assert (equal.seeds, equal.note) == (None, "not reached (its only rate: 14.14)")


def test_each_seed_of_one_beta_has_its_own_rate():
    l2 = [measured("l2", b, s, kl=kl, psnr=kl + s) for s in (0, 1, 2) for b, kl in ((2, 10.0), (1, 40.0))]
    wiener = [measured("wiener", 0.1, s, kl=kl, psnr=60.0) for s, kl in ((0, 10.0), (1, 40.0), (2, 90.0))]
    table = against(l2 + wiener)
    found = entry(table, 1, "psnr_difference")
    differences = [60.0 - 10.0, 60.0 - 41.0]  # the third seed is out of L2's reach
    assert found[:2] == (pytest.approx(34.5), pytest.approx(stdev(differences)))
    assert table.lines[1].leading[1:3] == ("10–40", "2")
    assert table.lines[1].note == "one β: at its own rate, 10–40 nats; 1 of 3 seeds without L2's"


def test_a_row_that_misses_the_rate_is_compared_at_the_nearest_that_both_reach():
    l2 = [measured("l2", b, kl=kl, psnr=v) for b, kl, v in ((2, 10.0, 10.0), (1, 40.0, 12.0))]
    for kls, nearest, psnr in (((30.0, 90.0), 30.0, 50.0), ((5.0, 15.0), 15.0, 70.0)):
        wiener = [measured("wiener", b, kl=kl, psnr=v) for b, kl, v in zip((2, 1), kls, (50.0, 70.0), strict=True)]
        table = against(l2 + wiener)
        expected = psnr - value_at_rate([10.0, 40.0], [10.0, 12.0], nearest)
        assert entry(table, 1, "psnr_difference")[0] == pytest.approx(expected)
        assert table.lines[1].note == f"at the nearest rate that it and L2 reach, {nearest:g} nats"
        assert not table.lines[1].competes


def test_all_are_compared_elsewhere_where_the_reference_does_not_reach_a_given_rate():
    table = against(grid("l2", lambda s: 20.0) + grid("wiener", lambda s: 22.0, kls=(20.0, 90.0)), rate=80.0)
    assert entry(table, 1, "psnr_difference")[0] == pytest.approx(2.0)
    assert [line.leading[1] for line in table.lines] == ["40", "40"]


def test_what_was_measured_without_a_rate_to_compare_at_says_so():
    cells = [measured("l2", 0.1, kl=10.0, psnr=20.0)]
    for table in (against(cells, rate=None), equal_rate_table("T", [L2], results(cells, cells), None)):
        assert table.lines[0].note == "no rate to compare at: no row has two β"
        assert "no row has two β" in table.notes[0]


def test_without_the_reference_there_is_its_reason():
    wiener = grid("wiener", lambda s: 20.0)
    for cells, reason in (
        (wiener, "L2: not measured"),
        (wiener + grid("l2", lambda s: 20.0, kls=(50.0, 60.0)), "L2: not reached (its rates: 50 to 60)"),
        (wiener + grid("l2", lambda s: 20.0, seeds=(7,)), "1 of 1 seeds without L2's"),
    ):
        line = against(cells, rows=(WIENER,)).lines[0]
        assert (line.seeds, line.note) == (None, reason)


def test_rows_are_compared_with_the_reference_also_where_it_is_not_in_the_table():
    cells = grid("l2", lambda s: 20.0) + grid("wiener", lambda s: 22.0)
    assert entry(against(cells, rows=(WIENER,)), 0, "psnr_difference")[0] == pytest.approx(2.0)


def test_a_missing_measure_names_whose_it_is():
    l2 = grid("l2", lambda s: 20.0, reasons={"lpips": "no weights"}, ssim=0.5, spectrum_sample=0.0)
    wiener = grid("wiener", lambda s: 20.0, reasons={"ssim": "is nan"}, lpips=0.5, spectrum_sample=1.0)
    table = against(l2 + wiener)
    assert entry(table, 1, "lpips_difference") == (None, None, "L2: no weights")
    assert entry(table, 1, "ssim_difference") == (None, None, "is nan")
    assert entry(table, 1, "spectrum_sample_ratio") == (None, None, "L2's is 0")
    assert to_latex(table).isascii()


def test_without_a_rate_nothing_is_compared():
    table = against([], rate=None)
    assert [line.note for line in table.lines] == ["not trained", "not trained"]
