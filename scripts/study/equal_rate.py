"""The tables at equal rate, and those of differences from the reference row, there and at β = 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from monai_blurvae.metrics.measures import Description
from study.frames import import_pandas, numbers, reason
from study.plan import L2, LINEAR, PLAIN_BETA, Row
from study.rates import NotReached, Range, value_at_rate
from study.tables import QUALITY, RATE, Line, Results, Shown, Table, empty_line, joined, legend

if TYPE_CHECKING:
    from pandas import DataFrame

RATIOS = ("spectrum_reconstruction", "spectrum_sample")
"""The measures that are compared by their ratio; the others by their difference."""

LABEL = L2.label
"""Of every table's reference row."""

COMPARED = tuple(measure for measure in QUALITY.measures if measure.better)
COMPARED_AT_BETA = tuple(measure for measure in QUALITY.measures if measure.key == RATE) + COMPARED
"""At one β the rate differs, too."""

NO_RATE = "no rate to compare at: no row has two β"

Value = float | str
"""A number, or why there is none."""

_Seeds = Mapping[int, "DataFrame"]
"""Of each seed the cells of a row's β grid, with their positive validation KL in nats as ``rate``."""


class _Comparison(NamedTuple):
    """Where a row is compared with the reference row.

    Attributes:
        rates: of each seed that both have, in nats.
        note: which seeds are left out, or why it is another rate than the other rows'.
        common: whether it is the other rows' rate.
    """

    rates: Mapping[int, float]
    note: str
    common: bool = True


def equal_rate_table(
    title: str, rows: Sequence[Row], results: Results, rate: float | None, shown: Shown = QUALITY
) -> Table:
    """Test measures at one validation KL, interpolated over each row's β within each seed, never extrapolated.

    The linear model has a line where it was measured; it takes no part in what is bold.
    """

    def line(row: Row) -> Line:
        seeds = _seeds(row, results)
        if not seeds:
            return empty_line(row, results, "–")
        reached = {} if rate is None else {s: rate for s, cells in seeds.items() if _reaches(cells, rate)}
        note = NO_RATE if rate is None else _not_reached(seeds, rate)
        values = _frame(reached, lambda s, r, key: _value(seeds[s], key, r), shown.measures)
        leading = (row.label, str(len(reached)), results.likelihood(row))
        return Line(leading, values, joined(note, results.problem(row)), competes=row != LINEAR)

    how = "piecewise linear in log KL over each row's β grid; mean ± std over seeds"
    notes = (f"{_where(results, rate)}: {how}.", *legend(rows, results, shown))
    return Table(
        title, ("row", "seeds", "likelihood"), shown.measures, tuple(map(line, with_linear(rows, results))), notes
    )


def with_linear(rows: Sequence[Row], results: Results) -> list[Row]:
    """The rows, and the linear model where it was measured."""
    return [*rows, *([LINEAR] if len(results.reported_of(LINEAR)) else [])]


def against_reference_table(
    title: str, rows: Sequence[Row], results: Results, rate: float | None, reference_row: Row = L2
) -> Table:
    """What :func:`equal_rate_table` shows, relative to the reference row, seed by seed.

    A row that does not reach the rate, as none with a single β does, is compared at the nearest one that it and the
    reference row both reach; the line says at which.
    """
    reference = _seeds(reference_row, results)

    def line(row: Row) -> Line:
        seeds = _seeds(row, results)
        if not seeds:
            return empty_line(row, results, "–", "–")
        rates, note, common = _Comparison({}, NO_RATE) if rate is None else _compare(seeds, reference, rate)

        def difference(seed: int, rate: float, key: str) -> Value:
            return _compared(_value(seeds[seed], key, rate), _value(reference[seed], key, rate), key)

        leading = (row.label, _span(rates.values()), str(len(rates)), results.likelihood(row))
        return Line(
            leading, _frame(rates, difference, COMPARED, _comparison), joined(note, results.problem(row)), common
        )

    notes = (
        f"{_where(results, rate)}: ratio to {LABEL}, or Δ, the difference from it, within each seed; mean ± std over "
        "the seeds that both have.",
        f"A row that does not reach this rate, as none with a single β does, is compared with {LABEL} at the nearest "
        "rate that both reach, which its line says; it takes no part in what is bold.",
        *legend(rows, results, QUALITY._replace(measures=COMPARED)),
    )
    return Table(
        title,
        ("row", "at (nats)", "seeds", "likelihood"),
        tuple(map(_comparison, COMPARED)),
        tuple(map(line, rows)),
        notes,
    )


def plain_against_table(title: str, rows: Sequence[Row], results: Results, reference_row: Row = L2) -> Table:
    """What :func:`~study.tables.plain_table` shows, relative to the reference row, seed by seed."""
    reference = _plain_seeds(reference_row, results)

    def line(row: Row) -> Line:
        seeds = _plain_seeds(row, results)
        if not seeds:
            return empty_line(row, results, "–", "–")
        both = dict.fromkeys(sorted(seeds.keys() & reference.keys()), PLAIN_BETA)

        def difference(seed: int, beta: float, key: str) -> Value:
            return _compared(_entry(seeds[seed], key), _entry(reference[seed], key), key)

        note = _without_reference(len(seeds) - len(both), len(seeds))
        leading = (row.label, f"{PLAIN_BETA:g}", str(len(both)), results.likelihood(row))
        return Line(
            leading, _frame(both, difference, COMPARED_AT_BETA, _comparison), joined(note, results.problem(row))
        )

    notes = (
        f"{results.subjects}, β = 1: ratio to {LABEL}, or Δ, the difference from it, within each seed; mean ± std over "
        "the seeds that both have. A loss with larger weights buys a higher rate at the same β.",
        *legend(rows, results, QUALITY._replace(measures=COMPARED_AT_BETA)),
    )
    measures = tuple(map(_comparison, COMPARED_AT_BETA))
    return Table(title, ("row", "β", "seeds", "likelihood"), measures, tuple(map(line, rows)), notes)


