"""Tables and figures of a study, from what is in its folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import write_text
from monai_blurvae.handlers.pictures import save_figure
from study.equal_rate import against_reference_table, equal_rate_table, plain_against_table, with_linear
from study.figures import draw_kernels, draw_rate_distortion, draw_spectra, draw_spectrum_images, save
from study.folder import KeptRate, StudyFolder
from study.kernels import KernelHistory, read_kernels
from study.paper import beside
from study.pictures import COUNT, GridRow, draw_grid, load_pictures
from study.plan import FIGURES, TABLES, Cell, Row
from study.rates import Range, common_rate
from study.tables import (
    LIKELIHOODS,
    Results,
    Table,
    best_beta,
    criterion_of,
    plain_beta,
    plain_table,
    protocol_table,
    rate_range,
)
from study.text import to_csv, to_latex, to_markdown

if TYPE_CHECKING:
    from pandas import DataFrame

MAIN_TABLE = "3"
"""The rows for which the rate is chosen; the other tables of losses have some of them."""
MAIN_TABLES = ("2", "3", "5")

logger = logging.getLogger(__name__)


def shown_rows(table: str, wanted: Sequence[str], results: Results) -> list[Row]:
    """The rows of a table that are wanted, or were measured before."""
    return [row for row in TABLES[table].rows if row.name in wanted or len(results.validation_of(row))]


def rate_of(rows: Sequence[Row], results: Results) -> float | None:
    """The validation KL in nats at which to compare, within the reference row's rates if it was measured.

    It is chosen for the rows of the main table, whichever are shown; for those that are shown where none of the main
    table was measured with two β.
    """
    main = TABLES[MAIN_TABLE]
    reference = rate_range(results.validation_of(main.reference))
    return _common_rate(main.rows, results, reference) or _common_rate(rows, results, reference)


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
        given: by the user; stays until another one is given. Otherwise a command that writes a table of losses chooses
            anew, and others go by what is kept.
    """
    kept = folder.rate
    if given is None and kept is not None and (kept.given or not set(MAIN_TABLES) & tables.keys()):
        return kept.nats
    rate = given or rate_of([row for rows in tables.values() for row in rows], results)
    if rate is not None:
        folder.keep_rate(KeptRate(rate, given is not None))
    return rate


def write_tables(
    folder: StudyFolder, tables: Mapping[str, Sequence[Row]], results: Results, rate: float | None, image_set: str
) -> None:
    """Write each table at β = 1, by the paper's protocol and at equal rate, and ``cells.csv``.

    At β = 1 and at equal rate there are tables of the differences from the reference row; likelihoods and distances on
    features have tables of their own. The paper's figures stand in those at β = 1 and by its protocol.

    Args:
        folder: of the study.
        tables: rows of each table.
        results: what was measured.
        rate: validation KL in nats for the tables at equal rate.
        image_set: of the study, by name.
    """
    for name, rows in tables.items():
        stem, title, reference = _stem(name), TABLES[name].title, TABLES[name].reference
        likelihoods = f"{title}, likelihoods and Fréchet distances"
        against = f"against {reference.label}"
        at_one, protocol = f"{title}, at β = 1", f"{title}, by the paper's protocol"
        both = with_linear(rows, results)
        plain = plain_table(at_one, both, results)
        differences = plain_against_table(f"{at_one} {against}", rows, results, reference)
        _write(folder, f"{stem}_beta1", beside(plain, name, both, image_set))
        _write(folder, f"{stem}_beta1_against_{reference.name}", beside(differences, name, rows, image_set))
        _write(folder, stem, beside(protocol_table(protocol, rows, results), name, rows, image_set))
        at_rate = f"{title}, at equal rate"
        _write(folder, f"{stem}_equal_rate", equal_rate_table(at_rate, rows, results, rate))
        _write(
            folder,
            f"{stem}_against_{reference.name}",
            against_reference_table(f"{at_rate} {against}", rows, results, rate, reference),
        )
        _write(folder, f"{stem}_likelihood", protocol_table(likelihoods, rows, results, LIKELIHOODS))
        likelihoods = f"{likelihoods}, at equal rate"
        _write(folder, f"{stem}_likelihood_equal_rate", equal_rate_table(likelihoods, rows, results, rate, LIKELIHOODS))
    write_text(folder.path / "cells.csv", results.cells.to_csv(index=False, lineterminator="\n"))


def draw_rates(folder: StudyFolder, tables: Mapping[str, Sequence[Row]], results: Results, rate: float | None) -> None:
    """Draw ``rate_distortion`` of each table, with its reference row.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    for name, rows in tables.items():
        shown = _distinct(list(dict.fromkeys([TABLES[name].reference, *rows])), results)
        curves = {row.label: results.reported_of(row) for row in with_linear(shown, results)}
        save(draw_rate_distortion(curves, results.subjects, rate), folder.path, f"rate_distortion_{_stem(name)}")


def draw_figures(folder: StudyFolder, figures: Sequence[str], results: Results) -> None:
    """Draw figures of the paper, each of the cells of β = 1 and, where it is another one, of the protocol's.

    Of each row the first seed is shown.

    Args:
        folder: of the study.
        figures: of :data:`~study.plan.FIGURES`, by name.
        results: what was measured.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    criterion = criterion_of(results)
    draw = {"kernels": _draw_kernels, "grid": _draw_grid, "spectra": _draw_spectra}
    for name in figures:
        figure = FIGURES[name]
        rows = _distinct(TABLES[figure.table].rows, results)
        plain = _chosen(rows, results, plain_beta)
        protocol = _chosen(rows, results, lambda cells: best_beta(cells, criterion))
        draw[figure.kind](folder, f"figure{name}_beta1", plain, results, "β = 1")
        if {row: _cell(line) for row, line in protocol.items()} != {row: _cell(line) for row, line in plain.items()}:
            how = f"β by {criterion} on the validation subjects"
            draw[figure.kind](folder, f"figure{name}_protocol", protocol, results, how)


