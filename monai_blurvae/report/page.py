"""A page of the report: one HTML file that needs nothing else."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from monai_blurvae import __version__
from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import make_folder, write_text

GENERATOR = "monai_blurvae"
"""By this name in its head a report is told from another file."""


def render_page(template: str, title: str, sections: list[tuple[str, str]], source: str | Path, **shown: Any) -> str:
    """A document by one of the templates in this folder.

    Args:
        template: its name.
        title: of the document.
        sections: id and label of each, in the list at the top.
        source: the folder that it is made from.
        **shown: what the template shows, by the names that it has there.
    """
    environment = Environment(
        loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["options"] = _with_options
    return environment.get_template(template).render(
        generator=f"{GENERATOR} {__version__}",
        style=Markup(_text("style.css")),
        title=title,
        sections=sections,
        source=source,
        **shown,
    )


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


def write_page(path: Path, html: str) -> Path:
    """Write a document, whole or not at all, with a line break at its end.

    Raises:
        RunFolderError: if it cannot be written.
    """
    make_folder(path.parent)
    write_text(path, html.rstrip("\n") + "\n")
    return path


def _text(name: str) -> str:
    return (files("monai_blurvae.report") / name).read_text(encoding="utf-8")


def _with_options(text: str) -> Markup:
    """Text in which the options of a command line, ``--name``, stand out and are not torn."""
    return Markup(re.sub(r"(?<![\w-])(--\w+)", r'<code class="option">\1</code>', str(escape(text))))
