"""The paper's own figures, to stand beside ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from study.plan import SETS, TABLES, Row
from study.tables import Line, Quoted, Table

FILE = Path(__file__).with_name("paper.json")

NOTE = (
    "Lines in italics are the paper's (Bredell et al., ICLR 2023): ± over its test images, at the β of its best "
    "samples, of networks of 64 to 512 channels that were trained for 100 to 400 epochs. Its FID is on a scale without "
    "a name, and compares with no other."
)


class PaperFigures(NamedTuple):
    """A line of a table of the paper.

    Attributes:
        image_set: of :data:`~study.plan.SETS`.
        label: as printed.
        rows: names of ours that it is the counterpart of; several where the paper leaves open which it means.
        values: mean and, where it is printed, standard deviation over the test images, by key of the measure.
    """

    image_set: str
    label: str
    rows: tuple[str, ...]
    values: Quoted


@cache
def paper_table(name: str) -> tuple[PaperFigures, ...]:
    """The lines of a table of the paper, none for a table that is not the paper's."""
    content = json.loads(FILE.read_text(encoding="utf-8")).get(name, [])
    return tuple(
        PaperFigures(
            line["set"],
            line["label"],
            tuple(line["rows"]),
            {key: (*value, None)[:2] for key, value in line.items() if isinstance(value, list) and key != "rows"},
        )
        for line in content
    )


def beside(table: Table, name: str, rows: Sequence[Row], image_set: str) -> Table:
    """A table with the paper's lines below ours.

    They are those on the same images, or else those on the images that the paper has first.

    Args:
        table: with one line for each of ``rows``, and columns of measures or of differences from the reference row.
        name: of :data:`~study.plan.TABLES`.
        rows: of the table.
        image_set: of the study.
    """
    lines = paper_table(name)
    sets = dict.fromkeys(line.image_set for line in lines)
    chosen = image_set if image_set in sets else next(iter(sets), "")
    lines = tuple(line for line in lines if line.image_set == chosen)
    if not lines:
        return table
    reference = next((line.values for line in lines if TABLES[name].reference.name in line.rows), {})
    keys = {measure.key for measure in table.measures}

    def quoted(line: PaperFigures) -> Line | None:
        stated: Quoted = {**line.values, **_differences(line.values, reference)}
        values = {key: value for key, value in stated.items() if key in keys}
        leading = (f"{line.label}, {SETS[chosen].label}", *("–",) * (len(table.leading) - 1))
        return Line(leading, competes=False, quoted=values) if values else None

    pairs = zip(table.lines, rows, strict=True)
    groups = ((own, *filter(None, (quoted(line) for line in lines if row.name in line.rows))) for own, row in pairs)
    label = SETS[chosen].label
    which = (
        f" Its images are those of {label}; ours are only where that folder was given, not another or the sample."
        if chosen == image_set
        else f" Its images are those of {label}, and not these."
    )
    return replace(table, lines=tuple(chain.from_iterable(groups)), notes=(*table.notes, NOTE + which))


def _differences(values: Quoted, reference: Quoted) -> Mapping[str, tuple[float, None]]:
    """From the reference row, by the keys of their columns."""
    return {f"{key}_difference": (values[key][0] - reference[key][0], None) for key in values.keys() & reference.keys()}
