"""The study's tables: which numbers stand where, and why some do not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from types import MappingProxyType
from typing import NamedTuple

from monai_blurvae.bundle.measures import DESCRIPTIONS, FLOAT_DENSITY
from monai_blurvae.study.folder import Measured
from monai_blurvae.study.plan import Row
from monai_blurvae.study.rates import covered_range

RATE = "kl"
CRITERIA = ("mmd_alexnet", "spectrum_sample")
"""What the β of a row is chosen by on the validation subjects, lower being better: the first that all cells have."""


class Column(NamedTuple):
    """A measure in a table.

    Attributes:
        key: of the measure.
        label: with its unit.
        digits: after the point.
        better: 1 where higher is better, −1 where lower is, 0 where neither.
        signed: whether positive numbers have their sign, as differences do.
        significant: whether ``digits`` are significant ones, for a measure that spans magnitudes.
    """

    key: str
    label: str
    digits: int
    better: int
    signed: bool = False
    significant: bool = False


class Shown(NamedTuple):
    """Measures that a table shows.

    Attributes:
        columns: of the measures.
        notes: sentences that they need.
    """

    columns: tuple[Column, ...]
    notes: tuple[str, ...]


def _described(key: str) -> Column:
    """The column of a measure as the bundle describes it."""
    measure = DESCRIPTIONS[key]
    unit = f" ({measure.unit})" if measure.unit else ""
    return Column(key, measure.name + unit, measure.digits, measure.better)


COLUMNS = (
    Column(RATE, "KL (nats)", 1, 0),
    Column("psnr", "PSNR (dB)", 2, 1),
    Column("ssim", "SSIM", 4, 1),
    Column("lpips", "LPIPS", 4, -1),
    Column("spectrum_reconstruction", "spectrum, recon.", 3, -1),
    Column("spectrum_sample", "spectrum, samples", 3, -1),
    Column("sharpness_reconstruction", "sharpness, recon.", 3, 0),
    Column("mmd_alexnet", "MMD² AlexNet, samples", 3, -1, significant=True),
    Column("nll_variance", "−log p, variance", 0, -1),
    Column("nll_spectrum", "−log p, spectrum", 0, -1),
    Column("active_units", "active units", 0, 0),
    Column("kernel_width", "kernel width (pixels)", 2, 0),
)
LIKELIHOOD_COLUMNS = (
    *map(_described, (RATE, "nll_variance", "nll_kernel", "nll_spectrum")),
    *map(_described, ("iw_nll_variance", "iw_nll_kernel", "iw_nll_spectrum")),
    *map(_described, ("bpd_variance", "bpd_spectrum")),
    *(
        _described(key)._replace(digits=4, significant=True)
        for key in ("frechet_alexnet", "fid_64", "fid_192", "fid_768", "fid_2048")
    ),
)
QUALITY = Shown(
    COLUMNS,
    (
        "PSNR and SSIM on [0, 1]; spectrum: distance of the radial log₁₀ power spectrum; MMD² of samples: its standard "
        "deviation over sets of samples is mmd_alexnet_sd in cells.csv; kernel width: of the predicted kernel, trained "
        "by the loss or beside it.",
    ),
)
LIKELIHOODS = Shown(
    LIKELIHOOD_COLUMNS,
    (
        "IW: importance-weighted bound, the others minus the ELBO; kernel: the Gaussian of the predicted kernel, "
        "trained by the loss or beside it.",
        f"Bits per dimension are of a {FLOAT_DENSITY}.",
        "Fréchet distances and FID are squared, and compare between equal numbers of patches only.",
    ),
)


Value = float | str
"""A number, or why there is none."""


class Entry(NamedTuple):
    """A number of a table, or why there is none.

    Attributes:
        mean: over seeds.
        std: over seeds, None for one seed.
        reason: where ``mean`` is None.
    """

    mean: float | None
    std: float | None = None
    reason: str = ""


class Line(NamedTuple):
    """A line of a table.

    Attributes:
        leading: texts before the numbers; the first is the row's label.
        entries: one for each column; empty for a row that has none.
        note: why, in a few words.
        competes: whether its numbers compare with the other lines', so that they may be the best.
    """

    leading: tuple[str, ...]
    entries: tuple[Entry, ...]
    note: str = ""
    competes: bool = True


class Table(NamedTuple):
    """A table.

    Attributes:
        title: a sentence.
        leading: headings of the lines' leading texts.
        columns: of the entries.
        lines: in the order of the rows.
        notes: sentences below.
    """

    title: str
    leading: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()


class Results(NamedTuple):
    """What the tables are made of.

    Attributes:
        validation: measures on the validation subjects, by which β is chosen and rates are matched.
        reported: what the tables hold, measures on the test subjects.
        subjects: whose measures ``reported`` are, as the tables say it.
        problems: why a row, by its name, has cells that are missing.
        aliases: the row under whose name each row's cells were trained.
        likelihoods: whether each row, by its name, trains a likelihood, as far as its settings are known.
    """

    validation: tuple[Measured, ...]
    reported: tuple[Measured, ...]
    subjects: str
    problems: Mapping[str, str]
    aliases: Mapping[str, str]
    likelihoods: Mapping[str, bool] = MappingProxyType({})

    def validation_of(self, row: Row) -> list[Measured]:
        """The measures of one row on the validation subjects."""
        return self._of(row, self.validation)

    def reported_of(self, row: Row) -> list[Measured]:
        """The measures of one row that are reported."""
        return self._of(row, self.reported)

    def _of(self, row: Row, measured: Sequence[Measured]) -> list[Measured]:
        return [m for m in measured if m.cell.row == self.aliases.get(row.name, row.name)]

    def problem(self, row: Row) -> str:
        """Why cells of a row are missing, or nothing."""
        return self.problems.get(row.name, "") or self.problems.get(self.aliases.get(row.name, row.name), "")

    def likelihood(self, row: Row) -> str:
        """Whether a row trains a likelihood, as the tables say it."""
        return {True: "yes", False: "no", None: "–"}[self.likelihoods.get(row.name)]


def value_of(measured: Measured, key: str) -> Value:
    """A measure, or why there is none."""
    return measured.values[key] if key in measured.values else measured.reasons.get(key, "not measured")


def over_seeds(values: Sequence[Value]) -> Entry:
    """Mean and, over more than one seed, standard deviation (of the sample, n − 1); a seed's reason if one has none."""
    numbers = [value for value in values if not isinstance(value, str)]
    if not numbers or len(numbers) < len(values):
        return Entry(None, reason=next((value for value in values if isinstance(value, str)), "not measured"))
    return Entry(fmean(numbers), stdev(numbers) if len(numbers) > 1 else None)


