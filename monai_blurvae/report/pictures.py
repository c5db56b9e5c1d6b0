"""Images, error maps and kernels as pictures inside of the document."""

from __future__ import annotations

import base64
import io
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from monai_blurvae.handlers.pictures import LABEL_HEIGHT, Pixels

LARGEST_PNG = 60_000
"""Bytes from which on a picture is a JPEG instead, so that a report of large photographs stays a few megabytes. Images
of 128×128 pixels and less are below, and shown exactly."""
JPEG_QUALITY = 90

ERROR_PERCENTILE = 99.5
"""Of the absolute errors, which the colours reach to; single pixels beyond have the last colour."""
SIGNED_COLOURS, ABSOLUTE_COLOURS = "RdBu_r", "viridis"
"""Matplotlib's colour maps that colour-blind people read too."""


SIGNED_MEANING = "reconstruction minus image; red is too bright, blue too dark"


class Picture(NamedTuple):
    """An image of the document.

    Attributes:
        uri: its content.
        width: in pixels.
        height: in pixels.
        description: for those who do not see it.
        caption: below it; empty for none.
    """

    uri: str
    width: int
    height: int
    description: str
    caption: str = ""


class ErrorMaps(NamedTuple):
    """Errors, or other values, of the examples in one scale of colours.

    Attributes:
        maps: one for each example, ``(N, H, W, 3)``.
        bar: of all colours, from the smallest to the largest value, ``(1, 256, 3)``.
        low: value of the first colour.
        high: of the last one.
        meaning: in words.
    """

    maps: Pixels
    bar: Pixels
    low: float
    high: float
    meaning: str


def picture(pixels: Pixels, description: str, caption: str = "") -> Picture:
    """Embed an image.

    Args:
        pixels: ``(H, W)`` or ``(H, W, 3)``.
        description: for those who do not see it.
        caption: below it.
    """
    return Picture(_data_uri(pixels), pixels.shape[1], pixels.shape[0], description, caption)


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


def error_maps(images: Pixels, reconstructions: Pixels, quarter_turns: int) -> ErrorMaps:
    """Errors in colours: reconstruction minus image for one channel, else the root mean square over the channels.

    Args:
        images: ``(N, C, H, W)``, 255 is 1.
        reconstructions: likewise.
        quarter_turns: by which the maps are rotated.

    Raises:
        ImportError: without matplotlib, which holds the colours.
    """
    difference = (reconstructions.astype(float) - images) / 255
    signed = images.shape[1] == 1
    error = difference[:, 0] if signed else np.sqrt((difference**2).mean(1))
    meaning = SIGNED_MEANING if signed else "root mean square over the channels"
    return coloured(error, signed, quarter_turns, meaning)


def coloured(
    values: npt.NDArray[np.float64], signed: bool, quarter_turns: int, meaning: str, step: float = 0.05
) -> ErrorMaps:
    """Values in colours, from 0 or its negative to :data:`ERROR_PERCENTILE`, rounded up.

    Args:
        values: ``(N, H, W)``.
        signed: whether they may be negative.
        quarter_turns: by which the maps are rotated.
        meaning: in words.
        step: of which the limit is a multiple.

    Raises:
        ImportError: without matplotlib, which holds the colours.
    """
    from matplotlib import colormaps

    limit = _round_up(float(np.percentile(np.abs(values), ERROR_PERCENTILE)), step)
    low = -limit if signed else 0.0
    colours = colormaps[SIGNED_COLOURS if signed else ABSOLUTE_COLOURS]
    turned = np.rot90(values, quarter_turns, (-2, -1))
    return ErrorMaps(
        colours((turned - low) / (limit - low), bytes=True)[..., :3],
        colours(np.linspace(0, 1, 256)[None], bytes=True)[..., :3],
        low,
        limit,
        meaning,
    )


def grey_pixels(images: npt.NDArray[np.float64], white: float, quarter_turns: int) -> Pixels:
    """Images ``(N, H, W)`` from 0, black, to ``white``, rotated."""
    return np.rot90((images / white).clip(0, 1) * 255, quarter_turns, (-2, -1)).round().astype(np.uint8)


def kernel_pixels(kernel: npt.NDArray[np.float64], quarter_turns: int) -> Pixels:
    """A kernel ``(k, k)`` relative to its maximum, negative values black."""
    relative = kernel / max(float(kernel.max()), np.finfo(float).tiny)
    return np.rot90((relative.clip(0, 1) * 255).round().astype(np.uint8), quarter_turns)


def strips(encoded: bytes, count: int) -> list[Pixels]:
    """The rows of a figure that :func:`~monai_blurvae.handlers.pictures.draw_rows` drew, without their labels.

    Args:
        encoded: the figure, which has no title.
        count: of its rows.

    Returns:
        ``(H, W)`` for grey images, else ``(H, W, 3)``.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        pixels = np.asarray(image.convert("RGB"))
    height = pixels.shape[0] // count
    return [_grey_if_it_is(pixels[i * height + LABEL_HEIGHT : (i + 1) * height]) for i in range(count)]


def _grey_if_it_is(pixels: Pixels) -> Pixels:
    return pixels[..., 0] if (pixels == pixels[..., :1]).all() else pixels


def _round_up(value: float, step: float) -> float:
    """To the next multiple, which reads well beside a bar of colours."""
    return max(1, math.ceil(round(value / step, 6))) * step


def _data_uri(pixels: Pixels) -> str:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    content = _encoded(image, "PNG")
    if len(content) <= LARGEST_PNG:
        return _uri("png", content)
    return _uri("jpeg", _encoded(image, "JPEG", quality=JPEG_QUALITY))


def _encoded(image: Image.Image, kind: str, **options: int | bool) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
