"""From a NIfTI file to scaled slices, by MONAI's transforms, with every file checked once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.transforms import (
    Compose,
    EnsureChannelFirst,
    LoadImage,
    Orientation,
    ResizeWithPadOrCrop,
    ScaleIntensityRangePercentiles,
    Transform,
)

from monai_blurvae.errors import DataError

SYNTHETIC_MARK = "synthetic"
"""A NIfTI header whose ``descrip`` begins with this word holds no subject; every table says so."""

LARGEST_GZIP_RATIO = 1032
"""Deflate compresses no better; a header that promises more than the file can hold is not believed."""


class VolumeHeader(NamedTuple):
    """What the header of a volume tells, after reorientation to RAS and with the slice axis first.

    Attributes:
        shape: (slices, rows, columns).
        voxel_size: in mm, in the same order.
        synthetic: whether the header marks the volume as synthetic.
    """

    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    synthetic: bool


class PreparedVolume(NamedTuple):
    """A volume ready to be cut.

    Attributes:
        array: float16 in [0, 1], (slices, rows, columns).
        header: of the volume as it was cropped or padded.
    """

    array: npt.NDArray[np.float16]
    header: VolumeHeader


def read_header(path: str | Path, slice_axis: int) -> VolumeHeader:
    """Read the header of a NIfTI file without its voxels.

    Args:
        path: of the file.
        slice_axis: 0, 1 or 2 for sagittal, coronal or axial slices, counted after reorientation to RAS.

    Raises:
        DataError: if the file cannot be read or is not three-dimensional.
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
    ras = [int(np.flatnonzero(axes == axis)[0]) for axis in range(3)]
    order = [ras[slice_axis], *(ras[axis] for axis in range(3) if axis != slice_axis)]
    return VolumeHeader(
        shape=(shape[order[0]], shape[order[1]], shape[order[2]]),
        voxel_size=(zooms[order[0]], zooms[order[1]], zooms[order[2]]),
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


class PrepareVolume(Transform):
    """Load a volume, reorient it to RAS, scale the 1st to the 99th percentile to [0, 1] and put the slice axis first.

    Args:
        slice_axis: 0, 1 or 2 for sagittal, coronal or axial slices, counted after reorientation to RAS.
        volume_size: crop or zero-pad every volume about its centre to these three sizes in RAS order, before the
            percentiles are taken, as Volokitin et al. 2020 do; None for no cropping and no padding.
        lower: lower percentile.
        upper: upper percentile.

    Raises:
        ValueError: for a slice axis or a volume size that is none.

    Example:
        >>> PrepareVolume(slice_axis=2).parameters()["slice_axis"]
        2
    """

    def __init__(
        self,
        slice_axis: int = 1,
        volume_size: Sequence[int] | int | None = None,
        lower: float = 1.0,
        upper: float = 99.0,
    ) -> None:
        if slice_axis not in (0, 1, 2):
            raise ValueError(f"slice_axis must be 0 (sagittal), 1 (coronal) or 2 (axial), but is {slice_axis!r}.")
        self.slice_axis = slice_axis
        self.volume_size = _three_sizes(volume_size)
        self.lower = lower
        self.upper = upper
        crop_or_pad = [] if self.volume_size is None else [ResizeWithPadOrCrop(self.volume_size)]
        self._transform = Compose(
            [
                LoadImage(reader="NibabelReader", image_only=True),
                EnsureChannelFirst(channel_dim="no_channel"),
                Orientation(axcodes="RAS", labels=None),
                *crop_or_pad,
            ]
        )
        self._scale = ScaleIntensityRangePercentiles(lower, upper, b_min=0.0, b_max=1.0, clip=True)

    def parameters(self) -> dict[str, Any]:
        """What identifies this preprocessing, as JSON."""
        size = None if self.volume_size is None else list(self.volume_size)
        return {"slice_axis": self.slice_axis, "volume_size": size, "lower": self.lower, "upper": self.upper}

    def header(self, path: str | Path) -> VolumeHeader:
        """Header of the prepared volume, without reading the voxels."""
        header = read_header(path, self.slice_axis)
        if self.volume_size is None:
            return header
        size = self.volume_size
        order = [self.slice_axis, *(axis for axis in range(3) if axis != self.slice_axis)]
        return header._replace(shape=(size[order[0]], size[order[1]], size[order[2]]))

    def __call__(self, path: str | Path) -> PreparedVolume:
        """Prepare one file.

        Raises:
            DataError: if the file cannot be read, or holds values that are not finite or all alike.
        """
        header = self.header(path)
        try:
            volume = self._transform(str(path)).as_tensor()
        except Exception as error:  # a damaged file can raise whatever the reader meets
            reason = _innermost(error)
            raise DataError(f"{path} cannot be read to its end ({reason}); copy or download it again.") from error
        if not bool(volume.isfinite().all()):
            raise DataError(f"{path} holds NaN or infinite values; repair or remove the file.")
        if volume.min() == volume.max():
            raise DataError(f"{path} holds the single value {volume.min().item():g} everywhere; remove the file.")
        low, high = np.percentile(volume.numpy(), [self.lower, self.upper])
        if not high > low:
            raise DataError(
                f"{path} is all but constant, its percentiles {self.lower:g} and {self.upper:g} are both {low:g}; "
                "remove the file."
            )
        scaled = np.asarray(self._scale(volume)[0])
        array = np.ascontiguousarray(np.moveaxis(scaled, self.slice_axis, 0), dtype=np.float16)
        if array.shape != header.shape:
            raise DataError(f"{path} has a header that contradicts itself about its axes; repair or remove the file.")
        return PreparedVolume(array, header)


def _three_sizes(volume_size: Sequence[int] | int | None) -> tuple[int, int, int] | None:
    if volume_size is None:
        return None
    sizes = [volume_size] * 3 if isinstance(volume_size, int) else list(volume_size)
    if len(sizes) != 3 or any(not isinstance(n, int) or n < 1 for n in sizes):
        raise ValueError(f"volume_size must be null or three positive numbers, but is {volume_size!r}.")
    return sizes[0], sizes[1], sizes[2]


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
