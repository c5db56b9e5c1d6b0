"""The measures of all cells as a table of pandas, in which a measure without a value has its reason in its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

NOT_MEASURED = "not measured"
PLACE = ("row", "beta", "seed", "split")
"""The columns that say which cell was measured on which split; the others are measures."""


def import_pandas() -> Any:
    """Pandas.

    Raises:
        ImportError: without it or what it writes Markdown with, naming the extra.
    """
    try:
        import pandas
        import tabulate  # noqa: F401
    except ImportError as error:
        raise ImportError(f'the tables of a study need {error.name}: pip install "monai-blurvae[study]".') from error
    return pandas


def cells_frame(cells: Iterable[Mapping[str, Any]]) -> DataFrame:
    """One line for each cell and split.

    Args:
        cells: the values of :data:`PLACE` and measures by name: numbers, or texts that say why there is none.

    Returns:
        :data:`PLACE`, then the measures by name; a number or a text in each place.
    """
    pandas = import_pandas()
    frame = pandas.DataFrame(list(cells))
    measures = sorted(set(frame.columns) - set(PLACE))
    frame = frame.reindex(columns=[*PLACE, *measures]).sort_values(list(PLACE), ignore_index=True)
    values = frame[measures].astype(object)
    frame[measures] = values.where(values.notna(), NOT_MEASURED)
    return frame


def numbers(cells: DataFrame, names: Sequence[str]) -> DataFrame:
    """Columns as numbers, NaN where there is a reason instead or no such column."""
    return cells.reindex(columns=list(names)).apply(import_pandas().to_numeric, errors="coerce")


def reason(cells: DataFrame, name: str) -> str:
    """Why a measure has no value in some of the cells: the first reason that there is."""
    return next((value for value in cells.get(name, ()) if isinstance(value, str)), NOT_MEASURED)
