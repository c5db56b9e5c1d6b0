"""Small line charts as inline SVG, whose text stays text."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, and Tol's purple, which colour-blind people tell apart.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#8C8C8C"

SIZE = (4.2, 2.9)
"""Inches."""
FONT_SIZE = 11
"""Points. Drawn at least 330 CSS pixels wide, as on a phone, the text has 12 pixels or more."""
EPOCH, STEP = "epoch", "step"
"""The labels of axes of whole numbers."""
EXTRA = 'reports need matplotlib: pip install "monai-blurvae[report]".'


class Series(NamedTuple):
    """A curve.

    Attributes:
        label: in the legend.
        x: abscissae.
        y: ordinates; those that are not finite are left out.
        colour: of the line.
        marker: of the points, matplotlib's name; none by default.
        line: matplotlib's style of the line.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    marker: str = ""
    line: str = "-"


class Chart(NamedTuple):
    """A figure of the report.

    Attributes:
        svg: the drawing.
        caption: below it.
    """

    svg: Markup
    caption: str


def need_matplotlib() -> None:
    """Fail before the work.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(EXTRA) from error


def late_range(values: Sequence[float]) -> tuple[float, float] | None:
    """The range of a curve without its first twentieth, with a margin, where the beginning would dwarf all else.

    Args:
        values: of the curve; those that are not finite are left out.

    Returns:
        None where the whole curve can be shown: it spans at most twice as much as without its beginning.
    """
    finite = [value for value in values if np.isfinite(value)]
    rest = finite[-(-len(finite) // 20) :]
    if not rest:
        return None
    low, high = min(rest), max(rest)
    if not max(finite) - min(finite) > 2 * (high - low) > 0:
        return None
    margin = 0.05 * (high - low)
    return low - margin, high + margin


def line_chart(
    name: str,
    description: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    from_zero: bool = False,
    level: tuple[float, str] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """Curves over a common abscissa.

    Args:
        name: of the drawing, unique in the document.
        description: for those who do not see it.
        x_label: with unit.
        y_label: with unit.
        series: the curves.
        from_zero: whether the ordinate begins at zero.
        level: a horizontal line and its label.
        y_range: of the ordinate; by default that of the curves.

    Returns:
        The SVG element.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    figure, axes = _subplot()
    for s in series:
        x, y = _finite(s.x, s.y)
        axes.plot(x, y, color=s.colour, marker=s.marker, linestyle=s.line, label=s.label, markersize=4, linewidth=1.5)
    if level is not None:
        axes.axhline(level[0], color=GREY, linewidth=1.2, linestyle="--", label=level[1])
    if y_range is not None:
        axes.set_ylim(y_range)
    if from_zero:
        axes.set_ylim(bottom=0)
    if len(series) + (level is not None) > 1:
        axes.legend(frameon=False, handlelength=1.6, fontsize=FONT_SIZE)
    return _finish(figure, axes, name, description, x_label, y_label)


def area_chart(name: str, description: str, x_label: str, y_label: str, values: npt.ArrayLike) -> Markup:
    """Values in a row, one step each, filled to zero.

    Args:
        name: of the drawing, unique in the document.
        description: for those who do not see it.
        x_label: with unit.
        y_label: with unit.
        values: from 1 on, at least one.

    Returns:
        The SVG element.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    figure, axes = _subplot()
    heights = np.asarray(values, float)
    axes.stairs(heights, np.arange(len(heights) + 1) + 0.5, fill=True, color=BLUE)
    axes.set_xlim(0.5, len(heights) + 0.5)
    return _finish(figure, axes, name, description, x_label, y_label)


def histogram(name: str, description: str, x_label: str, y_label: str, values: npt.ArrayLike) -> Markup:
    """How often values occur.

    Args:
        name: of the drawing, unique in the document.
        description: for those who do not see it.
        x_label: with unit.
        y_label: with unit.
        values: at least one; those that are not finite are left out.

    Returns:
        The SVG element.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    figure, axes = _subplot()
    from matplotlib.ticker import MaxNLocator

    numbers = np.asarray(values, float)
    numbers = numbers[np.isfinite(numbers)]
    axes.hist(numbers, bins=int(np.clip(np.sqrt(len(numbers)), 5, 40)), color=BLUE, edgecolor="white", linewidth=0.5)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return _finish(figure, axes, name, description, x_label, y_label)


def _subplot() -> tuple[Figure, Axes]:
    need_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")  # without pyplot, which would keep it
    return figure, figure.subplots()


def _finite(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if np.isfinite(b)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _finish(figure: Figure, axes: Axes, name: str, description: str, x_label: str, y_label: str) -> Markup:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(x_label, fontsize=FONT_SIZE)
    axes.set_ylabel(y_label, fontsize=FONT_SIZE)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_tick_params(labelsize=FONT_SIZE)
        axis.get_offset_text().set_fontsize(FONT_SIZE)
    if x_label in (EPOCH, STEP):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return _to_svg(figure, name, description)


def _to_svg(figure: Figure, name: str, description: str) -> Markup:
    from matplotlib import rc_context

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]  # a part of a document has no prologue
    # Drawings share a document: the names inside of them must not meet.
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    label = f'<svg role="img" aria-label="{escape(description)}"'
    return Markup(label + svg[len("<svg") :])  # matplotlib escapes what it draws