def _draw_grid(
    folder: StudyFolder, name: str, chosen: Mapping[Row, Mapping[str, Any]], results: Results, how: str
) -> None:
    if not chosen:
        return
    count = FIGURES[_number(name)].images
    pictures = {row: load_pictures(folder.picture_file(_cell(line), results.split)) for row, line in chosen.items()}
    images = next(iter(pictures.values())).images
    rows = [GridRow("images", images[:count], images[COUNT : COUNT + count])]
    rows += [
        GridRow(_described(row, chosen[row]), of_row.reconstructions[:count], of_row.samples[:count])
        for row, of_row in pictures.items()
    ]
    headers = ("images and their reconstructions from μ", "other images and samples from the same latents")
    title = f"Figure {_number(name)}, here of: {results.subjects}; {how}"
    save_figure(draw_grid(rows, headers, title), folder.path / f"{name}.png")


def _described(row: Row, line: Mapping[str, Any]) -> str:
    """Label, β, PSNR and rate."""
    return f"{row.label}\nβ = {line['beta']:g}, {line['psnr']:.2f} dB\n{line['kl']:.0f} nats"


def _draw_spectra(
    folder: StudyFolder, name: str, chosen: Mapping[Row, Mapping[str, Any]], results: Results, how: str
) -> None:
    if not chosen:
        return
    cells = {row: _cell(line) for row, line in chosen.items()}
    title = f"{results.subjects}, {how}"
    radial = {row.label: folder.spectra(cell, results.split) for row, cell in cells.items()}
    save(draw_spectra(radial, title), folder.path, f"{name}_radial")
    images = {row.label: load_pictures(folder.picture_file(c, results.split)).spectra for row, c in cells.items()}
    save(draw_spectrum_images(images, title), folder.path, name)


def _draw_kernels(
    folder: StudyFolder, name: str, chosen: Mapping[Row, Mapping[str, Any]], results: Results, how: str
) -> None:
    histories = _kernel_histories(folder, chosen)
    if not histories:
        return
    # Pictures are of scheduled validations, and the last of these need not be the end.
    drawn = max((epoch for history in histories.values() for epoch in history.pictures), default=0)
    trained = max((epoch for history in histories.values() for epoch in history.training), default=0)
    warmups = [(folder.settings(_cell(line)) or {}).get("warmup_epochs", 0) for line in chosen.values()]
    title = (
        "The same validation images and their kernels, each relative to its maximum; "
        f"{how}; last pictures of epoch {drawn} of {trained}"
    )
    save(draw_kernels(histories, title, max(warmups)), folder.path, name)


def _number(name: str) -> str:
    return name.removeprefix("figure").partition("_")[0]


def _distinct(rows: Sequence[Row], results: Results) -> list[Row]:
    """The rows that were measured, the first of those that share their trainings."""
    first = {results.aliases.get(row.name, row.name): row for row in reversed(rows)}
    return [row for row in rows if row in first.values() and len(results.reported_of(row))]


def _chosen(
    rows: Sequence[Row], results: Results, choose: Callable[[DataFrame], float | None]
) -> dict[Row, Mapping[str, Any]]:
    """Of each row's chosen β the line of the first seed."""
    chosen: dict[Row, Mapping[str, Any]] = {}
    for row in rows:
        cells = results.reported_of(row)
        of_beta = cells[cells["beta"] == choose(results.validation_of(row))].sort_values("seed")
        if len(of_beta):
            chosen[row] = of_beta.iloc[0].to_dict()
    return chosen


def _cell(line: Mapping[str, Any]) -> Cell:
    return Cell(line["row"], float(line["beta"]), int(line["seed"]))


def _kernel_histories(folder: StudyFolder, chosen: Mapping[Row, Mapping[str, Any]]) -> dict[str, KernelHistory]:
    """The kernels of the rows that have some, by their labels."""
    found = {row: _kernel_history(folder, row, line) for row, line in chosen.items()}
    return {f"{row.label}\nβ = {chosen[row]['beta']:g}": history for row, history in found.items() if history}


def _kernel_history(folder: StudyFolder, row: Row, line: Mapping[str, Any]) -> KernelHistory | None:
    try:
        if isinstance(line.get("kernel_width"), str):
            raise RunFolderError(line["kernel_width"])
        return read_kernels(folder.tensorboard_dir(_cell(line)))
    except RunFolderError as error:
        logger.warning("%s is left out of the figure of kernels: %s", row.label, error)
        return None


def _stem(table: str) -> str:
    return f"table{table}" if table.isdecimal() else table


def _write(folder: StudyFolder, stem: str, table: Table) -> None:
    for suffix, text in (("md", to_markdown(table)), ("csv", to_csv(table)), ("tex", to_latex(table))):
        write_text(folder.path / f"{stem}.{suffix}", text)
