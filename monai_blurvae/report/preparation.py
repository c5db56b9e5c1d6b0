"""``preparation.html``: three planes of each prepared scan with the outline of its brain mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries

from monai_blurvae.data.header import PLANES
from monai_blurvae.files import read_object
from monai_blurvae.handlers.pictures import GAP, LABEL_HEIGHT, Pixels
from monai_blurvae.report.content import Table
from monai_blurvae.report.page import render_page, write_page
from monai_blurvae.report.pictures import Picture, picture, square_pixels

PAGE = "preparation.html"
SECTIONS = [("scans", "Scans"), ("failed", "Failed")]
WHITE_PERCENTILE = 99.5
"""Of the brain, that is shown white."""
OUTLINE = (255, 160, 0)
SMALLEST_PLANE = 240
"""Pixels; smaller planes are enlarged by a whole number, so that the outline stays thin."""


class ShownScan(NamedTuple):
    """A prepared scan.

    Attributes:
        name: of the prepared file.
        about: what its JSON tells.
        picture: its planes.
    """

    name: str
    about: dict[str, Any]
    picture: Picture


def mask_picture(
    head: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8], affine: npt.NDArray[np.float64], warning: str = ""
) -> Pixels:
    """Sagittal, coronal and axial plane through the middle of a mask, with its outline.

    Args:
        head: ``(X, Y, Z)``, axes in RAS order; 0 is black.
        mask: likewise, not 0 in the brain, which there has to be.
        affine: from voxels to RAS millimetres, ``(4, 4)``.
        warning: is written above the planes.

    Returns:
        ``(height, width, 3)``; left is left of the body.
    """
    sizes = np.sqrt(np.square(affine[:3, :3]).sum(0))
    brain = mask > 0
    white = max(float(np.percentile(head[brain], WHITE_PERCENTILE)), float(np.finfo(np.float32).tiny))
    planes = []
    for axis in range(3):
        others = tuple(i for i in range(3) if i != axis)
        profile = brain.sum(others)
        middle = round(float((profile * np.arange(len(profile))).sum() / profile.sum()))
        across, up = (float(sizes[i]) for i in others)
        grey = (np.rot90(np.take(head, middle, axis)) / white * 255).clip(0, 255).round().astype(np.uint8)
        outlined = np.rot90(np.take(mask, middle, axis))
        planes.append(_outlined(square_pixels(grey, across, up), square_pixels(outlined, across, up)))
    return _in_a_row(planes, warning)


def write_preparation_page(folder: Path, failed: Sequence[tuple[str, str]]) -> Path:
    """Write the page of all scans that were prepared in a folder, whole or not at all.

    Args:
        folder: of the results.
        failed: name of each scan that could not be prepared, and why.

    Returns:
        The page.

    Raises:
        RunFolderError: if it cannot be written, or a JSON in the folder is damaged.
    """
    found = sorted(folder.glob("sub-*/**/*_desc-preproc_*.json"))
    scans = [_shown(about) for about in found if _picture_file(about).is_file()]  # another program's have none
    html = render_page(
        "preparation.html.jinja",
        "Prepared scans",
        SECTIONS,
        folder.name,
        subtitle=f"{len(scans)} prepared, {len(failed)} failed",
        scans=scans,
        facts=Table(("file", "brain mask", "brain (ml)", "voxel size (mm)"), [_row(scan) for scan in scans]),
        failed=Table(("scan", "why"), failed),
    )
    return write_page(folder / PAGE, html)


def _shown(about: Path) -> ShownScan:
    stem = about.name.removesuffix(".json")
    with Image.open(_picture_file(about)) as image:
        pixels = np.asarray(image.convert("RGB"))
    planes = ", ".join(PLANES)
    return ShownScan(stem, read_object(about), picture(pixels, f"{planes} plane of {stem}, outline of its brain mask"))


def _picture_file(about: Path) -> Path:
    return about.with_name(about.name.replace("_desc-preproc_", "_desc-brain_")).with_suffix(".png")


def _row(scan: ShownScan) -> tuple[str, ...]:
    settings = scan.about.get("settings", {})
    spacing = settings.get("spacing")
    return (
        scan.name,
        settings.get("mask") or "by the template, approximate",
        str(scan.about.get("brain_ml", "–")),
        "the scan's" if spacing is None else "×".join(f"{size:g}" for size in spacing),
    )


def _outlined(grey: Pixels, mask: Pixels) -> Pixels:
    scale = max(1, round(SMALLEST_PLANE / max(grey.shape)))
    grey, mask = (plane.repeat(scale, 0).repeat(scale, 1) for plane in (grey, mask))
    coloured = np.stack([grey] * 3, -1)
    coloured[find_boundaries(mask > 0, mode="inner")] = OUTLINE
    return coloured


def _in_a_row(planes: Sequence[Pixels], warning: str) -> Pixels:
    top = LABEL_HEIGHT if warning else 0
    width, height = sum(plane.shape[1] + GAP for plane in planes) - GAP, max(plane.shape[0] for plane in planes)
    canvas = Image.new("RGB", (width, top + height))
    pen = ImageDraw.Draw(canvas)
    pen.text((GAP, 3), warning, fill=OUTLINE, font=ImageFont.load_default(size=14))
    x = 0
    for plane in planes:
        canvas.paste(Image.fromarray(plane), (x, top + (height - plane.shape[0]) // 2))
        x += plane.shape[1] + GAP
    return np.asarray(canvas)
