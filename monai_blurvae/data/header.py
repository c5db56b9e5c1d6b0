"""What the header of a NIfTI file tells, checked before its voxels are read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from monai_blurvae.errors import DataError

SYNTHETIC_MARK = "synthetic"
"""A NIfTI header whose ``descrip`` begins with this word holds no subject; every table says so."""

LARGEST_GZIP_RATIO = 1032
"""Deflate compresses no better; a header that promises more than the file can hold is not believed."""


class VolumeHeader(NamedTuple):
    """What the header of a volume tells, with the axes in RAS order.

    Attributes:
        shape: number of voxels along R, A and S.
        voxel_size: in mm, in the same order.
        synthetic: whether the header marks the volume as synthetic.
    """

    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    synthetic: bool


def read_header(path: str | Path) -> VolumeHeader:
    """Read the header of a NIfTI file without its voxels.

    Args:
        path: of the file.

    Raises:
        DataError: if the file cannot be read, is not three-dimensional, does not hold real numbers, or promises more
            voxels than it can hold.
    """
    try:
        image = nib.load(path)
        shape = tuple(int(n) for n in image.shape)
        zooms = [float(z) for z in image.header.get_zooms()]
        axes = nib.io_orientation(image.affine)[:, 0] if len(shape) == 3 else np.arange(3)
        description = bytes(image.header["descrip"].tobytes()) if "descrip" in image.header else b""
        dtype = image.get_data_dtype()
    except Exception as error:  # a damaged file can raise whatever the reader meets
        raise DataError(f"{path} cannot be read as a NIfTI volume ({error}); replace or remove the file.") from error
    if len(shape) != 3:
        raise DataError(
            f"{path} has {len(shape)} dimensions, shape {shape}, where a volume with 3 is expected; "
            "extract one volume of the series."
        )
    if min(shape) < 1 or sorted(axes) != [0, 1, 2] or not all(0 < zoom < np.inf for zoom in zooms):
        raise DataError(f"{path} has an unusable header, shape {shape} and voxel size {zooms}; replace the file.")
    if dtype.kind not in "iuf":
        raise DataError(f"{path} holds voxels of type {dtype}, where real numbers are expected; convert it.")
    _check_file_size(Path(path), math.prod(shape) * dtype.itemsize)
    # axes[i] is the RAS axis along which the file's axis i runs
    r, a, s = (int(np.flatnonzero(axes == axis)[0]) for axis in range(3))
    return VolumeHeader(
        shape=(shape[r], shape[a], shape[s]),
        voxel_size=(zooms[r], zooms[a], zooms[s]),
        synthetic=description.lower().startswith(SYNTHETIC_MARK.encode()),
    )


def _check_file_size(path: Path, promised: int) -> None:
    """Refuse a header that promises more than the file can hold, before memory is asked for."""
    possible = path.stat().st_size * (LARGEST_GZIP_RATIO if path.suffix == ".gz" else 1)
    if promised > possible:
        raise DataError(
            f"{path} cannot be read to its end (its header promises {promised} bytes of voxels, more than the file can "
            "hold); copy or download it again."
        )


def header_voxel_sizes(items: Iterable[Mapping[str, str]], slice_axis: int) -> list[tuple[float, float]]:
    """In-plane voxel sizes in mm, (row, column), of volumes, from their headers alone.

    Args:
        items: dictionaries with ``image``, a path.
        slice_axis: 0, 1 or 2 for sagittal, coronal or axial slices.

    Raises:
        DataError: if a header cannot be used.
    """
    sizes = [read_header(item["image"]).voxel_size for item in items]
    row, column = (axis for axis in range(3) if axis != slice_axis)
    return [(size[row], size[column]) for size in sizes]
