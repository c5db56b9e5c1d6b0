"""A page of the report: sections in one HTML file that needs nothing else, and what stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from monai_blurvae import __version__
from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import make_folder, write_text

GENERATOR = "monai_blurvae"
"""By this name in its head a report is told from another file."""
EXTRA = 'reports need matplotlib and pandas: pip install "monai-blurvae[report]".'


class Section(NamedTuple):
    """A part of a page.

    Attributes:
        title: in the list at the top, too.
        text: a sentence below the title; empty for none.
        body: what follows, made by the functions below and by those of :mod:`monai_blurvae.report.figures`.
    """

    title: str
    text: str = ""
    body: Sequence[Markup] = ()


def need_extra() -> None:
    """Fail before the work.

    Raises:
        ImportError: without matplotlib or pandas, naming the extra.
    """
    try:
        import matplotlib  # noqa: F401
        import pandas  # noqa: F401
    except ImportError as error:
        raise ImportError(EXTRA) from error


def write_page(path: Path, title: str, subtitle: str, source: str | Path, sections: Iterable[Section]) -> Path:
    """Write a page, whole or not at all.

    Args:
        path: of the page.
        title: of the document.
        subtitle: a line below it.
        source: the folder or file that it is made from.
        sections: in order.

    Returns:
        The page.

    Raises:
        RunFolderError: if it cannot be written.
    """
    environment = Environment(
        loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("page.jinja").render(
        generator=f"{GENERATOR} {__version__}",
        style=Markup(_text("style.css")),
        title=title,
        subtitle=subtitle,
        source=source,
        sections=list(sections),
    )
    make_folder(path.parent)
    write_text(path, html.rstrip("\n") + "\n")
    return path


def refuse_other_file(path: Path) -> None:
    """Keep a file that is no report.

    Raises:
        RunFolderError: if there is one.
    """
    if not path.exists():
        return
    if path.is_file():
        with path.open("rb") as handle:
            if f'name="generator" content="{GENERATOR}'.encode() in handle.read(4096):
                return
    raise RunFolderError(f"{path} is there and is no report; choose another file.")


def part(title: str, text: str, *blocks: Markup) -> Markup:
    """Blocks under a title of the third order and a sentence; either may be empty."""
    head = Markup("<h3>{}</h3>\n").format(title) if title else Markup()
    return head + (paragraph(text, "soft") if text else Markup()) + join(blocks)


def paragraph(text: str, kind: str = "") -> Markup:
    """A sentence, which is escaped unless it is markup."""
    return Markup('<p class="{}">{}</p>\n').format(kind, text)


def join(blocks: Iterable[Markup]) -> Markup:
    """Blocks below each other."""
    return Markup("\n").join(blocks)


def grid(kind: str, blocks: Iterable[Markup]) -> Markup:
    """Blocks beside each other: ``charts``, ``pairs``, ``strips``, ``examples`` or ``samples``."""
    return Markup('<div class="{}">\n{}\n</div>').format(kind, join(blocks))


def bullets(lines: Iterable[str]) -> Markup:
    """A list."""
    return Markup("<ul>\n{}\n</ul>").format(join(Markup("<li>{}</li>").format(line) for line in lines))


def fold(summary: str, *blocks: Markup) -> Markup:
    """Blocks that are seen on a click."""
    return Markup("<details><summary>{}</summary>\n{}\n</details>").format(summary, join(blocks))


def tiles(pairs: Iterable[tuple[str, str]]) -> Markup:
    """Label and value of what one looks for first."""
    rows = (Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(*pair) for pair in pairs)
    return Markup('<dl class="tiles">\n{}\n</dl>').format(join(rows))


def table(head: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "", kind: str = "") -> Markup:
    """A table that scrolls where it is wider than the page.

    Args:
        head: of the columns; empty for none.
        rows: cells, one for each column, which are escaped.
        caption: above it; empty for none.
        kind: ``facts`` for names with values that may be long.

    Raises:
        ImportError: without pandas, naming the extra.
    """
    need_extra()
    import pandas as pd

    cells = [[str(cell) for cell in row] for row in rows]
    with pd.option_context("display.max_colwidth", None):  # else long cells are cut
        html = pd.DataFrame(cells, columns=list(head) or None).to_html(
            escape=True, index=False, header=bool(head), border=0, justify="unset"
        )
    above = paragraph(caption, "caption") if caption else Markup()
    box = Markup('<div class="scroll {}" tabindex="0" role="region" aria-label="table">\n{}{}\n</div>')
    return box.format(kind, above, Markup(html))  # pandas escapes the cells


def facts(pairs: Iterable[tuple[str, object]], caption: str = "") -> Markup:
    """Names and values; nothing where there are none."""
    rows = [(name, value) for name, value in pairs if value != ""]
    return table((), rows, caption, "facts") if rows else Markup()


def with_options(text: str) -> Markup:
    """Text in which the options of a command line, ``--name``, stand out and are not torn."""
    return Markup(re.sub(r"(?<![\w-])(--\w+)", r'<code class="option">\1</code>', str(escape(text))))


def number_text(value: float) -> str:
    """Four digits, more for large numbers, with a minus sign."""
    text = f"{value:.1f}" if 1000 <= abs(value) < float("inf") else f"{value:.4g}"
    return text.replace("-", "−")


def _text(name: str) -> str:
    return (files("monai_blurvae.report") / name).read_text(encoding="utf-8")
