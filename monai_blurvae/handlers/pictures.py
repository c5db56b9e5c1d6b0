"""Grids of images, reconstructions, kernels and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from monai_blurvae.files import replacing
from monai_blurvae.metrics.measures import LIKELIHOODS

Pixels = npt.NDArray[np.uint8]
GAP = 4
LABEL_HEIGHT = 22
LARGEST_SCALE = 3


class FigureRow(NamedTuple):
    """A row of a figure.

    Attributes:
        label: written above it.
        images: ``(N, C, H, W)`` in [0, 1]; the first three channels are drawn as red, green and blue, of one or two
            channels the first in grey.
    """

    label: str
    images: Tensor


def reconstruction_figure(
    images: Tensor,
    reconstructions: Tensor,
    kernels: Tensor,
    samples: Tensor,
    title: str = "",
    quarter_turns: int = 0,
    draws: Mapping[str, Tensor] | None = None,
) -> Pixels:
    """Rows of inputs, reconstructions, images drawn around them, absolute errors, blur kernels and samples.

    Args:
        images: ``(N, C, H, W)`` in [0, 1], see :class:`FigureRow`; the errors are those of each channel, in its colour.
        reconstructions: likewise.
        kernels: ``(N, 1, k, k)``, each drawn relative to its own maximum.
        samples: drawn from the prior, like ``images``.
        title: first line.
        quarter_turns: rotate every picture; 1 puts anterior or superior on top of slices of RAS volumes.
        draws: from p(x|z) around the reconstructions, by the name of the density; a picture clips them to [0, 1].

    Returns:
        ``(height, width, 3)``.
    """
    error = (images - reconstructions).abs() * 2
    size = images.shape[-1]
    rows = [
        FigureRow("input", images),
        FigureRow("reconstruction: the mean (from the posterior mean)", reconstructions),
        *_drawn_rows("reconstruction", draws),
        FigureRow("absolute error of the mean, doubled", error),
        FigureRow(
            f"blur kernel ({kernels.shape[-2]} x {kernels.shape[-1]}, each relative to its maximum)",
            scale_kernels(kernels, size),
        ),
        FigureRow("sample: the mean (of a latent from the prior)", samples),
    ]
    return draw_rows(rows, title, quarter_turns)


def sample_figure(
    images: Tensor, samples: Tensor, draws: Mapping[str, Tensor], title: str = "", quarter_turns: int = 0
) -> Pixels:
    """Rows of real images to compare with, the means of latents from the prior, and images drawn around these means.

    Args:
        images: ``(N, C, H, W)`` in [0, 1], see :class:`FigureRow`.
        samples: likewise, of no image.
        draws: from p(x|z) around the samples, by the name of the density; a picture clips them to [0, 1].
        title: first line.
        quarter_turns: as in :func:`reconstruction_figure`.

    Returns:
        ``(height, width, 3)``.
    """
    rows = [
        FigureRow("real images, to compare with", images),
        FigureRow("sample: the mean (of a latent from the prior)", samples),
        *_drawn_rows("sample", draws),
    ]
    return draw_rows(rows, title, quarter_turns)


def _drawn_rows(of: str, draws: Mapping[str, Tensor] | None) -> list[FigureRow]:
    return [
        FigureRow(f"{of}: drawn around that mean, {LIKELIHOODS[name][0]}", images)
        for name, images in (draws or {}).items()
    ]


def section(images: Tensor) -> Tensor:
    """What a picture shows of images or kernels.

    Args:
        images: ``(N, C, H, W)``, or cubes ``(N, C, X, Y, Z)``.

    Returns:
        ``(N, C, H, W)``, of cubes the slice through the middle across the second axis, which is coronal in RAS order.
    """
    return images if images.ndim == 4 else images.select(3, images.shape[3] // 2)


def scale_kernels(kernels: Tensor, size: int) -> Tensor:
    """Kernels relative to their maximum, enlarged to about ``size`` pixels by repetition, ``(N, 1, size, size)``."""
    peak = kernels.flatten(1).amax(1).clamp_min(torch.finfo(kernels.dtype).tiny)
    relative = (kernels / peak[:, None, None, None]).clamp(0, 1)
    return torch.nn.functional.interpolate(relative, size=(size, size), mode="nearest")


def draw_rows(rows: Sequence[FigureRow], title: str = "", quarter_turns: int = 0) -> Pixels:
    """Put labelled rows of images of one size under each other."""
    rows = [FigureRow(row.label, torch.rot90(row.images, quarter_turns, (-2, -1))) for row in rows]
    height, width = rows[0].images.shape[-2:]
    columns = max(len(row.images) for row in rows)
    scale = max(1, min(LARGEST_SCALE, 1200 // (columns * width)))
    cell_h, cell_w = height * scale + GAP, width * scale + GAP
    top = LABEL_HEIGHT if title else 0
    canvas = Image.new("RGB", (columns * cell_w + GAP, top + len(rows) * (cell_h + LABEL_HEIGHT)), "white")
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=14)
    pen.text((GAP, 3), title, fill="black", font=font)
    for i, row in enumerate(rows):
        y = top + i * (cell_h + LABEL_HEIGHT)
        pen.text((GAP, y + 3), row.label, fill="black", font=font)
        for j, image in enumerate(row.images):
            picture = Image.fromarray(_pixels(image)).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            canvas.paste(picture, (GAP + j * cell_w, y + LABEL_HEIGHT))
    return np.asarray(canvas)


def save_figure(pixels: Pixels, path: str | Path) -> None:
    """Write a PNG, whole or not at all."""
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def _pixels(image: Tensor) -> Pixels:
    values = (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    channels = values[:3] if len(values) >= 3 else values[:1].expand(3, -1, -1)
    pixels: Pixels = channels.permute(1, 2, 0).contiguous().numpy()
    return pixels
