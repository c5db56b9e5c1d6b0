"""Tables and figures of a study, from what is in its folder."""

from __future__ import annotations

from collections.abc import Sequence

from monai_blurvae.files import write_text
from monai_blurvae.study.figures import draw_rate_distortion, draw_spectra, save
from monai_blurvae.study.folder import Measured, StudyFolder
from monai_blurvae.study.plan import REFERENCE, TABLES, Row
from monai_blurvae.study.rates import common_rate
from monai_blurvae.study.tables import (
    Results,
    Table,
    best_beta,
    criterion_of,
    equal_rate_table,
    protocol_table,
    rate_range,
)
from monai_blurvae.study.text import cells_csv, to_csv, to_latex, to_markdown

TITLES = {"3": "Table 3: losses", "1": "Table 1: ablations of the Wiener loss", "remedies": "Remedies"}


def shown_rows(table: str, wanted: Sequence[str], results: Results) -> list[Row]:
    """The rows of a table that are wanted, or were measured before."""
    return [row for row in TABLES[table] if row.name in wanted or results.validation_of(row)]


def rate_of(rows: Sequence[Row], results: Results) -> float | None:
    """The validation KL in nats at which rows are compared, within the reference row's rates if it was measured."""
    ranges = {row.name: rate_range(results.validation_of(row)) for row in rows}
    return common_rate([bounds for bounds in ranges.values() if bounds is not None], ranges.get(REFERENCE))


def write_tables(folder: StudyFolder, tables: dict[str, list[Row]], results: Results, rate: float | None) -> None:
    """Write each table by the paper's protocol and at equal rate, and ``cells.csv``.

    Args:
        folder: of the study.
        tables: rows of each table.
        results: what was measured.
        rate: validation KL in nats for the tables at equal rate.
    """
    for name, rows in tables.items():
        stem = f"table{name}" if name.isdecimal() else name
        _write(folder, stem, protocol_table(TITLES[name], rows, results))
        _write(folder, f"{stem}_equal_rate", equal_rate_table(f"{TITLES[name]}, at equal rate", rows, results, rate))
    write_text(folder.path / "cells.csv", cells_csv(results))


def draw_figures(folder: StudyFolder, rows: Sequence[Row], results: Results, rate: float | None) -> None:
    """Draw ``rate_distortion`` and, of each row's β by the paper's protocol, ``spectra``.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    drawn = {results.aliases.get(row.name, row.name): row for row in reversed(rows)}  # the first of those that are one
    curves = {row.label: results.reported_of(row) for row in rows if row in drawn.values()}
    curves = {label: measured for label, measured in curves.items() if measured}
    save(draw_rate_distortion(curves, results.subjects, rate), folder.path, "rate_distortion")
    criterion = criterion_of(results.validation)
    if criterion is None:
        return
    chosen: dict[str, Measured] = {}
    for row in rows:
        beta = best_beta(results.validation_of(row), criterion)
        of_beta = [m for m in curves.get(row.label, []) if m.cell.beta == beta]
        if of_beta:
            chosen[row.label] = min(of_beta, key=lambda m: m.cell.seed)
    if chosen:
        save(draw_spectra(chosen, f"{results.subjects}, β by {criterion}"), folder.path, "spectra")


def _write(folder: StudyFolder, stem: str, table: Table) -> None:
    for suffix, text in (("md", to_markdown(table)), ("csv", to_csv(table)), ("tex", to_latex(table))):
        write_text(folder.path / f"{stem}.{suffix}", text)
