"""Write volumes, whole or not at all."""

from __future__ import annotations

import gzip
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform

from monai_blurvae.data.header import NIBABEL_SUFFIXES, VOLUME_SUFFIXES, volume_affine, volume_dtype
from monai_blurvae.errors import SettingsError
from monai_blurvae.files import replacing, writing_to


class SaveVolumed(MapTransform):
    """Write volumes as ``.nii.gz`` into the folders of MONAI's ``SaveImaged``, but whole or not at all.

    ``dataset_dir/a/b.mgz`` goes to ``output_dir/a/b/b_postfix.nii.gz``. Two inputs that differ in their suffix alone
    do not share a name: the second keeps its suffix, ``output_dir/a/b.nii/b.nii_postfix.nii.gz``.

    Args:
        keys: of the volumes, ``MetaTensor`` objects ``(1, X, Y, Z)`` that know their file and affine.
        output_dir: folder of the results, made when it is needed.
        output_postfix: end of the names.
        data_root_dir: folder below which the inputs lie; its structure is kept.
        allow_missing_keys: do not complain about a key that is not there.

    Raises:
        RunFolderError: when called, if the disk is full or the folder cannot be written to; nothing half-written stays.

    Example:
        >>> SaveVolumed("pred", "out").target("b.mgz").as_posix()
        'out/b/b_reconstruction.nii.gz'
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        output_postfix: str = "reconstruction",
        data_root_dir: str | Path = "",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir).expanduser()
        self.output_postfix = output_postfix
        self.data_root_dir = Path(data_root_dir).expanduser().absolute()
        self._sources: dict[Path, str] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same data, written."""
        for key in self.key_iterator(dict(data)):
            self._save(data[key])
        return dict(data)

    def target(self, source: str | Path) -> Path:
        """The file that the result for an input is written to.

        Args:
            source: path of the input.
        """
        source = Path(source)
        suffix = next((s for s in VOLUME_SUFFIXES if source.name.lower().endswith(s)), "")
        name = source.name[: len(source.name) - len(suffix)]
        while True:
            path = self._folder(source) / name / f"{name}_{self.output_postfix}.nii.gz"
            if self._sources.setdefault(path, str(source)) == str(source):
                return path
            name = source.name if len(name) < len(source.name) else f"{name}_"

    def _folder(self, source: Path) -> Path:
        parent = source.absolute().parent
        for root in (self.data_root_dir, self.data_root_dir.resolve()):  # which may be a link
            if parent.is_relative_to(root):
                return self.output_dir / parent.relative_to(root)
        return self.output_dir

    def _save(self, volume: MetaTensor) -> None:
        path = self.target(volume.meta["filename_or_obj"])
        write_volume(
            path, np.asarray(volume.detach().cpu(), np.float32)[0], np.asarray(volume.affine.cpu(), np.float64)
        )


def write_volume(path: Path, array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> None:
    """Write a ``.nii.gz``, whole or not at all.

    Args:
        path: of the file; its folder is made.
        array: ``(X, Y, Z)``, of the type that the file gets.
        affine: to RAS millimetres.

    Raises:
        RunFolderError: if it cannot be written.
    """
    _write(path, nib.Nifti1Image(array, affine))


def write_like(path: Path, array: npt.NDArray[np.float64], source: str | Path, voxel_type: str = "float32") -> None:
    """Write a ``.nii.gz`` on the grid of another volume, whole or not at all.

    Of a NIfTI its header is kept: affine, codes of sform and qform, units, description, axes of one entry. Of other
    formats there is the affine, in mm of the scanner's space. A type of whole numbers gets the scale and intercept that
    span the values, and 0 for NaN.

    Args:
        path: of the file; its folder is made.
        array: ``(X, Y, Z)`` in the order of the source.
        source: the other volume.
        voxel_type: a name of numpy's, or ``"input"`` for that of the source.

    Raises:
        RunFolderError: if it cannot be written.
        SettingsError: if the type is no number.
    """
    source = Path(source)
    dtype = _voxel_type(source, voxel_type)
    original = nib.load(source) if source.name.lower().endswith(NIBABEL_SUFFIXES) else None
    if isinstance(original, nib.Nifti1Pair):  # NIfTI, one file or two
        second = isinstance(original, (nib.Nifti2Image, nib.Nifti2Pair))
        kind, one_file = (nib.Nifti2Image, nib.Nifti2Header) if second else (nib.Nifti1Image, nib.Nifti1Header)
        # without its extensions, which other programs wrote about the voxels that were there
        header = one_file(original.header.binaryblock, original.header.endianness, check=False)
        header["cal_min"] = header["cal_max"] = 0
        header.set_slope_inter(None, None)
        image = kind(array.reshape(original.shape), original.affine, header)
    else:
        image = nib.Nifti1Image(array, volume_affine(source))
        image.header.set_xyzt_units("mm")
        image.set_sform(image.affine, code="scanner")
        image.set_qform(image.affine, code="scanner")
    image.set_data_dtype(dtype)
    _write(path, image)


def _voxel_type(source: Path, name: str) -> np.dtype[Any]:
    try:
        found = volume_dtype(source) if name == "input" else np.dtype(name)
    except TypeError:
        found = np.dtype(np.void)
    if found.kind not in "iuf" or found == np.float16:
        raise SettingsError(
            f"output_type is {name!r}; give a type of numbers, such as float32, float64 or int16, or input for that of "
            "the scan."
        )
    return found


def _write(path: Path, image: Any) -> None:
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, gzip.open(temporary, "wb", compresslevel=1) as stream:
        image.to_stream(stream)
