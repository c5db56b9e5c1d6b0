"""``…_report.html`` of one reconstructed volume: three planes, errors on top of the scan, the most unusual regions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import avg_pool3d

from monai_blurvae.data.header import PLANES
from monai_blurvae.report.charts import need_matplotlib
from monai_blurvae.report.content import Table
from monai_blurvae.report.figures import ColourBar, Example
from monai_blurvae.report.page import render_page, write_page
from monai_blurvae.report.pictures import ERROR_PERCENTILE, SIGNED_COLOURS, Picture, picture, square_pixels

Volume = npt.NDArray[np.float32]

SECTIONS = (("planes", "Three planes"), ("regions", "The most unusual regions"))
LOG_PROB = "−log p, nats per pixel"
REGION_MM = 8.0
"""Side of the cubes whose mean squared error is compared: a few millimetres are a lesion, single voxels are noise."""
REGIONS = 5
CORONAL = 1
"""The plane that shows a region where cubes were reconstructed."""
CROP_MM = 24.0
"""From the centre of a region to the border of its pictures."""
GREY_PERCENTILES = (1.0, 99.5)
LARGEST_OPACITY = 0.85
ENOUGH = 1_000_000
"""Voxels that percentiles are taken of."""
VISIBLE = 0.02
"""Share of the brightest intensities from which on a voxel counts to the object, whose middle the planes go through."""


class VolumeResults(NamedTuple):
    """What a page shows.

    Attributes:
        name: of the volume.
        affine: from voxels to RAS millimetres, ``(4, 4)``.
        scan: in its units, ``(X, Y, Z)``.
        reconstruction: likewise.
        error: reconstruction − scan.
        neg_log_prob: −log p of each pixel, in nats; None without a likelihood.
        slice_axis: 0, 1 or 2 for the sagittal, coronal or axial slices that were reconstructed, None for cubes.
    """

    name: str
    affine: npt.NDArray[np.float64]
    scan: Volume
    reconstruction: Volume
    error: Volume
    neg_log_prob: Volume | None
    slice_axis: int | None


class Region(NamedTuple):
    """A cube of the volume.

    Attributes:
        centre: its middle voxel in RAS order.
        rms_error: root of the mean squared error, in units of the scan.
        mean_error: mean of the signed error.
        neg_log_prob: mean of −log p in nats per pixel; None without a likelihood.
    """

    centre: tuple[int, int, int]
    rms_error: float
    mean_error: float
    neg_log_prob: float | None


class _Canonical(NamedTuple):
    """The volumes in RAS order."""

    affine: npt.NDArray[np.float64]
    voxel_size: npt.NDArray[np.float64]
    scan: Volume
    reconstruction: Volume
    error: Volume
    neg_log_prob: Volume | None


def write_volume_page(path: Path, results: VolumeResults) -> None:
    """Write the page of a volume, one file that needs nothing else, whole or not at all.

    Args:
        path: of the page.
        results: what it shows.

    Raises:
        ImportError: without matplotlib, naming the extra.
        RunFolderError: if it cannot be written.
    """
    need_matplotlib()
    shown = _canonical(results)
    painter = _Painter(shown)
    regions = unusual_regions(shown.error, shown.neg_log_prob, shown.voxel_size)
    to_voxel = np.linalg.inv(results.affine) @ shown.affine
    plane = CORONAL if results.slice_axis is None else results.slice_axis
    html = render_page(
        "volume.html.jinja",
        results.name,
        list(SECTIONS),
        results.name,
        subtitle="A scan, its reconstruction by a variational autoencoder, and where they differ",
        facts=_facts(results, shown),
        bar=ColourBar(
            f"−{painter.limit:.4g}", f"{painter.limit:.4g}", "red is too bright, blue too dark", painter.bar()
        ),
        planes=[Example(PLANES[axis], painter.row(axis, _middle(shown))) for axis in range(3)],
        regions=Table(
            ("region", "R, A, S in mm", "voxel of the file", "root mean square error", "mean error", LOG_PROB),
            [(str(i), *_region_row(region, shown, to_voxel)) for i, region in enumerate(regions, 1)],
        ),
        crops=[
            Example(f"region {i}", painter.row(plane, region.centre, CROP_MM)) for i, region in enumerate(regions, 1)
        ],
    )
    write_page(path, html)


def unusual_regions(
    error: Volume, neg_log_prob: Volume | None, voxel_size: Sequence[float] | npt.NDArray[np.float64]
) -> list[Region]:
    """The cubes with the largest mean squared error, apart from each other; under one variance the least likely ones.

    Args:
        error: ``(X, Y, Z)``; NaN counts as 0.
        neg_log_prob: likewise.
        voxel_size: in mm.
    """
    sides = [max(1, min(n, round(REGION_MM / size))) for n, size in zip(error.shape, voxel_size, strict=True)]
    steps = [max(1, side // 2) for side in sides]

    def means(volume: Volume) -> npt.NDArray[np.float32]:
        tensor = torch.from_numpy(np.nan_to_num(volume, nan=0.0, posinf=0.0, neginf=0.0))[None, None]
        return avg_pool3d(tensor, sides, steps)[0, 0].numpy()

    squares = means(np.square(error))
    signed = means(error)
    surprise = None if neg_log_prob is None else means(neg_log_prob)
    left = squares.copy()
    found: list[Region] = []
    while len(found) < REGIONS and left.max() > 0:
        place = np.unravel_index(int(left.argmax()), left.shape)
        x, y, z = (int(i) * step + side // 2 for i, step, side in zip(place, steps, sides, strict=True))
        likely = None if surprise is None else float(surprise[place])
        found.append(Region((x, y, z), float(np.sqrt(squares[place])), float(signed[place]), likely))
        left[tuple(slice(max(0, int(i) - 2), int(i) + 3) for i in place)] = 0  # cubes that overlap it
    return found


class _Painter:
    """Cuts planes out of the volumes, in one scale of greys and one of colours."""

    def __init__(self, shown: _Canonical) -> None:
        from matplotlib import colormaps

        self.shown = shown
        self.colours = colormaps[SIGNED_COLOURS]
        self.low, self.high = (float(v) for v in np.nanpercentile(_thinned(shown.scan), GREY_PERCENTILES))
        magnitude = np.abs(_thinned(shown.error))
        self.limit = max(float(np.nanpercentile(magnitude, ERROR_PERCENTILE)), float(np.finfo(np.float32).tiny))

    def row(self, axis: int, centre: Sequence[int], reach: float | None = None) -> list[Picture]:
        """Scan, reconstruction, and scan with the error on top of it, of the plane through a voxel.

        Args:
            axis: across the plane.
            centre: voxel in RAS order.
            reach: in mm from the voxel to the border; None for the whole plane.
        """
        scan, reconstruction, error = (
            self._plane(volume, axis, centre, reach)
            for volume in (self.shown.scan, self.shown.reconstruction, self.shown.error)
        )
        grey = self._grey(scan)
        of = f"{PLANES[axis]} plane"
        return [
            self._picture(grey, axis, f"scan, {of}", "scan"),
            self._picture(self._grey(reconstruction), axis, f"reconstruction, {of}", "reconstruction"),
            self._picture(self._overlay(grey, error), axis, f"error on the scan, {of}", "error on the scan"),
        ]

    def bar(self) -> Picture:
        """All colours of the errors."""
        return picture(self.colours(np.linspace(0, 1, 256)[None], bytes=True)[..., :3], "colours of the errors")

    def _plane(self, volume: Volume, axis: int, centre: Sequence[int], reach: float | None) -> Volume:
        cut: list[Any] = [slice(None)] * 3
        for i in range(3):
            if i == axis:
                cut[i] = centre[i]
            elif reach is not None:
                half = max(1, round(reach / self.shown.voxel_size[i]))
                cut[i] = slice(max(0, centre[i] - half), centre[i] + half + 1)
        return np.rot90(np.nan_to_num(volume[tuple(cut)]))  # anterior or superior on top

    def _grey(self, plane: Volume) -> npt.NDArray[np.uint8]:
        scaled = (plane - self.low) / max(self.high - self.low, np.finfo(np.float32).tiny)
        return np.asarray(scaled.clip(0, 1) * 255).round().astype(np.uint8)

    def _overlay(self, grey: npt.NDArray[np.uint8], error: Volume) -> npt.NDArray[np.uint8]:
        relative = (error / self.limit).clip(-1, 1)
        opacity = LARGEST_OPACITY * np.abs(relative)[..., None]
        coloured = self.colours((relative + 1) / 2)[..., :3] * 255
        return np.asarray((1 - opacity) * grey[..., None] + opacity * coloured).round().astype(np.uint8)

    def _picture(self, pixels: npt.NDArray[np.uint8], axis: int, description: str, caption: str) -> Picture:
        """With square pixels, as anatomy is seen."""
        across, up = (self.shown.voxel_size[i] for i in range(3) if i != axis)
        return picture(square_pixels(pixels, across, up), description, caption)


def _canonical(results: VolumeResults) -> _Canonical:
    orientation = nib.io_orientation(results.affine)
    to_ras = nib.orientations.inv_ornt_aff(orientation, results.scan.shape)

    def turned(volume: Volume) -> Volume:
        return np.asarray(nib.apply_orientation(volume, orientation))  # a view, for volumes are large

    affine = results.affine @ to_ras
    surprise = None if results.neg_log_prob is None else turned(results.neg_log_prob)
    return _Canonical(
        affine,
        np.sqrt(np.square(affine[:3, :3]).sum(0)),
        turned(results.scan),
        turned(results.reconstruction),
        turned(results.error),
        surprise,
    )


def _thinned(volume: Volume) -> Volume:
    """Every so many voxels along each axis, enough for a percentile."""
    step = max(1, round((volume.size / ENOUGH) ** (1 / 3)))
    return volume[::step, ::step, ::step]


def _middle(shown: _Canonical) -> tuple[int, int, int]:
    """The middle of what is brighter than the background."""
    low, high = np.nanpercentile(_thinned(shown.scan), GREY_PERCENTILES)
    visible = shown.scan > low + VISIBLE * (high - low)
    if not visible.any():
        visible[:] = True
    centre = []
    for axis in range(3):
        profile = visible.sum(tuple(i for i in range(3) if i != axis))
        centre.append(round(float((profile * np.arange(len(profile))).sum() / profile.sum())))
    return centre[0], centre[1], centre[2]


def _facts(results: VolumeResults, shown: _Canonical) -> list[tuple[str, str]]:
    error = shown.error
    facts = [
        ("voxels", "×".join(str(n) for n in results.scan.shape)),
        ("voxel size, RAS", "×".join(f"{size:.3g}" for size in shown.voxel_size) + " mm"),
        ("patches", "cubes" if results.slice_axis is None else f"of {PLANES[results.slice_axis]} slices"),
        ("root mean square error", f"{float(np.sqrt(np.nanmean(np.square(error), dtype=np.float64))):.4g}"),
        ("mean error", f"{float(np.nanmean(error, dtype=np.float64)):.4g}"),
    ]
    if shown.neg_log_prob is not None:
        mean = float(np.nanmean(shown.neg_log_prob, dtype=np.float64))
        facts.append(("mean −log p", f"{mean:.4g} nats per pixel"))
    return facts


def _region_row(region: Region, shown: _Canonical, to_voxel: npt.NDArray[np.float64]) -> tuple[str, ...]:
    """Cells: place in mm, voxel of the file, errors, −log p."""
    place = np.array([*region.centre, 1.0])
    millimetres = (shown.affine @ place)[:3]
    voxel = np.rint((to_voxel @ place)[:3]).astype(int)
    return (
        ", ".join(f"{value:.1f}" for value in millimetres),
        ", ".join(str(value) for value in voxel),
        f"{region.rms_error:.4g}",
        f"{region.mean_error:.4g}",
        "–" if region.neg_log_prob is None else f"{region.neg_log_prob:.4g}",
    )
