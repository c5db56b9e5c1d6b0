"""The tables at equal rate: each row's measures there, and beside the reference row's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from monai_blurvae.study.folder import Measured
from monai_blurvae.study.plan import REFERENCE, ROWS, Row
from monai_blurvae.study.rates import NotReached, Range, value_at_rate
from monai_blurvae.study.tables import (
    QUALITY,
    RATE,
    Column,
    Entry,
    Line,
    Results,
    Shown,
    Table,
    Value,
    empty_line,
    legend,
    over_seeds,
    value_of,
)

RATIOS = ("spectrum_reconstruction", "spectrum_sample")
"""The measures that are compared by their ratio; the others by their difference."""

LABEL = ROWS[REFERENCE].label
NO_RATE = "no rate to compare at: no row has two β"


class _Seed(NamedTuple):
    """A row's β grid with one seed.

    Attributes:
        rates: validation KL of each cell in nats, positive.
        measured: what is reported of each.
    """

    rates: tuple[float, ...]
    measured: tuple[Measured, ...]

    @property
    def range(self) -> Range:
        return min(self.rates), max(self.rates)

    def reaches(self, rate: float) -> bool:
        low, high = self.range
        return low <= rate <= high

    def value(self, key: str, rate: float) -> Value:
        """A measure at a rate."""
        values = [value_of(m, key) for m in self.measured]
        numbers = [value for value in values if not isinstance(value, str)]
        if len(numbers) < len(values):
            return next(value for value in values if isinstance(value, str))
        found = value_at_rate(self.rates, numbers, rate)
        return str(found) if isinstance(found, NotReached) else found


_Seeds = Mapping[int, _Seed]


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
    """Test measures at one validation KL, interpolated over each row's β within each seed, never extrapolated."""
    lines = [_line(row, results, rate, shown.columns) for row in rows]
    how = "piecewise linear in log KL over each row's β grid; mean ± std over seeds"
    notes = (f"{_where(results, rate)}: {how}.", *legend(rows, results, shown))
    return Table(title, ("row", "seeds", "likelihood"), shown.columns, tuple(lines), notes)


def against_reference_table(title: str, rows: Sequence[Row], results: Results, rate: float | None) -> Table:
    """What :func:`equal_rate_table` shows, relative to the reference row, seed by seed.

    A row that does not reach the rate, as none with a single β does, is compared at the nearest one that it and the
    reference row both reach; the line says at which.
    """
    compared = [column for column in QUALITY.columns if column.better]
    reference = _seeds(ROWS[REFERENCE], results)
    lines = [_line_against(row, results, reference, rate, compared) for row in rows]
    notes = (
        f"{_where(results, rate)}: ratio to {LABEL}, or Δ, the difference from it, within each seed; mean ± std over "
        "the seeds that both have.",
        f"A row that does not reach this rate, as none with a single β does, is compared with {LABEL} at the nearest "
        "rate that both reach, which its line says; it takes no part in what is bold.",
        *legend(rows, results, QUALITY),
    )
    columns = tuple(_comparison_column(column) for column in compared)
    return Table(title, ("row", "at (nats)", "seeds", "likelihood"), columns, tuple(lines), notes)


def _where(results: Results, rate: float | None) -> str:
    return f"{results.subjects}, " + (f"at a validation KL of {rate:.4g} nats" if rate else f"at equal rate: {NO_RATE}")


def _seeds(row: Row, results: Results) -> _Seeds:
    """The seeds of a row with their cells of positive rate; none for a row that was not measured."""
    rates = {m.cell: m.values[RATE] for m in results.validation_of(row) if RATE in m.values}
    by_seed: dict[int, list[Measured]] = defaultdict(list)
    for m in results.reported_of(row):
        if rates.get(m.cell, 0.0) > 0:
            by_seed[m.cell.seed].append(m)
    return {seed: _Seed(tuple(rates[m.cell] for m in ms), tuple(ms)) for seed, ms in by_seed.items()}


