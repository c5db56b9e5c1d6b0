"""What a volume is, and what its header tells before its voxels are read."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from monai_blurvae.data.dicom import holds_dicom, series_affine, series_files, slice_headers
from monai_blurvae.data.itk import affine_of, reason_of, voxel_type
from monai_blurvae.errors import DataError

logger = logging.getLogger(__name__)

NIBABEL_SUFFIXES = (".nii.gz", ".nii", ".hdr", ".img", ".mgz", ".mgh")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
VOLUME_SUFFIXES = NIBABEL_SUFFIXES + ITK_SUFFIXES
"""Ends of the names of files that hold a volume, in lower case; a folder with DICOM files is a volume, too."""

PLANES = ("sagittal", "coronal", "axial")
"""What slices along axis 0, 1, 2 of a volume in RAS are called."""

CONVERTERS = "convert it to NIfTI, for example with dcm2niix, mri_convert or nibabel"

SYNTHETIC_MARK = "synthetic"
"""A NIfTI header whose ``descrip`` begins with this word holds no subject; every table says so."""

LARGEST_GZIP_RATIO = 1032
"""Deflate compresses no better; a header that promises more than the file can hold is not believed."""

POINTERS = {b"/annex/objects/": "git annex get", b"version https://git-lfs": "git lfs pull"}
"""How files begin that stand for content elsewhere, and what fetches it."""

SIZE_TOLERANCE = 1e-3
"""Relative difference of the voxel sizes in ``pixdim`` and in the affine that rounding explains."""


class VolumeHeader(NamedTuple):
    """What the header of a volume tells, with the axes in RAS order.

    Attributes:
        shape: number of voxels along R, A and S.
        voxel_size: in mm, in the same order, the lengths of the affine's columns.
        synthetic: whether the header marks the volume as synthetic.
    """

    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    synthetic: bool


class _Geometry(NamedTuple):
    """What a reader tells of a file, with the axes as they are stored."""

    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]
    dtype: np.dtype[Any]
    pixdim: tuple[float, ...] = ()
    description: bytes = b""


def is_volume(path: str | Path) -> bool:
    """Whether a path is one that :func:`read_header` knows: a file by its suffix, a folder by the DICOM files in it."""
    path = Path(path)
    return holds_dicom(path) if path.is_dir() else path.name.lower().endswith(VOLUME_SUFFIXES)


def distinct_volumes(paths: Iterable[Path]) -> list[Path]:
    """The volumes among paths, each once: of a pair ``.hdr`` and ``.img`` the ``.img``.

    Args:
        paths: files and folders.
    """
    found = [path for path in paths if is_volume(path)]
    images = {path.with_suffix("") for path in found if path.suffix.lower() == ".img"}
    return [path for path in found if path.suffix.lower() != ".hdr" or path.with_suffix("") not in images]


def volume_files(path: str | Path) -> list[Path]:
    """All files that a volume lies in: one, or a header and its voxels, or the slices of a DICOM series.

    Args:
        path: of the volume.

    Raises:
        DataError: if a header names voxels that are not there, or the DICOM files are not those of one series.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        return [Path(name) for name in series_files(path)]
    if suffix in (".hdr", ".img"):
        return [_partner(path, ".hdr"), _partner(path, ".img")]
    if suffix in (".mhd", ".nhdr"):
        return [path, _named_voxels(path)]
    return [path]


def read_header(path: str | Path) -> VolumeHeader:
    """Read the header of a volume without its voxels.

    Args:
        path: of a file with one of :data:`VOLUME_SUFFIXES`, or of a folder with one DICOM series.

    Raises:
        DataError: if the file cannot be read, is not three-dimensional, does not hold real numbers, or promises more
            voxels than it can hold.
    """
    found = _read(path)
    shape = without_singletons(found.shape)
    if len(shape) != 3:
        raise DataError(
            f"{path} has {len(shape)} dimensions, shape {shape}, where a volume with 3 is expected; "
            "extract one volume of the series."
        )
    voxel_size = np.sqrt((found.affine[:3, :3] ** 2).sum(0))
    usable = np.isfinite(found.affine).all() and (voxel_size > 0).all() and min(shape) > 0
    axes = nib.io_orientation(found.affine)[:, 0] if usable else np.zeros(3)
    if sorted(axes) != [0, 1, 2]:
        sizes = [round(float(size), 4) for size in voxel_size]
        raise DataError(f"{path} has an unusable header, shape {shape} and voxel size {sizes}; replace the file.")
    if found.dtype.kind not in "iuf":
        raise DataError(f"{path} holds voxels of type {found.dtype}, where real numbers are expected; convert it.")
    _check_file_size(Path(path), math.prod(shape) * found.dtype.itemsize)
    if found.pixdim and not np.allclose(found.pixdim[:3], voxel_size, rtol=SIZE_TOLERANCE, atol=0):
        _warn_once(
            f"{path} has voxels of {_text(found.pixdim[:3])} mm by its pixdim, but of {_text(voxel_size)} mm by its "
            "affine, which is believed; correct the header if that is wrong."
        )
    # axes[i] is the RAS axis along which the file's axis i runs
    r, a, s = (int(np.flatnonzero(axes == axis)[0]) for axis in range(3))
    return VolumeHeader(
        shape=(shape[r], shape[a], shape[s]),
        voxel_size=(float(voxel_size[r]), float(voxel_size[a]), float(voxel_size[s])),
        synthetic=found.description.lower().startswith(SYNTHETIC_MARK.encode()),
    )


def volume_affine(path: str | Path) -> npt.NDArray[np.float64]:
    """The affine of a volume from its voxels, as they are stored, to RAS millimetres.

    Raises:
        DataError: if the header cannot be read.
    """
    return _read(path).affine


