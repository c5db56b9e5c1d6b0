"""Tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from study.frames import import_pandas
from study.tables import Table

if TYPE_CHECKING:
    from pandas import DataFrame


def to_csv(table: Table) -> str:
    """The table as CSV, unrounded, a column for each mean and each standard deviation."""
    frame = _leading(table)
    for measure in table.measures:
        frame[measure.key], frame[f"{measure.key}_std"] = table.means[measure.key], table.stds[measure.key]
    frame["note"] = [line.note for line in table.lines]
    return frame.to_csv(index=False, lineterminator="\n")


def to_markdown(table: Table) -> str:
    """The table as Markdown, the best of each column in bold, reasons for missing numbers below."""
    texts = _texts(table)
    frame = _leading(table).join(texts.mask(_best(table), "**" + texts + "**"))
    quoted = [line.quoted is not None for line in table.lines]
    frame = frame.mask(frame.ne("–").mul(quoted, axis=0), "*" + frame + "*")
    frame["note"] = [line.note for line in table.lines]
    frame = frame.rename(columns=str).map(_piped).rename(columns=_piped)
    body = frame.to_markdown(index=False, disable_numparse=True)
    return f"# {table.title}\n\n{body}\n\n" + "\n".join(f"- {note}" for note in (*table.notes, *_reasons(table))) + "\n"


def to_latex(table: Table) -> str:
    """The table as a LaTeX ``table`` that needs the package booktabs; notes and reasons are in the caption."""
    texts = _texts(table)
    bold = _best(table).map(lambda best: "textbf:--rwrap;" if best else "").rename(columns=escape_latex)
    frame = _leading(table).join(texts).map(escape_latex).rename(columns=escape_latex)
    notes = [f"{line.leading[0]}: {line.note}." for line in table.lines if line.note]
    return (
        frame.style.hide(axis="index")
        .apply(lambda _: bold, axis=None, subset=list(bold.columns))
        .to_latex(
            hrules=True,
            column_format="l" + "r" * (len(frame.columns) - 1),
            caption=escape_latex(" ".join([f"{table.title}.", *table.notes, *_reasons(table), *notes])),
        )
    )


LATEX = str.maketrans(
    {
        **{character: "\\" + character for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "β": r"$\beta$",
        "ε": r"$\epsilon$",
        "σ": r"$\sigma$",
        "Σ": r"$\Sigma$",
        "Δ": r"$\Delta$",
        "²": "$^2$",
        "⁻": "$^-$",
        "¹": "$^1$",
        "ᵀ": "$^T$",
        "₁": "$_1$",
        "₀": "$_0$",
        "½": r"$\frac12$",
        "±": r"$\pm$",
        "−": "$-$",
        "·": r"$\cdot$",
        "×": r"$\times$",
        "√": r"$\surd$",
        "‖": r"$\|$",
        "\u0302": r"\^{}",
        "–": "--",
        "…": r"\ldots{}",
        "é": r"\'e",
    }
)


def escape_latex(text: str) -> str:
    """The text with everything that LaTeX would take for a command replaced by what prints it."""
    return text.replace("x̂", "\0").translate(LATEX).replace("\0", r"$\hat{x}$")


def _piped(text: str) -> str:
    return text.replace("|", "\\|")


def _leading(table: Table) -> DataFrame:
    lines = [line.leading for line in table.lines]
    return import_pandas().DataFrame(lines, columns=list(table.leading), index=range(len(lines)), dtype=str)


def _texts(table: Table) -> DataFrame:
    """The numbers of each line, with the labels of their columns."""
    columns = {
        measure.label: [
            "–" if math.isnan(mean) else measure.text(mean, std)
            for mean, std in zip(table.means[measure.key], table.stds[measure.key], strict=True)
        ]
        for measure in table.measures
    }
    return import_pandas().DataFrame(columns, index=table.means.index, dtype=str)


def _best(table: Table) -> DataFrame:
    """Whether each number is the best of its column; none is where neither direction is better."""
    competing = [i for i, line in enumerate(table.lines) if line.competes]
    scores = table.means.loc[competing] * [measure.better or math.nan for measure in table.measures]
    best = scores.eq(scores.max()) & (scores.count() > 1)
    return best.reindex(table.means.index, fill_value=False).set_axis([m.label for m in table.measures], axis=1)


def _reasons(table: Table) -> list[str]:
    """Why columns have no numbers, once for all columns that lack those of the same rows for the same reason."""
    rows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for i, line in enumerate(table.lines):
        for measure in table.measures:
            if line.seeds is not None and math.isnan(table.means[measure.key][i]):
                rows[measure.label, line.reason(measure.key)].append(line.leading[0])
    columns: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (label, reason), names in rows.items():
        columns[", ".join(names), reason].append(label)
    return [f"{'; '.join(labels)}: – for {names}: {reason}" for (names, reason), labels in columns.items()]
