"""The study's tables: which numbers stand where, and why some do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from monai_blurvae.metrics.measures import ALEXNET, FID, FLOAT_DENSITY, LIKELIHOOD, MEASURES, Description
from study.frames import import_pandas, numbers, reason
from study.plan import LINEAR, PLAIN_BETA, Row
from study.rates import Range, covered_range

if TYPE_CHECKING:
    from pandas import DataFrame

Quoted = Mapping[str, tuple[float, float | None]]
"""Means and, where there are some, standard deviations that somebody else states, by key of the measure."""

RATE = "kl"
CRITERIA = ("mmd_alexnet", "spectrum_sample")
"""What the β of a row is chosen by on the validation subjects, lower being better: the first that all cells have."""


class Shown(NamedTuple):
    """Measures that a table shows.

    Attributes:
        measures: one for each column.
        notes: sentences that they need.
    """

    measures: tuple[Description, ...]
    notes: tuple[str, ...]


OF_TABLES = {
    measure.key: measure
    for measure in (
        Description(
            "psnr_z", "PSNR from z", "dB", 2, 1, "likewise, reconstructions from z ~ q(z|x) in place of its mean"
        ),
        Description(
            "nll_table6",
            "−log p as in Table 6",
            "nats per image",
            0,
            -1,
            "½ ‖W(x − x̂)‖² + Σ log|F + 0.5| + KL from z ~ q(z|x), or ½ ‖x − x̂‖² + KL: no density, constants left out",
        ),
        Description(
            "fid_reconstruction",
            "FID of reconstructions",
            "",
            4,
            -1,
            "squared Fréchet distance; compares between equal numbers of images only",
            "torch-fidelity Inception, 2048",
            significant=True,
        ),
    )
}
"""Measures that only the paper's tables have, see :mod:`~study.paper_measures`."""

QUALITY = Shown(
    tuple(
        {**MEASURES, **OF_TABLES}[key]
        for key in (
            *(RATE, "psnr", "psnr_z", "ssim", "lpips", "fid_reconstruction", "fid_2048", "mmd_alexnet"),
            *("spectrum_reconstruction", "spectrum_sample", "sharpness_reconstruction", "resolution"),
            *("nll_variance", "nll_table6", "kernel_width"),
        )
    ),
    (
        "The standard deviation of the MMD² over sets of samples is mmd_alexnet_sd in cells.csv; the predicted kernel "
        "was trained by the loss or beside it.",
    ),
)
LIKELIHOODS = Shown(
    (
        MEASURES[RATE],
        *LIKELIHOOD,
        *(measure for measure in (*ALEXNET, *FID) if measure.key != "mmd_alexnet"),
    ),
    (
        "IW: importance-weighted bound, the others minus the ELBO; the predicted kernel was trained by the loss or "
        "beside it.",
        "Fréchet distances and FID are squared, and compare between equal numbers of images only.",
    ),
)


class Results(NamedTuple):
    """What was measured.

    Attributes:
        cells: see :func:`~study.frames.cells_frame`.
        split: whose measures are reported, ``"test"`` or ``"validation"``.
        subjects: which those are, in words.
        problems: why rows lack cells, in a sentence.
        aliases: the row whose cells each row shares.
        likelihoods: whether each row trains one.
        density: what the p of the likelihoods is.
    """

    cells: DataFrame
    split: str
    subjects: str
    problems: Mapping[str, str]
    aliases: Mapping[str, str]
    likelihoods: Mapping[str, bool] = {}
    density: str = FLOAT_DENSITY

    def validation_of(self, row: Row) -> DataFrame:
        """The measures by which a row's β is chosen and its rate is told."""
        return self._of(row, "validation")

    def reported_of(self, row: Row) -> DataFrame:
        """The measures that the tables show of a row."""
        return self._of(row, self.split)

    def _of(self, row: Row, split: str) -> DataFrame:
        name = self.aliases.get(row.name, row.name)
        return self.cells[(self.cells["row"] == name) & (self.cells["split"] == split)]

    def problem(self, row: Row) -> str:
        """Why numbers of a row are missing, or nothing."""
        return self.problems.get(row.name, "") or self.problems.get(self.aliases.get(row.name, row.name), "")

    def likelihood(self, row: Row) -> str:
        """Whether a row trains a likelihood, as the tables say it."""
        return {True: "yes", False: "no", None: "–"}[self.likelihoods.get(row.name)]


class Line(NamedTuple):
    """A line of a table.

    Attributes:
        leading: texts before the numbers; the first is the row's label.
        seeds: a line for each seed, with numbers or reasons; None for a row that has none.
        note: why, in a few words.
        competes: whether its numbers compare with the other lines', so that they may be the best.
        quoted: numbers that somebody else states, in place of ``seeds``.
    """

    leading: tuple[str, ...]
    seeds: DataFrame | None = None
    note: str = ""
    competes: bool = True
    quoted: Quoted | None = None

    def reason(self, key: str) -> str:
        """Why there is no mean of a measure."""
        return "" if self.seeds is None else reason(self.seeds, key)