def _plain_seeds(row: Row, results: Results) -> _Seeds:
    """The cells of β = 1 by their seeds."""
    cells = results.reported_of(row)
    return {int(seed): cell for seed, cell in cells[cells["beta"] == PLAIN_BETA].groupby("seed")}


def _entry(cell: DataFrame, key: str) -> Value:
    value = float(numbers(cell, [key])[key].iloc[0])
    return reason(cell, key) if math.isnan(value) else value


def _where(results: Results, rate: float | None) -> str:
    return f"{results.subjects}, " + (f"at a validation KL of {rate:.4g} nats" if rate else f"at equal rate: {NO_RATE}")


def _seeds(row: Row, results: Results) -> _Seeds:
    """The seeds of a row with their cells of positive rate; none for a row that was not measured."""
    rates = numbers(results.validation_of(row), ["beta", "seed", RATE]).rename(columns={RATE: "rate"})
    cells = results.reported_of(row).merge(rates[rates["rate"] > 0], on=["beta", "seed"])
    return {int(seed): of_seed for seed, of_seed in cells.groupby("seed")}


def _range(cells: DataFrame) -> Range:
    return float(cells["rate"].min()), float(cells["rate"].max())


def _reaches(cells: DataFrame, rate: float) -> bool:
    low, high = _range(cells)
    return low <= rate <= high


def _value(cells: DataFrame, key: str, rate: float) -> Value:
    """A measure of one seed at a rate."""
    values = numbers(cells, [key])[key]
    if values.isna().any():
        return reason(cells, key)
    found = value_at_rate(list(cells["rate"]), list(values), rate)
    return str(found) if isinstance(found, NotReached) else found


def _frame(
    places: Mapping[int, float],
    value: Callable[[int, float, str], Value],
    measures: Sequence[Description],
    column: Callable[[Description], Description] = lambda measure: measure,
) -> DataFrame | None:
    """A line for each seed at its rate or β, None without any; ``column`` tells what a measure's values become."""
    lines = [{column(m).key: value(seed, place, m.key) for m in measures} for seed, place in places.items()]
    return import_pandas().DataFrame(lines) if lines else None


def _compare(seeds: _Seeds, reference: _Seeds, rate: float) -> _Comparison:
    """At the rate, else at the nearest one within both rows' grids."""
    reached = {s for s, cells in seeds.items() if _reaches(cells, rate)}
    both = {s: rate for s in sorted(reached & reference.keys()) if _reaches(reference[s], rate)}
    if both:
        note = joined(_not_reached(seeds, rate), _without_reference(len(reached) - len(both), len(reached)))
        return _Comparison(both, note)
    overlaps = {s: _overlap(_range(seeds[s]), _range(reference[s])) for s in sorted(seeds.keys() & reference.keys())}
    nearest = {s: min(max(rate, bounds[0]), bounds[1]) for s, bounds in overlaps.items() if bounds}
    if nearest:
        single = all(len(set(_range(seeds[s]))) == 1 for s in nearest)
        how = "one β: at its own rate" if single else f"at the nearest rate that it and {LABEL} reach"
        missing = _without_reference(len(seeds) - len(nearest), len(seeds))
        return _Comparison(nearest, joined(f"{how}, {_span(nearest.values())} nats", missing), common=False)
    if not reached:
        return _Comparison({}, _not_reached(seeds, rate))
    if not reference:
        return _Comparison({}, f"{LABEL}: not measured")
    if not any(_reaches(cells, rate) for cells in reference.values()):
        return _Comparison({}, f"{LABEL}: {_not_reached(reference, rate)}")
    return _Comparison({}, _without_reference(len(reached), len(reached)))


def _not_reached(seeds: _Seeds, rate: float) -> str:
    """Which seeds do not reach the rate, or nothing."""
    missed = [_range(cells) for cells in seeds.values() if not _reaches(cells, rate)]
    if len(missed) == len(seeds):
        return str(NotReached(min(low for low, _ in missed), max(high for _, high in missed)))
    return f"{len(missed)} of {len(seeds)} seeds do not reach it" if missed else ""


def _without_reference(missing: int, of: int) -> str:
    return f"{missing} of {of} seeds without {LABEL}'s" if missing else ""


def _overlap(first: Range, second: Range) -> Range | None:
    low, high = max(first[0], second[0]), min(first[1], second[1])
    return (low, high) if low <= high else None


def _compared(value: Value, reference: Value, key: str) -> Value:
    if isinstance(value, str):
        return value
    if isinstance(reference, str):
        return f"{LABEL}: {reference}"
    if key not in RATIOS:
        return value - reference
    return value / reference if reference else f"{LABEL}'s is 0"


def _comparison(measure: Description) -> Description:
    """The column of a measure's ratio or difference."""
    if measure.key in RATIOS:
        return measure._replace(key=f"{measure.key}_ratio", name=f"{measure.name}, ratio", unit="")
    return measure._replace(key=f"{measure.key}_difference", name=f"Δ {measure.name}", signed=True)


def _span(rates: Collection[float]) -> str:
    """The rate, or the lowest and the highest of several."""
    return "–".join(dict.fromkeys(f"{rate:.4g}" for rate in (min(rates), max(rates)))) if rates else "–"
