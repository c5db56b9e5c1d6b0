"""Reconstructions beside each other with their errors, and PSNR over the steps. Drawn where matplotlib is installed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from monai_blurvae.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.float32]
INCHES = 1.8
"""Width of an image."""
ERROR_RANGE = 0.2
"""Of the error maps, where the 99th percentile of the volume is 1."""


def write_reconstructions(path: Path, title: str, reference: Pixels, images: Mapping[str, Pixels]) -> bool:
    """A row of magnitudes, the fully sampled one first, over a row of absolute errors.

    Args:
        path: of the PNG.
        title: over all.
        reference: magnitude, ``(H, W)``.
        images: the same by the method's label.

    Returns:
        Whether it was drawn: not without matplotlib.
    """
    if not _can_draw():
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(INCHES * (len(images) + 1), 2 * INCHES + 0.6), layout="constrained")
    axes = figure.subplots(2, len(images) + 1)
    white = float(reference.max())
    for column, (label, pixels) in enumerate({"fully sampled": reference, **images}.items()):
        axes[0, column].imshow(np.rot90(pixels), cmap="gray", vmin=0, vmax=white)
        axes[0, column].set_title(label, fontsize=8)
        error = np.abs(pixels - reference)
        drawn = axes[1, column].imshow(np.rot90(error), cmap="inferno", vmin=0, vmax=ERROR_RANGE)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.colorbar(drawn, ax=axes[1, -1], label="|error|", fraction=0.046)
    figure.suptitle(title, fontsize=9)
    _save(figure, path)
    return True


def write_convergence(path: Path, title: str, curves: Mapping[str, Sequence[float]]) -> bool:
    """PSNR over the steps of each method that has some.

    Args:
        path: of the PNG.
        title: over all.
        curves: dB after each step by the method's label.

    Returns:
        Whether it was drawn: not without matplotlib.
    """
    if not _can_draw():
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    for label, curve in curves.items():
        axis.plot(range(1, len(curve) + 1), curve, label=label)
    axis.set_xlabel("step of the splitting, or block of DDP")
    axis.set_ylabel("PSNR (dB)")
    axis.set_title(title, fontsize=9)
    axis.legend(fontsize=8)
    _save(figure, path)
    return True


def _can_draw() -> bool:
    if find_spec("matplotlib") is None:
        logger.warning("Figures need matplotlib, which is not installed; run pip install 'monai-blurvae[study]'.")
        return False
    return True


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
