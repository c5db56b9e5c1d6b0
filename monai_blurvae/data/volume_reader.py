"""Read the voxels of a volume, of whatever format, with its geometry."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from monai.data import ImageReader
from monai.utils import ensure_tuple
from monai.utils.enums import MetaKeys, SpaceKeys

from monai_blurvae.data.dicom import series_affine, series_files, slice_headers
from monai_blurvae.data.header import NIBABEL_SUFFIXES, read_header, without_singletons
from monai_blurvae.data.itk import affine_of, reason_of
from monai_blurvae.errors import DataError


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
            array, affine = _read(path)
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


def _read(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    if path.is_dir():
        return _read_dicom(path)
    if path.name.lower().endswith(NIBABEL_SUFFIXES):
        image = nib.load(path)
        array = np.asanyarray(image.dataobj)
        return array.reshape(without_singletons(array.shape)), np.asarray(image.affine, np.float64)
    itk_image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(itk_image).T
    return array.reshape(without_singletons(array.shape)), affine_of(itk_image)


def _read_dicom(folder: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    affine = series_affine(folder, slice_headers(folder))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(series_files(folder))
    reader.SetOutputPixelType(sitk.sitkFloat32)  # each slice may have a scale of its own
    array = sitk.GetArrayFromImage(reader.Execute()).T
    return array.reshape(without_singletons(array.shape)), affine
