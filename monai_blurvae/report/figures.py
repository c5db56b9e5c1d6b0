"""Charts as inline SVG and images, error maps and kernels as embedded pictures."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape
from PIL import Image

from monai_blurvae.handlers.pictures import LABEL_HEIGHT, Pixels
from monai_blurvae.report.page import need_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = npt.NDArray[np.float64]

# Okabe and Ito's colours, and Tol's purple, which colour-blind people tell apart.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#8C8C8C"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
SIGNED_COLOURS, ABSOLUTE_COLOURS = "RdBu_r", "viridis"
"""Matplotlib's colour maps that colour-blind people read too."""
SIZE = (4.2, 2.9)
"""Inches of a chart."""
FONT_SIZE = 11
"""Points. Drawn at least 330 CSS pixels wide, as on a phone, the text has 12 pixels or more."""
EPOCH, STEP = "epoch", "step"
"""The labels of axes of whole numbers."""
LARGEST_PNG = 60_000
"""Bytes from which on a picture is a JPEG instead, so that a report of large photographs stays a few megabytes. Images
of 128×128 pixels and less are below, and shown exactly."""
JPEG_QUALITY = 90
ERROR_PERCENTILE = 99.5
"""Of the absolute errors, which the colours reach to; single pixels beyond have the last colour."""
SIGNED_MEANING = "reconstruction minus image; red is too bright, blue too dark"


class Curve(NamedTuple):
    """A curve.

    Attributes:
        label: in the legend.
        values: ordinates by abscissae; those that are not finite are left out.
        colour: of the line.
        style: matplotlib's line and marker; a single value always has a marker.
    """

    label: str
    values: Mapping[float, float] | Mapping[int, float]
    colour: str
    style: str = "-"


class Coloured(NamedTuple):
    """Values in one scale of colours.

    Attributes:
        maps: one for each image, ``(N, H, W, 3)``.
        scale: the bar of all colours with its ends and what it means.
    """

    maps: Pixels
    scale: Markup


