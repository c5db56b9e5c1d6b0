"""The study's figures, as PNG and PDF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import ImageFont

from monai_blurvae.files import replacing
from monai_blurvae.handlers.pictures import Pixels
from monai_blurvae.metrics.measures import MEASURES
from monai_blurvae.report.record import spread
from study.frames import numbers
from study.kernels import KernelHistory
from study.tables import RATE

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

PANELS = ("psnr", "ssim", "lpips", "spectrum_reconstruction", "mmd_alexnet")
# Okabe and Ito's colours, which colour-blind people tell apart, and a wine red; grey is the grid's and the images'.
# Markers and dashes tell rows that share one.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h", "d")
DASHES = ("-", "--", ":", "-.")
MOST_EPOCHS = 4


def draw_rate_distortion(curves: Mapping[str, DataFrame], title: str, rate: float | None) -> Figure:
    """Measures against the KL in nats; a line through the means of each β, a small point for each seed.

    Args:
        curves: cells of each row by its label, see :func:`~study.frames.cells_frame`.
        title: says on which subjects.
        rate: marked by a vertical line, if given.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    figure, axes = _subplots(2, 3, (13, 8))
    for axis, key in zip(axes.flat, PANELS, strict=False):
        for i, cells in enumerate(curves.values()):
            _draw_curve(axis, cells, key, _style(i))
        if not axis.lines:
            axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center")
        elif rate is not None:
            axis.axvline(rate, color="0.6", linewidth=0.8, linestyle=":")
        _scale_rates(axis)
        axis.set_xlabel(MEASURES[RATE].label)
        axis.set_ylabel(f"{MEASURES[key].label},\n{MEASURES[key].direction} is better")
        axis.grid(alpha=0.3, which="both")
    _legend(axes.flat[-1], list(curves))
    figure.suptitle(title)
    return figure


