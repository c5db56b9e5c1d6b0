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

from monai_blurvae.data.header import VOLUME_SUFFIXES
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


def write_volume(path: Path, array: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]) -> None:
    """Write a ``.nii.gz``, whole or not at all.

    Args:
        path: of the file; its folder is made.
        array: ``(X, Y, Z)``.
        affine: to RAS millimetres.

    Raises:
        RunFolderError: if it cannot be written.
    """
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, gzip.open(temporary, "wb", compresslevel=1) as stream:
        nib.Nifti1Image(array, affine).to_stream(stream)