def criterion_of(validation: Iterable[Measured]) -> str | None:
    """The first criterion that every cell has, so that all rows are chosen by the same; None if there is none."""
    measured = list(validation)
    if not measured:
        return None
    return next((c for c in CRITERIA if all(c in m.values for m in measured)), None)


def best_beta(validation: Iterable[Measured], criterion: str) -> float | None:
    """The β with the lowest mean of the criterion over its seeds."""
    by_beta: dict[float, list[float]] = defaultdict(list)
    for m in validation:
        by_beta[m.cell.beta].append(m.values[criterion])
    return min(by_beta, key=lambda beta: fmean(by_beta[beta])) if by_beta else None


def protocol_table(title: str, rows: Sequence[Row], results: Results, shown: Shown = QUALITY) -> Table:
    """The paper's protocol: test measures of the β with the best validation sample quality of each row."""
    criterion = criterion_of(results.validation)
    lines = []
    for row in rows:
        beta = None if criterion is None else best_beta(results.validation_of(row), criterion)
        if beta is None:
            lines.append(empty_line(row, results, "–", "–"))
            continue
        chosen = [m for m in results.reported_of(row) if m.cell.beta == beta]
        entries = tuple(over_seeds([value_of(m, column.key) for m in chosen]) for column in shown.columns)
        leading = (row.label, f"{beta:g}", str(len(chosen)), results.likelihood(row))
        lines.append(Line(leading, entries, results.problem(row)))
    how = f"by the lowest {criterion} on the validation subjects" if criterion else "not chosen: nothing was measured"
    notes = (f"{results.subjects}; mean ± std over seeds. β of each row {how}.", *legend(rows, results, shown))
    return Table(title, ("row", "β", "seeds", "likelihood"), shown.columns, tuple(lines), notes)


def rate_range(measured: Iterable[Measured]) -> tuple[float, float] | None:
    """The rates that a row's β grid brackets with every seed."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for m in measured:
        if RATE in m.values:
            by_seed[m.cell.seed].append(m.values[RATE])
    return covered_range(list(by_seed.values()))


def empty_line(row: Row, results: Results, *leading: str) -> Line:
    """The line of a row without numbers, with the reason; ``leading`` stands between label and likelihood."""
    return Line((row.label, *leading, results.likelihood(row)), (), results.problem(row) or "not trained")


def legend(rows: Sequence[Row], results: Results, shown: Shown) -> tuple[str, ...]:
    """The notes that a table of these measures needs."""
    fitted = (
        "All −log p are upper bounds in nats with all constants, of a Gaussian fitted around the decoder on the "
        "validation subjects, whatever the row was trained with."
    )
    if all(results.likelihoods.get(row.name, True) for row in rows):
        return (*shown.notes, fitted)
    no = "Likelihood no: the objective without its KL is not −log of a normalised density of the image."
    return (*shown.notes, fitted, no)