def draw_spectra(chosen: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Figure:
    """Radial log power spectra of images, reconstructions and samples, and below what they lack (the paper's Figure 6).

    Args:
        chosen: of one cell of each row, by its label, log₁₀ power of ``images``, ``reconstruction`` and ``sample``.
        title: says on which subjects.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    figure, axes = _subplots(2, 3, (13, 8), sharex="col", width_ratios=(1, 1, 0.45))
    for column, kind in enumerate(("reconstruction", "sample")):
        top, bottom = axes[0, column], axes[1, column]
        for i, spectra in enumerate(chosen.values()):
            images, shown = np.array(spectra["images"]), np.array(spectra[kind])
            frequencies = np.arange(1, len(images) + 1) / (2 * len(images))
            if i == 0:
                top.plot(frequencies, images, color="0.75", linewidth=4, zorder=0)
            every = max(1, len(images) // 8)
            top.plot(frequencies, shown, markevery=every, **_style(i))
            bottom.plot(frequencies, shown - images, markevery=every, **_style(i))
        bottom.axhline(0, color="0.75", linewidth=4, zorder=0)
        top.set_title(f"{kind}s; images in grey")
        top.set_ylabel("log₁₀ power")
        bottom.set_ylabel(f"log₁₀ power, {kind}s − images")
        bottom.set_xlabel("frequency (cycles per pixel)")
        for axis in (top, bottom):
            axis.grid(alpha=0.3)
    axes[1, 2].axis("off")
    _legend(axes[0, 2], list(chosen))
    figure.suptitle(title)
    return figure


def draw_spectrum_images(spectra: Mapping[str, npt.NDArray[np.float32]], title: str) -> Figure:
    """Mean log magnitudes of the DFT of reconstructions, samples and images (the paper's Figure 6).

    Args:
        spectra: of each row by its label, ``(3, H, W)``: images, reconstructions, samples; at least one row.
        title: of the figure.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    images = next(iter(spectra.values()))[0]
    figure, axes = _subplots(2, len(spectra) + 1, (2.1 * (len(spectra) + 1), 5.6), squeeze=False)
    low = min(float(of_row.min()) for of_row in spectra.values())
    scale = {"cmap": "magma", "vmin": low, "vmax": float(images.max()), "interpolation": "nearest"}
    for column, (label, of_row) in enumerate(spectra.items()):
        axes[0, column].set_title(label.replace(" (", "\n("), fontsize="medium")
        for row in (0, 1):
            axes[row, column].imshow(of_row[row + 1], **scale)
            distance = float(np.abs(of_row[row + 1] - images).mean())
            axes[row, column].set_xlabel(f"mean |Δ| {distance:.3f}")
    axes[0, 0].set_ylabel("reconstructions")
    axes[1, 0].set_ylabel("samples")
    axes[0, -1].set_title("images", fontsize="medium")
    shown = axes[0, -1].imshow(images, **scale)
    axes[1, -1].axis("off")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    label = "mean log₁₀ |DFT|, frequency 0 in the middle"
    figure.colorbar(shown, ax=axes, location="bottom", label=label, shrink=0.5, aspect=40)
    figure.suptitle(title)
    return figure


def draw_kernels(histories: Mapping[str, KernelHistory], title: str, warmup: int = 0) -> Figure:
    """Reconstructions and kernels of a few fixed validation images over the epochs, below the kernels' mean width.

    It is the paper's Figure 2.

    Args:
        histories: of each row by its label, at least one.
        title: of the figure.
        warmup: last epoch of the warm-up, which is marked.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    epochs = spread(sorted({epoch for history in histories.values() for epoch in history.pictures}), MOST_EPOCHS)
    first = next(iter(histories.values()))
    strips: list[tuple[str, Mapping[int, Pixels]]] = []
    if epochs and first.images is not None:
        strips.append(("images", {epochs[0]: first.images}))
    for label, history in histories.items():
        kinds = {"reconstructions": history.reconstructions, "kernels": history.pictures}
        strips += [(f"{label}\n{kind}", pictures) for kind, pictures in kinds.items() if pictures]
    figure = new_figure((15, 4 + 0.95 * len(strips)))
    grid = figure.add_gridspec(len(strips) + 1, max(1, len(epochs)), height_ratios=[*[0.9] * len(strips), 3])
    for i, (label, pictures) in enumerate(strips):
        for j, epoch in enumerate(epochs):
            axis = figure.add_subplot(grid[i, j])
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if epoch in pictures:
                axis.imshow(pictures[epoch], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            if i == (first.images is not None):
                axis.set_title(f"epoch {epoch}")
            if j == 0:
                axis.set_ylabel(label, rotation="horizontal", ha="right", va="center")
    _draw_widths(figure.add_subplot(grid[-1, :]), histories, warmup)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, handlelength=3.5)
    figure.suptitle(title)
    return figure


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write ``name.png`` and ``name.pdf``, each whole or not at all."""
    for kind in ("png", "pdf"):
        with replacing(folder / f"{name}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, dpi=150, metadata={"CreationDate": None} if kind == "pdf" else None)


def _subplots(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    figure = new_figure(size)
    return figure, figure.subplots(rows, columns, **options)


def text_font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font, which has Greek letters, for pictures that it does not draw.

    Args:
        size: in pixels.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    new_figure((1, 1))
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure that needs no display.

    Args:
        size: width and height in inches.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'matplotlib draws the figures and is not installed; pip install "monai-blurvae[study]".'
        ) from error
    # A figure of its own, without pyplot, is drawn by Agg and needs no display.
    return Figure(figsize=size, layout="constrained")


def _style(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
        "markersize": 6,
        "linewidth": 1.4,
    }


def _scale_rates(axis: Any) -> None:
    """A logarithmic scale with numbers as one writes them, few enough not to touch."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _draw_curve(axis: Any, cells: DataFrame, key: str, style: Mapping[str, Any]) -> None:
    points = numbers(cells, ["beta", RATE, key]).dropna()
    points = points[points[RATE] > 0]
    means = points.groupby("beta").mean().sort_values(RATE)
    if len(means):
        axis.plot(means[RATE], means[key], **style)
    if len(points) > len(means):
        axis.scatter(points[RATE], points[key], color=style["color"], marker=style["marker"], s=8, alpha=0.5)


def _draw_widths(axis: Any, histories: Mapping[str, KernelHistory], warmup: int) -> None:
    for i, (label, history) in enumerate(histories.items()):
        style = _style(i)
        axis.plot(*zip(*sorted(history.training.items()), strict=True), **{**style, "marker": ""})
        points = {**style, "linestyle": ""}
        axis.plot(*zip(*sorted(history.validation.items()), strict=True), **points)
        axis.plot([], [], label=label.replace("\n", ", "), **style)
    if warmup:
        axis.axvline(warmup, color="0.6", linewidth=0.8, linestyle=":")
        axis.text(warmup, 0, " end of the warm-up", color="0.4", va="bottom")
    axis.set_xlabel("epoch (lines: training patches; markers: validation patches)")
    axis.set_ylabel("mean kernel width,\nRMS radius (pixels)")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)


def _legend(axis: Any, labels: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    axis.clear()
    axis.axis("off")
    handles = [Line2D([], [], label=label, **_style(i)) for i, label in enumerate(labels)]
    axis.legend(handles=handles, loc="center", frameon=False, handlelength=3.5)
