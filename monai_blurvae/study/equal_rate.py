"""The tables at equal rate: each row's measures there, and beside the reference row's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from monai_blurvae.study.folder import Measured
from monai_blurvae.study.plan import REFERENCE, ROWS, Cell, Row
from monai_blurvae.study.rates import NotReached, value_at_rate
from monai_blurvae.study.tables import COLUMNS, RATE, Column, Entry, Line, Results, Table, empty_line, legend, summarise

RATIOS = ("spectrum_reconstruction", "spectrum_sample")
"""The measures that are compared by their ratio; the others by their difference."""

Value = float | str
"""A number, or why there is none."""


class RowAtRate(NamedTuple):
    """A row's measures at one rate, each seed for itself.

    Attributes:
        values: by seed and by measure, of the seeds whose β grid brackets the rate.
        note: which seeds do not reach it, and why cells are missing.
    """

    values: Mapping[int, Mapping[str, Value]]
    note: str


def equal_rate_table(title: str, rows: Sequence[Row], results: Results, rate: float | None) -> Table:
    """Test measures at one validation KL, interpolated over each row's β within each seed, never extrapolated."""
    lines = [_line(row, results, _row_at_rate(row, results, rate)) for row in rows]
    how = "piecewise linear in log KL over each row's β grid; mean ± std over seeds"
    notes = (f"{_where(results, rate)}: {how}.", *legend(rows, results))
    return Table(title, ("row", "seeds", "likelihood"), COLUMNS, tuple(lines), notes)


def against_reference_table(title: str, rows: Sequence[Row], results: Results, rate: float | None) -> Table:
    """What :func:`equal_rate_table` shows, relative to the reference row, seed by seed."""
    reference = _row_at_rate(ROWS[REFERENCE], results, rate) or RowAtRate({}, "not measured")
    compared = [column for column in COLUMNS if column.better]
    lines = [_line_against(row, results, _row_at_rate(row, results, rate), reference, compared) for row in rows]
    label = ROWS[REFERENCE].label
    how = f"ratio to {label}, or Δ, the difference from it, within each seed; mean ± std over the seeds that both have"
    notes = (f"{_where(results, rate)}: {how}.", *legend(rows, results))
    columns = tuple(_comparison(column) for column in compared)
    return Table(title, ("row", "seeds", "likelihood"), columns, tuple(lines), notes)


def _where(results: Results, rate: float | None) -> str:
    return f"{results.subjects}, " + (
        f"at a validation KL of {rate:.4g} nats" if rate else "at equal rate: no rate, nothing was measured"
    )


def _row_at_rate(row: Row, results: Results, rate: float | None) -> RowAtRate | None:
    """A row's measures at the rate; None for a row that was not measured."""
    rates = {m.cell: m.values[RATE] for m in results.validation_of(row) if RATE in m.values}
    by_seed: dict[int, list[Measured]] = defaultdict(list)
    for m in results.reported_of(row):
        if rates.get(m.cell, 0.0) > 0:
            by_seed[m.cell.seed].append(m)
    if rate is None or not by_seed:
        return None
    reached = {s: ms for s, ms in by_seed.items() if _reaches(rate, [rates[m.cell] for m in ms])}
    missed = ""
    if not reached:
        grid = [rates[m.cell] for ms in by_seed.values() for m in ms]
        missed = str(NotReached(min(grid), max(grid)))
    elif len(reached) < len(by_seed):
        missed = f"{len(by_seed) - len(reached)} of {len(by_seed)} seeds do not reach it"
    values = {s: {c.key: _interpolated(rate, rates, ms, c.key) for c in COLUMNS} for s, ms in reached.items()}
    return RowAtRate(values, _joined(missed, results.problem(row)))


def _reaches(rate: float, rates: Sequence[float]) -> bool:
    return not isinstance(value_at_rate(rates, [0.0] * len(rates), rate), NotReached)


def _interpolated(rate: float, rates: Mapping[Cell, float], measured: Sequence[Measured], key: str) -> Value:
    lacking = [m.reasons.get(key, "not measured") for m in measured if key not in m.values]
    if lacking:
        return lacking[0]
    value = value_at_rate([rates[m.cell] for m in measured], [m.values[key] for m in measured], rate)
    return str(value) if isinstance(value, NotReached) else value


def _line(row: Row, results: Results, found: RowAtRate | None) -> Line:
    if found is None:
        return empty_line(row, results, "–")
    entries = (
        [_over_seeds([values[c.key] for values in found.values.values()]) for c in COLUMNS] if found.values else ()
    )
    return Line(_leading(row, results, len(found.values)), tuple(entries), found.note)


def _line_against(
    row: Row, results: Results, found: RowAtRate | None, reference: RowAtRate, columns: Sequence[Column]
) -> Line:
    if found is None:
        return empty_line(row, results, "–")
    label = ROWS[REFERENCE].label
    seeds = sorted(found.values.keys() & reference.values.keys())
    missed = ""
    if found.values and not reference.values:
        missed = f"{label}: {reference.note}"
    elif len(seeds) < len(found.values):
        missed = f"{len(found.values) - len(seeds)} of {len(found.values)} seeds without {label}'s"

    def entry(column: Column) -> Entry:
        key = column.key
        return _over_seeds([_compared(found.values[s][key], reference.values[s][key], key) for s in seeds])

    entries = [entry(column) for column in columns] if seeds else ()
    return Line(_leading(row, results, len(seeds)), tuple(entries), _joined(missed, found.note))


def _compared(value: Value, reference: Value, key: str) -> Value:
    if isinstance(value, str):
        return value
    label = ROWS[REFERENCE].label
    if isinstance(reference, str):
        return f"{label}: {reference}"
    if key not in RATIOS:
        return value - reference
    return value / reference if reference else f"{label}'s is 0"


def _comparison(column: Column) -> Column:
    """The column of a measure's ratio or difference."""
    if column.key in RATIOS:
        return column._replace(key=f"{column.key}_ratio", label=f"{column.label}, ratio")
    return column._replace(key=f"{column.key}_difference", label=f"Δ {column.label}", signed=True)


def _over_seeds(values: Sequence[Value]) -> Entry:
    """Mean and standard deviation, or the reason if a seed has none."""
    lacking = [value for value in values if isinstance(value, str)]
    return Entry(None, reason=lacking[0]) if lacking else summarise([v for v in values if not isinstance(v, str)])


def _leading(row: Row, results: Results, seeds: int) -> tuple[str, ...]:
    return row.label, str(seeds), results.likelihood(row)


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))
