"""Tables and figures of a study, from what is in its folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import write_text
from monai_blurvae.study.equal_rate import against_reference_table, equal_rate_table
from monai_blurvae.study.figures import draw_kernels, draw_rate_distortion, draw_spectra, save
from monai_blurvae.study.folder import KeptRate, StudyFolder
from monai_blurvae.study.kernels import KernelHistory, read_kernels
from monai_blurvae.study.plan import LINEAR, REFERENCE, ROWS, TABLES, Cell, Row
from monai_blurvae.study.rates import Range, common_rate
from monai_blurvae.study.tables import (
    LIKELIHOODS,
    Results,
    Table,
    best_beta,
    criterion_of,
    protocol_table,
    rate_range,
)
from monai_blurvae.study.text import to_csv, to_latex, to_markdown

TITLES = {"3": "Table 3: losses", "1": "Table 1: ablations of the Wiener loss", "remedies": "Remedies"}
MAIN_TABLE = "3"
KERNEL_ROWS = (REFERENCE, "wiener", "default")
"""The rows whose kernels are shown whatever else is."""
MOST_KERNEL_ROWS = 6

logger = logging.getLogger(__name__)


def shown_rows(table: str, wanted: Sequence[str], results: Results) -> list[Row]:
    """The rows of a table that are wanted, or were measured before."""
    return [row for row in TABLES[table] if row.name in wanted or len(results.validation_of(row))]


def rate_of(rows: Sequence[Row], results: Results) -> float | None:
    """The validation KL in nats at which to compare, within the reference row's rates if it was measured.

    It is chosen for the rows of the main table, whichever are shown; for those that are shown where none of the main
    table was measured with two β.
    """
    reference = rate_range(results.validation_of(ROWS[REFERENCE]))
    return _common_rate(TABLES[MAIN_TABLE], results, reference) or _common_rate(rows, results, reference)


def _common_rate(rows: Sequence[Row], results: Results, reference: Range | None) -> float | None:
    ranges = [rate_range(results.validation_of(row)) for row in rows]
    return common_rate([bounds for bounds in ranges if bounds is not None], reference)


def settle_rate(
    folder: StudyFolder, tables: Mapping[str, Sequence[Row]], results: Results, given: float | None
) -> float | None:
    """The validation KL in nats at which rows are compared, kept in the folder for the tables of later commands.

    Args:
        folder: of the study.
        tables: rows of each table that is written.
        results: what was measured.
        given: by the user; stays until another one is given. Otherwise a command that writes the main table chooses
            anew, and others go by what is kept.
    """
    kept = folder.rate
    if given is None and kept is not None and (kept.given or MAIN_TABLE not in tables):
        return kept.nats
    rate = given or rate_of([row for rows in tables.values() for row in rows], results)
    if rate is not None:
        folder.keep_rate(KeptRate(rate, given is not None))
    return rate


def write_tables(folder: StudyFolder, tables: dict[str, list[Row]], results: Results, rate: float | None) -> None:
    """Write each table by the paper's protocol, at equal rate and there against the reference row, and ``cells.csv``.

    Likelihoods and Fréchet distances have tables of their own, by the protocol and at equal rate.

    Args:
        folder: of the study.
        tables: rows of each table.
        results: what was measured.
        rate: validation KL in nats for the tables at equal rate.
    """
    for name, rows in tables.items():
        stem = _stem(name)
        _write(folder, stem, protocol_table(TITLES[name], rows, results))
        _write(folder, f"{stem}_equal_rate", equal_rate_table(f"{TITLES[name]}, at equal rate", rows, results, rate))
        title = f"{TITLES[name]}, likelihoods and Fréchet distances"
        _write(folder, f"{stem}_likelihood", protocol_table(title, rows, results, LIKELIHOODS))
        at_rate = equal_rate_table(f"{title}, at equal rate", rows, results, rate, LIKELIHOODS)
        _write(folder, f"{stem}_likelihood_equal_rate", at_rate)
        against = f"{TITLES[name]}, at equal rate against {ROWS[REFERENCE].label}"
        _write(folder, f"{stem}_against_{REFERENCE}", against_reference_table(against, rows, results, rate))
    write_text(folder.path / "cells.csv", results.cells.to_csv(index=False, lineterminator="\n"))


def draw_figures(
    folder: StudyFolder, tables: Mapping[str, Sequence[Row]], results: Results, rate: float | None
) -> None:
    """Draw ``rate_distortion`` and ``spectra`` of each table, with the reference row, and ``kernels`` of a few rows.

    Spectra and kernels are those of one cell of each row, of its β by the paper's protocol. The figures of Table 3
    have these names, those of other tables the table's name after it.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    criterion = criterion_of(results)
    reference = ROWS[REFERENCE]
    for name, rows in tables.items():
        shown = _distinct([reference, *(row for row in rows if row != reference)], results)
        curves = {row.label: results.reported_of(row) for row in shown}
        if len(linear := results.reported_of(LINEAR)):
            curves[LINEAR.label] = linear
        chosen = _chosen(shown, results, criterion)
        suffix = "" if name == MAIN_TABLE else f"_{_stem(name)}"
        save(draw_rate_distortion(curves, results.subjects, rate), folder.path, f"rate_distortion{suffix}")
        spectra = {row.label: folder.spectra(_cell(line), results.split) for row, line in chosen.items()}
        if chosen:
            save(draw_spectra(spectra, f"{results.subjects}, β by {criterion}"), folder.path, f"spectra{suffix}")
    every = _distinct([row for rows in tables.values() for row in rows], results)
    histories = _kernel_histories(folder, _chosen(every, results, criterion))
    if histories:
        # Pictures are of scheduled validations, and the last of these need not be the end.
        drawn = max((epoch for history in histories.values() for epoch in history.pictures), default=0)
        trained = max((epoch for history in histories.values() for epoch in history.training), default=0)
        title = (
            "Kernels of the same validation images, each relative to its maximum; "
            f"β by {criterion}; last pictures of epoch {drawn} of {trained}"
        )
        save(draw_kernels(histories, title), folder.path, "kernels")


