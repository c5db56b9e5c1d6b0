"""What a volume is, its header and its voxels, of whatever format: nibabel, SimpleITK, or a folder with a DICOM series.

GDCM, inside SimpleITK, takes orientations as they are; readers on pydicom refuse values longer than the standard's
sixteen characters, which scanners write.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from monai.data import ImageReader
from monai.utils import ensure_tuple
from monai.utils.enums import MetaKeys, SpaceKeys

from monai_blurvae.errors import DataError

logger = logging.getLogger(__name__)

VOXEL_TYPES = {
    sitk.sitkUInt8: np.uint8,
    sitk.sitkInt8: np.int8,
    sitk.sitkUInt16: np.uint16,
    sitk.sitkInt16: np.int16,
    sitk.sitkUInt32: np.uint32,
    sitk.sitkInt32: np.int32,
    sitk.sitkUInt64: np.uint64,
    sitk.sitkInt64: np.int64,
    sitk.sitkFloat32: np.float32,
    sitk.sitkFloat64: np.float64,
}
"""Real numbers, one for each voxel."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_of(image: Any) -> npt.NDArray[np.float64]:
    """From voxels (x, y, z, 1) to RAS millimetres, of an image or of a reader that has read the information of one.

    Args:
        image: with ``GetDimension``, ``GetSpacing``, ``GetDirection`` and ``GetOrigin``; of a fourth dimension nothing
            is taken, of two the third is taken across.
    """
    n = image.GetDimension()
    direction = np.eye(max(n, 3))
    direction[:n, :n] = np.reshape(image.GetDirection(), (n, n))
    spacing = np.array([*image.GetSpacing(), 1.0])[:3]
    affine = np.eye(4)
    affine[:3, :3] = direction[:3, :3] * spacing
    affine[:3, 3] = np.array([*image.GetOrigin(), 0.0])[:3]
    return LPS_TO_RAS @ affine


def image_of(array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> sitk.Image:
    """SimpleITK's image of a volume, the inverse of :func:`affine_of`.

    Args:
        array: ``(X, Y, Z)``.
        affine: from voxels to RAS millimetres, ``(4, 4)``.
    """
    lps = LPS_TO_RAS @ affine
    spacing = np.sqrt(np.square(lps[:3, :3]).sum(0))
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def voxel_type(image: Any) -> np.dtype[Any]:
    """Type of the voxels of an image or of a reader; several numbers a voxel and complex ones make a ``void``."""
    real = VOXEL_TYPES.get(image.GetPixelID()) if image.GetNumberOfComponents() == 1 else None
    return np.dtype(np.void if real is None else real)


def reason_of(error: BaseException) -> str:
    """What an error says, in one line; of ITK's several lines the last, without the object's address."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return reason.partition("): ")[2] or reason if "0x" in reason else reason


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


class VolumeReader(ImageReader):
    """A reader for MONAI's ``LoadImaged`` that chooses by the name: nibabel, SimpleITK, or a DICOM series of a folder.

    What is read is checked by :func:`~monai_blurvae.data.read_header` first. The affine is the file's own, also where a
    NIfTI's ``pixdim`` disagrees with it; axes behind the third with a single entry are left out.

    Example:
        >>> from monai.transforms import LoadImaged
        >>> LoadImaged("image", reader=VolumeReader()).keys
        ('image',)
    """

    def verify_suffix(self, filename: Sequence[os.PathLike[str] | str] | os.PathLike[str] | str) -> bool:
        """Whether MONAI may choose this reader by itself: for none, it is asked for by name."""
        return False

    def read(self, data: Sequence[os.PathLike[str] | str] | os.PathLike[str] | str, **kwargs: Any) -> tuple[str, ...]:
        """The paths alone; after an error here MONAI would go on with readers that ignore half of the header."""
        return tuple(str(path) for path in ensure_tuple(data))

    def get_data(self, img: Sequence[str]) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """The voxels ``(X, Y, Z)`` as the file orders them, and MONAI's metadata with the affine to RAS millimetres.

        Args:
            img: one path, from :meth:`read`.

        Raises:
            DataError: if the volume cannot be read, naming it.
        """
        if len(img) != 1:
            raise DataError(f"{', '.join(img)} are {len(img)} files, where one volume is expected; give one path.")
        path = Path(img[0])
        read_header(path)
        try:
            array, affine = _read_voxels(path)
        except DataError:
            raise
        except Exception as error:  # a damaged file can raise whatever the reader meets
            raise DataError(
                f"{path} cannot be read to its end ({reason_of(error)}); copy or download it again."
            ) from error
        meta = {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.array(array.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
        }
        return array, meta


def _read_voxels(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    if path.is_dir():
        return _read_series(path)
    if path.name.lower().endswith(NIBABEL_SUFFIXES):
        image = nib.load(path)
        array = np.asanyarray(image.dataobj)
        return array.reshape(without_singletons(array.shape)), np.asarray(image.affine, np.float64)
    itk_image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(itk_image).T
    return array.reshape(without_singletons(array.shape)), affine_of(itk_image)


def _read_series(folder: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    affine = series_affine(folder, slice_headers(folder))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(series_files(folder))
    reader.SetOutputPixelType(sitk.sitkFloat32)  # each slice may have a scale of its own
    array = sitk.GetArrayFromImage(reader.Execute()).T
    return array.reshape(without_singletons(array.shape)), affine