def _line(row: Row, results: Results, rate: float | None, columns: Sequence[Column]) -> Line:
    seeds = _seeds(row, results)
    if not seeds:
        return empty_line(row, results, "–")
    if rate is None:
        return Line((row.label, "0", results.likelihood(row)), (), _joined(NO_RATE, results.problem(row)))
    reached = [seed for seed in seeds.values() if seed.reaches(rate)]
    entries = tuple(over_seeds([seed.value(c.key, rate) for seed in reached]) for c in columns) if reached else ()
    note = _joined(_not_reached(seeds, rate), results.problem(row))
    return Line((row.label, str(len(reached)), results.likelihood(row)), entries, note)


def _line_against(row: Row, results: Results, reference: _Seeds, rate: float | None, columns: Sequence[Column]) -> Line:
    seeds = _seeds(row, results)
    if not seeds:
        return empty_line(row, results, "–", "–")
    rates, note, common = _Comparison({}, NO_RATE) if rate is None else _compare(seeds, reference, rate)

    def entry(key: str) -> Entry:
        return over_seeds(
            [_compared(seeds[s].value(key, r), reference[s].value(key, r), key) for s, r in rates.items()]
        )

    leading = (row.label, _span(rates.values()), str(len(rates)), results.likelihood(row))
    entries = tuple(entry(column.key) for column in columns) if rates else ()
    return Line(leading, entries, _joined(note, results.problem(row)), common)


def _compare(seeds: _Seeds, reference: _Seeds, rate: float) -> _Comparison:
    """At the rate, else at the nearest one within both rows' grids."""
    reached = {s for s, seed in seeds.items() if seed.reaches(rate)}
    both = {s: rate for s in sorted(reached & reference.keys()) if reference[s].reaches(rate)}
    if both:
        note = _joined(_not_reached(seeds, rate), _without_reference(len(reached) - len(both), len(reached)))
        return _Comparison(both, note)
    overlaps = {s: _overlap(seeds[s].range, reference[s].range) for s in sorted(seeds.keys() & reference.keys())}
    nearest = {s: min(max(rate, bounds[0]), bounds[1]) for s, bounds in overlaps.items() if bounds}
    if nearest:
        single = all(seeds[s].range[0] == seeds[s].range[1] for s in nearest)
        how = "one β: at its own rate" if single else f"at the nearest rate that it and {LABEL} reach"
        missing = _without_reference(len(seeds) - len(nearest), len(seeds))
        return _Comparison(nearest, _joined(f"{how}, {_span(nearest.values())} nats", missing), common=False)
    if not reached:
        return _Comparison({}, _not_reached(seeds, rate))
    if not reference:
        return _Comparison({}, f"{LABEL}: not measured")
    if not any(seed.reaches(rate) for seed in reference.values()):
        return _Comparison({}, f"{LABEL}: {_not_reached(reference, rate)}")
    return _Comparison({}, _without_reference(len(reached), len(reached)))


def _not_reached(seeds: _Seeds, rate: float) -> str:
    """Which seeds do not reach the rate, or nothing."""
    missed = [seed for seed in seeds.values() if not seed.reaches(rate)]
    if len(missed) == len(seeds):
        grid = [r for seed in missed for r in seed.rates]
        return str(NotReached(min(grid), max(grid)))
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


def _comparison_column(column: Column) -> Column:
    """The column of a measure's ratio or difference."""
    if column.key in RATIOS:
        return column._replace(key=f"{column.key}_ratio", label=f"{column.label}, ratio")
    return column._replace(key=f"{column.key}_difference", label=f"Δ {column.label}", signed=True)


def _span(rates: Collection[float]) -> str:
    """The rate, or the lowest and the highest of several."""
    return "–".join(dict.fromkeys(f"{rate:.4g}" for rate in (min(rates), max(rates)))) if rates else "–"


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))