def _distinct(rows: Sequence[Row], results: Results) -> list[Row]:
    """The rows that were measured, the first of those that share their trainings."""
    first = {results.aliases.get(row.name, row.name): row for row in reversed(rows)}
    return [row for row in rows if row in first.values() and len(results.reported_of(row))]


def _chosen(rows: Sequence[Row], results: Results, criterion: str | None) -> dict[Row, Mapping[str, Any]]:
    """Of each row's β by the paper's protocol the line of the first seed."""
    chosen: dict[Row, Mapping[str, Any]] = {}
    for row in rows:
        cells = results.reported_of(row)
        of_beta = cells[cells["beta"] == best_beta(results.validation_of(row), criterion)].sort_values("seed")
        if len(of_beta):
            chosen[row] = of_beta.iloc[0].to_dict()
    return chosen


def _cell(line: Mapping[str, Any]) -> Cell:
    return Cell(line["row"], float(line["beta"]), int(line["seed"]))


def _kernel_histories(folder: StudyFolder, chosen: Mapping[Row, Mapping[str, Any]]) -> dict[str, KernelHistory]:
    """The kernels of at most ``MOST_KERNEL_ROWS`` rows that have some, by their labels, in the order of ``chosen``."""
    found: dict[Row, KernelHistory] = {}
    for row in sorted(chosen, key=lambda row: row.name not in KERNEL_ROWS):
        if len(found) == MOST_KERNEL_ROWS:
            break
        try:
            width = chosen[row].get("kernel_width")
            if isinstance(width, str):
                raise RunFolderError(width)
            found[row] = read_kernels(folder.tensorboard_dir(_cell(chosen[row])))
        except RunFolderError as error:
            logger.warning("%s is left out of the figure of kernels: %s", row.label, error)
    return {f"{row.label}\nβ = {chosen[row]['beta']:g}": found[row] for row in chosen if row in found}


def _stem(table: str) -> str:
    return f"table{table}" if table.isdecimal() else table


def _write(folder: StudyFolder, stem: str, table: Table) -> None:
    for suffix, text in (("md", to_markdown(table)), ("csv", to_csv(table)), ("tex", to_latex(table))):
        write_text(folder.path / f"{stem}.{suffix}", text)
