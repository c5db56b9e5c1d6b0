"""Tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable

from monai_blurvae.study.tables import Column, Entry, Results, Table, value_of


def cells_csv(results: Results) -> str:
    """Every cell with every measure or why it has none, on the validation subjects and on those that are reported."""
    splits = [("validation", m) for m in results.validation]
    if results.reported is not results.validation:
        splits += [("test", m) for m in results.reported]
    names = sorted({name for _, m in splits for name in (*m.values, *m.reasons)})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "beta", "seed", "split", *names])
    for split, m in sorted(splits, key=lambda pair: (pair[1].cell, pair[0])):
        writer.writerow([*m.cell, split, *(value_of(m, name) for name in names)])
    return out.getvalue()


def to_markdown(table: Table) -> str:
    """The table as Markdown, the best of each column in bold, reasons for missing numbers below."""
    bold = _marker(table, lambda text: f"**{text}**")
    heading = [*table.leading, *(c.label for c in table.columns), "note"]
    body = [[*line.leading, *_texts(table, i, bold), line.note] for i, line in enumerate(table.lines)]
    rows = [heading, ["---"] * len(heading), *body]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    below = [*table.notes, *_reasons(table)]
    return f"# {table.title}\n\n{text}\n\n" + "\n".join(f"- {note}" for note in below) + "\n"


def to_csv(table: Table) -> str:
    """The table as CSV, unrounded, a column for each mean and each standard deviation."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*table.leading, *(n for c in table.columns for n in (c.key, f"{c.key}_std")), "note"])
    for line in table.lines:
        entries = line.entries or (Entry(None),) * len(table.columns)
        numbers = ["" if v is None else v for e in entries for v in (e.mean, e.std)]
        writer.writerow([*line.leading, *numbers, line.note])
    return out.getvalue()


def to_latex(table: Table) -> str:
    """The table as a LaTeX ``table`` that needs the package booktabs."""
    bold = _marker(table, lambda text: rf"\textbf{{{text}}}")
    heading = " & ".join(escape_latex(text) for text in (*table.leading, *(c.label for c in table.columns)))
    width = len(table.leading) + len(table.columns)
    lines = []
    for i, line in enumerate(table.lines):
        cells = _texts(table, i, bold, escape_latex)
        if not line.entries:
            cells = [rf"\multicolumn{{{len(table.columns)}}}{{l}}{{{escape_latex(line.note)}}}"]
        lines.append(" & ".join([*map(escape_latex, line.leading), *cells]) + r" \\")
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{escape_latex(' '.join([table.title + '.', *table.notes, *_reasons(table)]))}}}",
            rf"\begin{{tabular}}{{{'l' + 'r' * (width - 1)}}}",
            r"\toprule",
            heading + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


LATEX = {
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
    "₁": "$_1$",
    "₀": "$_0$",
    "±": r"$\pm$",
    "−": "$-$",
    "·": r"$\cdot$",
    "–": "--",
    "…": r"\ldots{}",
    "é": r"\'e",
    "×": r"$\times$",
}


def escape_latex(text: str) -> str:
    """The text with everything that LaTeX would take for a command replaced by what prints it."""
    return re.sub(".", lambda match: LATEX.get(match.group(), match.group()), text, flags=re.DOTALL)


def _best(table: Table) -> list[set[int]]:
    """For each column, the lines whose number is the best; none where neither direction is better."""
    best = []
    for j, column in enumerate(table.columns):
        means = {i: line.entries[j].mean for i, line in enumerate(table.lines) if line.entries and line.competes}
        scores = {i: column.better * mean for i, mean in means.items() if mean is not None}
        top = max(scores.values(), default=0.0)
        best.append({i for i, score in scores.items() if score == top} if column.better and len(scores) > 1 else set())
    return best


def _marker(table: Table, mark: Callable[[str], str]) -> Callable[[str, int, int], str]:
    """Marks the text of the best number of its column, given line and column."""
    best = _best(table)
    return lambda text, i, j: mark(text) if i in best[j] else text


def _texts(
    table: Table, index: int, marked: Callable[[str, int, int], str], escaped: Callable[[str], str] = str
) -> list[str]:
    """The numbers of a line."""
    entries = table.lines[index].entries or (Entry(None),) * len(table.columns)
    texts = [_text(entry, column) for entry, column in zip(entries, table.columns, strict=True)]
    return [marked(escaped(text), index, j) for j, text in enumerate(texts)]


def _text(entry: Entry, column: Column) -> str:
    if entry.mean is None:
        return "–"
    digits = _digits(entry.mean, column)
    mean = f"{entry.mean:{'+' if column.signed else ''}.{digits}f}"
    text = mean + ("" if entry.std is None else f" ± {entry.std:.{digits}f}")
    return text.replace("-", "−")


def _digits(mean: float, column: Column) -> int:
    """Digits after the point."""
    if not column.significant or mean == 0:
        return column.digits
    return max(0, column.digits - 1 - math.floor(math.log10(abs(mean))))


def _reasons(table: Table) -> list[str]:
    """Why columns have no numbers, once for all columns that lack those of the same rows for the same reason."""
    rows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for line in table.lines:
        for column, entry in zip(table.columns, line.entries, strict=False):
            if entry.mean is None:
                rows[column.label, entry.reason].append(line.leading[0])
    columns: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (label, reason), names in rows.items():
        columns[", ".join(names), reason].append(label)
    return [f"{'; '.join(labels)}: – for {names}: {reason}" for (names, reason), labels in columns.items()]