@dataclass(frozen=True)
class Table:
    """Lines of one kind, over whose seeds means and standard deviations are taken.

    Attributes:
        title: of the table.
        leading: headings of the texts before the numbers.
        measures: one for each column of numbers.
        lines: of the table.
        notes: below it.
    """

    title: str
    leading: tuple[str, ...]
    measures: tuple[Description, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def means(self) -> DataFrame:
        """A line for each line and a column for each key; NaN where a seed has none."""
        return self._over_seeds("mean", 0)

    @cached_property
    def stds(self) -> DataFrame:
        """Likewise, of the sample (n − 1); NaN for one seed."""
        return self._over_seeds("std", 1)

    def _over_seeds(self, statistic: str, place: int) -> DataFrame:
        pandas = import_pandas()
        keys = [measure.key for measure in self.measures]
        found = pandas.DataFrame(index=range(len(self.lines)), columns=keys, dtype=float)
        for i, line in enumerate(self.lines):
            if line.seeds is not None:
                found.loc[i] = getattr(numbers(line.seeds, keys), statistic)(skipna=False)
            elif line.quoted is not None:
                found.loc[i] = pandas.Series({key: value[place] for key, value in line.quoted.items()}, dtype=float)
        return found


def criterion_of(results: Results) -> str | None:
    """The first criterion that every cell has, so that all rows are chosen by the same; None if there is none."""
    trained = results.cells[results.cells["row"] != LINEAR.name]  # the linear model is measured by the figures alone
    validation = trained[trained["split"] == "validation"]
    complete = numbers(validation, CRITERIA).notna().all()
    return next((criterion for criterion in CRITERIA if len(validation) and complete[criterion]), None)


def best_beta(validation: DataFrame, criterion: str | None) -> float | None:
    """The β with the lowest mean of the criterion over its seeds."""
    if criterion is None or validation.empty:
        return None
    return float(numbers(validation, ["beta", criterion]).groupby("beta")[criterion].mean().idxmin())


def protocol_table(title: str, rows: Sequence[Row], results: Results, shown: Shown = QUALITY) -> Table:
    """The paper's protocol: test measures of the β with the best validation sample quality of each row."""
    criterion = criterion_of(results)
    how = f"by the lowest {criterion} on the validation subjects" if criterion else "not chosen: nothing was measured"
    return _at_beta(title, rows, results, shown, lambda cells: best_beta(cells, criterion), f"β of each row {how}")


def plain_table(title: str, rows: Sequence[Row], results: Results, shown: Shown = QUALITY) -> Table:
    """Test measures of each row at β = 1, the plain evidence lower bound."""
    how = "β = 1, the plain evidence lower bound, where a loss with larger weights buys a higher rate"
    return _at_beta(title, rows, results, shown, plain_beta, how)


def plain_beta(validation: DataFrame) -> float | None:
    """1, if there is a cell of it."""
    return PLAIN_BETA if (validation["beta"] == PLAIN_BETA).any() else None


def _at_beta(
    title: str,
    rows: Sequence[Row],
    results: Results,
    shown: Shown,
    choose: Callable[[DataFrame], float | None],
    how: str,
) -> Table:
    def line(row: Row) -> Line:
        beta = choose(results.validation_of(row))
        if beta is None:
            return empty_line(row, results, "–", "–")
        reported = results.reported_of(row)
        chosen = reported[reported["beta"] == beta]
        leading = (row.label, f"{beta:g}", str(len(chosen)), results.likelihood(row))
        return Line(leading, chosen if len(chosen) else None, results.problem(row), competes=row != LINEAR)

    notes = (f"{results.subjects}; mean ± std over seeds. {how}.", *legend(rows, results, shown))
    return Table(title, ("row", "β", "seeds", "likelihood"), shown.measures, tuple(map(line, rows)), notes)


def rate_range(cells: DataFrame) -> Range | None:
    """The rates that a row's β grid brackets with every seed."""
    rates = numbers(cells, ["seed", RATE]).dropna()
    return covered_range([list(of_seed) for _, of_seed in rates.groupby("seed")[RATE]])


def empty_line(row: Row, results: Results, *leading: str) -> Line:
    """The line of a row without numbers, with the reason; ``leading`` stands between label and likelihood."""
    return Line((row.label, *leading, results.likelihood(row)), note=results.problem(row) or "not trained")


def legend(rows: Sequence[Row], results: Results, shown: Shown) -> tuple[str, ...]:
    """The notes that a table of these measures needs."""
    fitted = (
        "All −log p are upper bounds in nats with all constants, of a Gaussian fitted around the decoder on the "
        f"validation subjects, whatever the row was trained with; p is a {results.density}."
    )
    no = "Likelihood no: the objective without its KL is not −log of a normalised density of the image."
    is_no = not all(results.likelihoods.get(row.name, True) for row in rows)
    what = "; ".join(f"{measure.name}: {measure.what}" for measure in shown.measures)
    return (f"{what}.", *shown.notes, fitted, *([no] if is_no else []))


def joined(*notes: str) -> str:
    """Notes after each other, without the empty ones."""
    return "; ".join(filter(None, notes))
