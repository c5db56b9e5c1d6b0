"""Folders with one DICOM series, the volume as the scanner wrote it.

GDCM, inside SimpleITK, takes orientations as they are; readers on pydicom refuse values longer than the standard's
sixteen characters, which scanners write.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from monai_blurvae.data.itk import LPS_TO_RAS, affine_of, reason_of, voxel_type
from monai_blurvae.errors import DataError

POSITION = "0020|0032"
SPACING_TOLERANCE = 0.01
"""Share of the distance of two slices by which another distance may differ, and a step lean from the normal."""


class SliceHeader(NamedTuple):
    """What one file of a series tells.

    Attributes:
        size: number of voxels along x, y and z.
        affine: to RAS millimetres.
        position: of the first voxel in LPS millimetres, if the file tells it.
        dtype: of the voxels.
    """

    size: tuple[int, ...]
    affine: npt.NDArray[np.float64]
    position: tuple[float, ...] | None
    dtype: np.dtype[Any]


def holds_dicom(folder: Path) -> bool:
    """Whether DICOM files lie directly in a folder: by their suffix, or by the mark at byte 128 of the first few."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    return any(path.suffix.lower() in (".dcm", ".ima") for path in files) or any(map(_has_mark, files[:8]))


def series_files(folder: Path) -> list[str]:
    """The files of a folder's one series, sorted along the slices' normal.

    Args:
        folder: with the files, and maybe others that are no DICOM.

    Raises:
        DataError: unless it holds exactly one series.
    """
    reader = sitk.ImageSeriesReader
    try:
        found = {uid: reader.GetGDCMSeriesFileNames(str(folder), uid) for uid in reader.GetGDCMSeriesIDs(str(folder))}
    except RuntimeError as error:
        raise DataError(f"{folder} cannot be read as a DICOM series ({reason_of(error)}); copy it again.") from error
    if not found:
        raise DataError(f"{folder} is a folder without a DICOM series; give a file, or the folder with the slices.")
    if len(found) > 1:
        counts = ", ".join(f"{len(files)} files of {uid}" for uid, files in found.items())
        raise DataError(
            f"{folder} holds {len(found)} DICOM series, where one is expected ({counts}); move each into a folder of "
            "its own."
        )
    return list(next(iter(found.values())))


def slice_headers(folder: Path) -> list[SliceHeader]:
    """The headers of the series in a folder, in its order, without voxels.

    Raises:
        DataError: if a file cannot be read, or the files are not of one size and type.
    """
    headers = [_slice_header(name) for name in series_files(folder)]
    for what, values in (("size", {h.size for h in headers}), ("type", {h.dtype for h in headers})):
        if len(values) > 1:
            raise DataError(
                f"{folder} has slices of more than one {what}, {' and '.join(sorted(map(str, values)))}; keep those of "
                "one volume."
            )
    return headers


def series_affine(folder: Path, headers: list[SliceHeader]) -> npt.NDArray[np.float64]:
    """From voxels (x, y, slice, 1) to RAS millimetres.

    Args:
        folder: for the messages.
        headers: of the series, in its order.

    Raises:
        DataError: if slices are missing, double, unequally far apart, turned against each other, or stacked askew.
    """
    affine = headers[0].affine.copy()
    if len(headers) == 1:
        return affine
    positions = [header.position for header in headers if header.position is not None]
    if len(positions) < len(headers):
        raise DataError(f"{folder} has slices that do not tell their position; convert the series with dcm2niix.")
    if any(not np.allclose(header.affine[:3, :3], affine[:3, :3], atol=1e-3) for header in headers):
        raise DataError(f"{folder} has slices of more than one orientation; keep those of one volume.")
    steps = np.diff(np.array(positions), axis=0) @ LPS_TO_RAS[:3, :3]
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    along = steps @ (normal / np.linalg.norm(normal))
    _check_distances(folder, along)
    step = steps.mean(0)
    if np.linalg.norm(step - normal / np.linalg.norm(normal) * along.mean()) > SPACING_TOLERANCE * abs(along.mean()):
        raise DataError(
            f"{folder} has slices that are not stacked along their normal (a tilted gantry); convert the series with "
            "dcm2niix, which straightens it."
        )
    affine[:3, 2] = step
    return affine


def _check_distances(folder: Path, along: npt.NDArray[np.float64]) -> None:
    """Refuse slices that are double, missing or unequally far apart; distances are signed, in mm."""
    usual = float(np.median(along))
    if abs(usual) < 1e-6 or (np.abs(along) < 1e-3 * abs(usual)).any():
        raise DataError(f"{folder} has two slices at one position, of {len(along) + 1}; keep those of one volume.")
    ratios = along / usual
    if (np.abs(ratios - 1) <= SPACING_TOLERANCE).all():
        return
    whole = np.rint(ratios)
    if (np.abs(ratios - whole) <= SPACING_TOLERANCE * whole).all() and (whole >= 1).all():
        place = int(np.flatnonzero(whole > 1)[0]) + 1
        raise DataError(
            f"{folder} lacks {int(whole.sum()) - len(along)} slice(s), the first behind slice {place} of "
            f"{len(along) + 1}, where the distance is {abs(along[place - 1]):.4g} mm in place of {abs(usual):.4g} mm; "
            "copy the series again."
        )
    raise DataError(
        f"{folder} has slices {np.abs(along).min():.4g} to {np.abs(along).max():.4g} mm apart, where equal distances "
        "are expected; resample the series with dcm2niix, or leave it out."
    )


def _slice_header(name: str) -> SliceHeader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    try:
        reader.ReadImageInformation()
        position = None
        if reader.HasMetaDataKey(POSITION):
            position = tuple(float(value) for value in reader.GetMetaData(POSITION).split("\\"))
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{name} cannot be read as a DICOM file ({reason_of(error)}); copy it again.") from error
    size = (*(int(n) for n in reader.GetSize()), 1)[:3]
    complete = position is not None and len(position) == 3
    return SliceHeader(size, affine_of(reader), position if complete else None, voxel_type(reader))


def _has_mark(path: Path) -> bool:
    try:
        with path.open("rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:
        return False