def chart(caption: str, x_label: str, y_label: str, draw: Callable[[Axes], object]) -> Markup:
    """A drawing as an inline SVG whose text stays text, with its caption, which also tells it to those who do not see.

    Args:
        caption: below it.
        x_label: with unit.
        y_label: with unit.
        draw: draws into the axes.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    need_extra()
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=SIZE, layout="constrained")  # without pyplot, which would keep it
    axes = figure.subplots()
    draw(axes)
    axes.set_xlabel(x_label, fontsize=FONT_SIZE)
    axes.set_ylabel(y_label, fontsize=FONT_SIZE)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_tick_params(labelsize=FONT_SIZE)
        axis.get_offset_text().set_fontsize(FONT_SIZE)
    if x_label in (EPOCH, STEP):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": ""}):
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") + len("<svg") :]  # a part of a document has no prologue
    # Drawings share a document: the names inside of them must not meet.
    name = "c" + hashlib.sha256((caption + svg).encode()).hexdigest()[:12]
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    drawn = Markup(f'<svg role="img" aria-label="{escape(caption)}"{svg}')  # matplotlib escapes what it draws
    return captioned(drawn, caption)


def line_chart(
    caption: str,
    x_label: str,
    y_label: str,
    curves: Sequence[Curve],
    *,
    from_zero: bool = False,
    level: tuple[float, str] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """Curves over a common abscissa.

    Args:
        caption: below it.
        x_label: with unit.
        y_label: with unit.
        curves: the curves.
        from_zero: whether the ordinate begins at zero.
        level: a horizontal line and its label.
        y_range: of the ordinate; by default that of the curves.
    """

    def draw(axes: Axes) -> None:
        for label, values, colour, style in curves:
            points = [(x, y) for x, y in values.items() if np.isfinite(y)]
            marked = "o" if len(values) == 1 and "o" not in style else ""
            x, y = zip(*points, strict=True) if points else ((), ())
            axes.plot(x, y, marked + style, color=colour, label=label, markersize=4, linewidth=1.5)
        if level is not None:
            axes.axhline(level[0], color=GREY, linewidth=1.2, linestyle="--", label=level[1])
        if y_range is not None:
            axes.set_ylim(y_range)
        if from_zero:
            axes.set_ylim(bottom=0)
        if len(curves) + (level is not None) > 1:
            axes.legend(frameon=False, handlelength=1.6, fontsize=FONT_SIZE)

    return chart(caption, x_label, y_label, draw)


def area_chart(caption: str, x_label: str, y_label: str, values: npt.ArrayLike) -> Markup:
    """Values in a row from 1 on, one step each, filled to zero."""
    heights = np.asarray(values, float)
    edges = np.arange(len(heights) + 1) + 0.5
    return chart(
        caption,
        x_label,
        y_label,
        lambda axes: (axes.stairs(heights, edges, fill=True, color=BLUE), axes.set_xlim(edges[0], edges[-1])),
    )


def histogram(caption: str, x_label: str, y_label: str, values: npt.ArrayLike) -> Markup:
    """How often values occur; those that are not finite are left out."""
    numbers = np.asarray(values, float)
    numbers = numbers[np.isfinite(numbers)]
    bins = int(np.clip(np.sqrt(len(numbers)), 5, 40))

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        axes.hist(numbers, bins=bins, color=BLUE, edgecolor="white", linewidth=0.5)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    return chart(caption, x_label, y_label, draw)


def late_range(values: Iterable[float]) -> tuple[float, float] | None:
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


def loss_chart(caption: str, label: str, values: Mapping[int, float]) -> Markup:
    """A term of a training loss over the epochs, without its beginning where that would dwarf all else."""
    y_range = late_range(values.values())
    begins = "" if y_range is None else f" It begins at {next(iter(values.values())):.4g}, outside of the chart."
    return line_chart(caption + begins, EPOCH, label, [Curve("training", values, BLUE)], y_range=y_range)


def image(pixels: Pixels, description: str) -> Markup:
    """Embed ``(H, W)`` or ``(H, W, 3)`` pixels, described for those who do not see them."""
    drawn = Image.fromarray(np.ascontiguousarray(pixels))
    kind, content = "png", _encoded(drawn, "PNG")
    if len(content) > LARGEST_PNG:
        kind, content = "jpeg", _encoded(drawn, "JPEG", quality=JPEG_QUALITY)
    uri = f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
    return Markup('<img src="{}" width="{}" height="{}" alt="{}">').format(uri, *drawn.size, description)


def captioned(drawn: Markup, caption: str, kind: str = "") -> Markup:
    """A drawing with its caption below."""
    return Markup('<figure class="{}">{}<figcaption>{}</figcaption></figure>').format(kind, drawn, caption)


def picture(pixels: Pixels, caption: str, kind: str = "") -> Markup:
    """An image that its caption describes."""
    return captioned(image(pixels, caption), caption, kind)


def image_row(caption: str, images: Iterable[tuple[str, Pixels]], kind: str = "") -> Markup:
    """Images of one thing beside each other.

    Args:
        caption: above them: what they are of.
        images: name and pixels of each.
        kind: ``wide`` for a row of its own, ``drawn`` for more than four images.
    """
    shown = Markup("\n").join(captioned(image(pixels, f"{name}: {caption}"), name) for name, pixels in images)
    figure = Markup('<figure class="example {}"><figcaption>{}</figcaption>\n<div>\n{}\n</div></figure>')
    return figure.format(kind, caption, shown)


def upright(images: Pixels, quarter_turns: int) -> Pixels:
    """Images as they are looked at.

    Args:
        images: ``(N, C, H, W)``.
        quarter_turns: by which they are rotated, see :func:`~monai_blurvae.handlers.reconstruction_figure`.

    Returns:
        ``(N, H, W, 3)``, or ``(N, H, W)`` for less than three channels, of which the first is shown.
    """
    turned = np.rot90(images, quarter_turns, (-2, -1))
    return np.moveaxis(turned[:, :3], 1, -1) if images.shape[1] >= 3 else turned[:, 0]


def error_maps(images: Pixels, reconstructions: Pixels, quarter_turns: int) -> Coloured:
    """Errors in colours: reconstruction minus image for one channel, else the root mean square over the channels.

    Args:
        images: ``(N, C, H, W)``, 255 is 1.
        reconstructions: likewise.
        quarter_turns: by which the maps are rotated.
    """
    difference = (reconstructions.astype(float) - images) / 255
    if images.shape[1] == 1:
        return coloured(difference[:, 0], True, quarter_turns, f"Error, on images in [0, 1]: {SIGNED_MEANING}")
    error = np.sqrt((difference**2).mean(1))
    meaning = "Error, on images in [0, 1]: root mean square over the channels"
    return coloured(error, False, quarter_turns, meaning)


def coloured(values: Numbers, signed: bool, quarter_turns: int, meaning: str, step: float = 0.05) -> Coloured:
    """Values in colours, from 0 or its negative to :data:`ERROR_PERCENTILE`, rounded up.

    Args:
        values: ``(N, H, W)``.
        signed: whether they may be negative.
        quarter_turns: by which the maps are rotated.
        meaning: in words.
        step: of which the limit is a multiple.
    """
    limit = max(1, math.ceil(round(float(np.percentile(np.abs(values), ERROR_PERCENTILE)) / step, 6))) * step
    low = -limit if signed else 0.0
    turned = np.rot90(values, quarter_turns, (-2, -1))
    ends = [f"{value:+.2f}".replace("-", "−") if value else "0" for value in (low, limit)]
    maps = colours_of((turned - low) / (limit - low), signed)
    return Coloured(maps, colour_scale(ends[0], ends[1], meaning, signed))


def colours_of(relative: npt.ArrayLike, signed: bool) -> Pixels:
    """The colours ``(…, 3)`` of values in [0, 1]."""
    need_extra()
    from matplotlib import colormaps

    colours: Pixels = colormaps[SIGNED_COLOURS if signed else ABSOLUTE_COLOURS](np.asarray(relative), bytes=True)
    return colours[..., :3]


def colour_scale(low: str, high: str, meaning: str, signed: bool) -> Markup:
    """All colours between two values, and what they mean."""
    bar = image(colours_of(np.linspace(0, 1, 256)[None], signed), f"colours from {low} to {high}")
    scale = Markup('<div class="colours"><span>{}</span>{}<span>{}</span></div>\n<p class="soft">{}.</p>')
    return scale.format(low, bar, high, meaning)


def grey_pixels(images: Numbers, white: float, quarter_turns: int) -> Pixels:
    """Images ``(N, H, W)`` from 0, black, to ``white``, rotated."""
    return np.rot90((images / white).clip(0, 1) * 255, quarter_turns, (-2, -1)).round().astype(np.uint8)


def kernel_pixels(kernel: Numbers, quarter_turns: int) -> Pixels:
    """A kernel ``(k, k)`` relative to its maximum, negative values black."""
    white = max(float(kernel.max()), float(np.finfo(float).tiny))
    return grey_pixels(kernel[None], white, quarter_turns)[0]


def square_pixels(pixels: Pixels, across: float, up: float) -> Pixels:
    """A plane of a volume enlarged by repetition until its pixels are square, as anatomy is seen.

    Args:
        pixels: ``(H, W)`` or ``(H, W, 3)``.
        across: width of a pixel, in mm.
        up: its height.
    """
    smallest = min(across, up)
    size = (round(pixels.shape[1] * across / smallest), round(pixels.shape[0] * up / smallest))
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.NEAREST))


def strips(encoded: bytes, count: int) -> list[Pixels]:
    """The rows of a figure that :func:`~monai_blurvae.handlers.pictures.draw_rows` drew, without their labels.

    Args:
        encoded: the figure, which has no title.
        count: of its rows.

    Returns:
        ``(H, W)`` for grey images, else ``(H, W, 3)``.
    """
    with Image.open(io.BytesIO(encoded)) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    height = pixels.shape[0] // count
    return [pixels[i * height + LABEL_HEIGHT : (i + 1) * height] for i in range(count)]


def _encoded(drawn: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    drawn.save(buffer, kind, **options)
    return buffer.getvalue()