def volume_dtype(path: str | Path) -> np.dtype[Any]:
    """The type of a volume's voxels as they are stored.

    Raises:
        DataError: if the header cannot be read.
    """
    return _read(path).dtype


def header_voxel_sizes(items: Iterable[Mapping[str, str]], slice_axis: int | None) -> list[tuple[float, ...]]:
    """Voxel sizes of volumes in mm along the axes of a patch, from their headers alone.

    Args:
        items: dictionaries with ``image``, a path.
        slice_axis: 0, 1 or 2 for patches of sagittal, coronal or axial slices, None for cubes.

    Raises:
        DataError: if a header cannot be used.
    """
    return [along_patch(read_header(item["image"]).voxel_size, slice_axis) for item in items]


def along_patch(sizes: Sequence[float], slice_axis: int | None) -> tuple[float, ...]:
    """Of what a volume has along its three axes, such as voxel sizes, that along the axes of a patch.

    Args:
        sizes: three of them.
        slice_axis: the axis across which the slices lie, None for cubes.
    """
    return tuple(size for axis, size in enumerate(sizes) if axis != slice_axis)


def without_singletons(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the axes behind the third that have one entry, such as the time of a single volume."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _read(path: str | Path) -> _Geometry:
    path = Path(path)
    if path.is_dir():
        return _read_dicom(path)
    if not path.name.lower().endswith(VOLUME_SUFFIXES):
        raise DataError(
            f"{path} is of no format that is read (known are {', '.join(VOLUME_SUFFIXES)} and folders with a DICOM "
            f"series); {CONVERTERS}."
        )
    _require_content(path)
    of_nibabel = path.name.lower().endswith(NIBABEL_SUFFIXES)
    reader: Callable[[Path], _Geometry] = _read_nibabel if of_nibabel else _read_itk
    try:
        return reader(path)
    except DataError:
        raise
    except Exception as error:  # a damaged file can raise whatever the reader meets
        raise DataError(
            f"{path} cannot be read as a {'NIfTI, Analyze or MGH' if of_nibabel else 'NRRD or MetaImage'} volume "
            f"({reason_of(error)}); replace or remove the file."
        ) from error


def _require_content(path: Path) -> None:
    """Tell a file that is not there, a link to nothing and a pointer to content elsewhere from a damaged file."""
    if path.is_symlink() and not path.exists():
        raise DataError(
            f"{path} is a link to {path.readlink()}, which is not there; fetch it with 'datalad get' or "
            "'git annex get', or mount its disk."
        )
    if not path.is_file():
        raise DataError(f"{path} is not there; correct the path, or copy the file to it.")
    with path.open("rb") as handle:
        start = handle.read(40)
    for mark, command in POINTERS.items():
        if start.startswith(mark):
            raise DataError(f"{path} is a pointer to content that is not here; fetch it with '{command}'.")


@cache
def _warn_once(message: str) -> None:
    """Headers are read when files are checked, and again with the voxels."""
    logger.warning(message)


def _read_nibabel(path: Path) -> _Geometry:
    image = nib.load(path)
    header = image.header
    return _Geometry(
        shape=tuple(int(n) for n in image.shape),
        affine=np.asarray(image.affine, np.float64),
        dtype=np.dtype(image.get_data_dtype()),
        pixdim=tuple(float(z) for z in header.get_zooms()),
        description=bytes(header["descrip"].tobytes()) if "descrip" in header else b"",
    )


def _read_itk(path: Path) -> _Geometry:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return _Geometry(
        shape=tuple(int(n) for n in reader.GetSize()),
        affine=affine_of(reader),
        dtype=voxel_type(reader),
    )


def _read_dicom(folder: Path) -> _Geometry:
    headers = slice_headers(folder)
    first = headers[0]
    depth = len(headers) if len(headers) > 1 else first.size[2]
    return _Geometry((*first.size[:2], depth), series_affine(folder, headers), first.dtype)


def _check_file_size(path: Path, promised: int) -> None:
    """Refuse a header that promises more than the file can hold, before memory is asked for."""
    if path.is_dir():
        return  # each slice tells its own size
    plain = path.suffix.lower() in (".nii", ".hdr", ".img", ".mgh")
    possible = sum(file.stat().st_size for file in volume_files(path)) * (1 if plain else LARGEST_GZIP_RATIO)
    if promised > possible:
        raise DataError(
            f"{path} cannot be read to its end (its header promises {promised} bytes of voxels, more than the file can "
            "hold); copy or download it again."
        )


def _partner(path: Path, suffix: str) -> Path:
    """The other file of a pair, whatever the case of its suffix."""
    for candidate in (path.with_suffix(suffix), path.with_suffix(suffix.upper())):
        if candidate.is_file():
            return candidate
    raise DataError(f"{path} needs {path.with_suffix(suffix).name} beside it; copy both files of the pair.")


def _named_voxels(path: Path) -> Path:
    """The file with the voxels that the text header of a MetaImage or NRRD names."""
    with path.open("rb") as handle:
        lines = handle.read(1 << 16).decode("latin-1").splitlines()
    for line in lines:
        key, _, value = line.replace("=", ":", 1).partition(":")
        if key.strip().lower().replace(" ", "") in ("elementdatafile", "datafile"):
            if value.strip().lower() == "local":
                return path
            file = path.parent / value.strip()
            if not value.strip() or not file.is_file():
                raise DataError(f"{path} names {value.strip()!r} as the file with its voxels, which is not there.")
            return file
    raise DataError(f"{path} does not name the file with its voxels; convert the volume anew.")


def _text(size: Iterable[float]) -> str:
    return "×".join(f"{float(v):.4g}" for v in size)
