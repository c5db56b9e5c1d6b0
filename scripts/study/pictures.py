"""The images that figures show of each cell, kept when it is measured, and the figures that are grids of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from monai_blurvae.data.facts import evenly_spread
from monai_blurvae.files import replacing
from monai_blurvae.handlers.pictures import Pixels
from monai_blurvae.metrics import to_unit_range
from monai_blurvae.networks import LatentImageModel
from monai_blurvae.seeding import torch_rng
from study.figures import text_font

COUNT = 8
"""Reconstructions and samples that are kept of a cell; of the images twice as many."""

SPECTRUM_IMAGES = 128
"""Images whose spectra are averaged, as many as in the paper's Figure 6."""

SPECTRUM_FLOOR = 1e-4
"""Smallest magnitude that a logarithm is taken of, about that of rounding to 8 bits."""

SMALLEST_SIDE = 96
"""Pixels of a picture in a grid, to which smaller images are enlarged by repetition."""

GAP, HEADER, LABELS, FONT = 3, 26, 190, 14


class CellPictures(NamedTuple):
    """What figures show of a cell; all upright.

    Attributes:
        images: evenly spread over the split, ``(N, H, W, C)``; the first of them are reconstructed.
        reconstructions: from the posterior mean.
        samples: of the same latents for every cell of one latent size.
        spectra: mean log₁₀ magnitude of the DFT of images, reconstructions and samples, ``(3, H, W)``, frequency 0 in
            the middle.
    """

    images: Pixels
    reconstructions: Pixels
    samples: Pixels
    spectra: npt.NDArray[np.float32]


class GridRow(NamedTuple):
    """A row of a grid.

    Attributes:
        label: its lines of text.
        left: pictures ``(N, H, W, C)`` of the left half.
        right: likewise of the right half.
    """

    label: str
    left: Pixels
    right: Pixels


@torch.no_grad()
def make_pictures(
    network: LatentImageModel, images: Tensor, reconstructions: Tensor, quarter_turns: int
) -> CellPictures:
    """The pictures of a cell.

    Args:
        network: its model.
        images: of the split, in [−1, 1], ``(N, C, H, W)``.
        reconstructions: of them.
        quarter_turns: by which pictures are rotated to be upright.
    """
    order = evenly_spread(len(images), 2 * COUNT)
    shown = [*order[::2], *order[1::2]]
    samples = network.sample(max(COUNT, min(SPECTRUM_IMAGES, len(images))), torch_rng(0, "pictures")).cpu()
    some = evenly_spread(len(images), SPECTRUM_IMAGES)
    spectra = torch.stack([_mean_log_spectrum(x) for x in (images[some], reconstructions[some], samples)])
    return CellPictures(
        _pixels(images[shown], quarter_turns),
        _pixels(reconstructions[order[::2]], quarter_turns),
        _pixels(samples[:COUNT], quarter_turns),
        spectra.float().numpy(),
    )


def save_pictures(pictures: CellPictures, path: Path) -> None:
    """Write the pictures, whole or not at all."""
    with replacing(path) as temporary, Path(temporary).open("wb") as handle:
        np.savez_compressed(handle, **pictures._asdict())


def load_pictures(path: Path) -> CellPictures:
    """Read what :func:`save_pictures` wrote."""
    with np.load(path) as content:
        return CellPictures(*(content[name] for name in CellPictures._fields))


def draw_grid(rows: Sequence[GridRow], headers: tuple[str, str], title: str) -> Pixels:
    """Rows of pictures in two halves, with their labels to the left.

    Args:
        rows: from top to bottom, of pictures of one size.
        headers: above the two halves.
        title: first line.

    Returns:
        ``(height, width, 3)``.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    side = max(rows[0].left.shape[1:3])
    scale = -(-SMALLEST_SIDE // side)
    high, wide = (n * scale + GAP for n in rows[0].left.shape[1:3])
    columns = ([row.left for row in rows], [row.right for row in rows])
    halves = [max(map(len, column)) for column in columns]
    starts = (LABELS, LABELS + halves[0] * wide + 4 * GAP)
    canvas = Image.new("RGB", (starts[1] + halves[1] * wide, 2 * HEADER + len(rows) * high), "white")
    pen, font = ImageDraw.Draw(canvas), text_font(FONT)
    pen.text((GAP, 4), title, fill="black", font=font)
    for text, x in zip(headers, starts, strict=True):
        pen.text((x, HEADER + 4), text, fill="black", font=font)
    for i, row in enumerate(rows):
        y = 2 * HEADER + i * high
        pen.multiline_text((GAP, y + high // 2), row.label, fill="black", font=font, anchor="lm", spacing=4)
        for half, start in zip((row.left, row.right), starts, strict=True):
            for j, picture in enumerate(half):
                enlarged = np.kron(picture, np.ones((scale, scale, 1), np.uint8))
                colour = np.broadcast_to(enlarged, (*enlarged.shape[:2], 3))
                canvas.paste(Image.fromarray(np.ascontiguousarray(colour)), (start + j * wide, y))
    return np.asarray(canvas)


def _mean_log_spectrum(images: Tensor) -> Tensor:
    """Mean over images and channels of log₁₀ |DFT|, ``(H, W)``, frequency 0 in the middle."""
    axes = tuple(range(2, images.ndim))
    magnitude = torch.fft.fftn(images.double(), dim=axes, norm="ortho").abs().clamp_min(SPECTRUM_FLOOR)
    return torch.fft.fftshift(magnitude.log10().mean((0, 1)))


def _pixels(images: Tensor, quarter_turns: int) -> Pixels:
    """``(N, H, W, C)`` of one or three channels."""
    channels = images[:, : 3 if images.shape[1] >= 3 else 1]
    turned = torch.rot90(to_unit_range(channels).clamp(0, 1), quarter_turns, (-2, -1))
    pixels: Pixels = (turned * 255).round().to(torch.uint8).movedim(1, -1).contiguous().numpy()
    return pixels
