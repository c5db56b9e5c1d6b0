"""Names of what is made of a volume or an image, files that are written whole, and those that are there already."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

from monai_blurvae import __version__
from monai_blurvae.data.header import NIBABEL_SUFFIXES, VOLUME_SUFFIXES, volume_affine, volume_dtype, volume_files
from monai_blurvae.errors import DataError, RunFolderError, SettingsError
from monai_blurvae.files import make_folder, read_object, replacing, sha256_of, write_json, writing_to


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


BIDS_NAME = re.compile(r"(?P<entities>sub-[0-9A-Za-z]+(?:_[a-z]+-[0-9A-Za-z+]+)*)_(?P<suffix>[0-9A-Za-z]+)")
DATATYPES = ("anat", "func", "dwi", "perf", "fmap", "pet", "swi")
"""Folders of BIDS that a subject's volumes lie in."""
DESCRIPTION = "dataset_description.json"
BIDS_VERSION = "1.9.0"


class ResultNames(NamedTuple):
    """The files that are made of one volume.

    Attributes:
        folder: that they lie in.
        entities: what comes before the kind of the result.
        suffix: what BIDS has behind it, such as ``_T1w``; empty where the volume has no name of BIDS.
    """

    folder: Path
    entities: str
    suffix: str

    def path(self, kind: str, ending: str = ".nii.gz") -> Path:
        """The file of one kind of result.

        Args:
            kind: in words without capitals, joined by ``_``.
            ending: of the file.

        Example:
            >>> ResultNames(Path("out"), "sub-1_desc-", "_T1w").path("blur_width").as_posix()
            'out/sub-1_desc-blurWidth_T1w.nii.gz'
        """
        return self.folder / f"{self.name(kind)}{ending}"

    def name(self, kind: str) -> str:
        """The same without folder and ending."""
        if not self.suffix:
            return f"{self.entities}{kind}"
        first, *others = kind.split("_")
        word = first + "".join(other.capitalize() for other in others)
        # behind a description that the scan has already, letters and digits alone make one word of both
        joined = word if self.entities.endswith("-") else word[0].upper() + word[1:]
        return f"{self.entities}{joined}{self.suffix}"


class ResultFolder:
    """Where results go: BIDS derivatives for volumes that are named by BIDS, a folder for each of the others.

    ``sub-01_ses-a_T1w.nii.gz`` becomes ``sub-01/ses-a/anat/sub-01_ses-a_desc-reconstruction_T1w.nii.gz``;
    ``a/b.nii.gz`` becomes ``a/b/b_reconstruction.nii.gz``.

    Args:
        output_dir: of all results.
        root: below which the volumes lie; the structure of those that are no BIDS is kept.
    """

    def __init__(self, output_dir: str | Path, root: str | Path) -> None:
        self.path = Path(output_dir).expanduser()
        self._saver = SaveVolumed("image", self.path, "", root)
        self._sources: dict[tuple[Path, str, str], Path] = {}

    def names(self, source: str | Path) -> ResultNames:
        """The names of what is made of a volume.

        Raises:
            DataError: if another volume of this name was asked for, whose results would be the same files.
        """
        source = Path(source)
        names = self._names(source)
        first = self._sources.setdefault((names.folder, names.entities, names.suffix), source)
        if first != source:
            raise DataError(
                f"{first} and {source} have one name in BIDS, {names.name('reconstruction')}; give them separately, "
                "each with an output_dir of its own."
            )
        return names

    def describe(self) -> None:
        """Write BIDS's ``dataset_description.json``, if it is not there.

        Raises:
            RunFolderError: if it cannot be written.
        """
        describe_derivatives(self.path, "Reconstructions of a variational autoencoder")

    def _names(self, source: Path) -> ResultNames:
        suffix = next((s for s in VOLUME_SUFFIXES if source.name.lower().endswith(s)), "")
        match = BIDS_NAME.fullmatch(source.name[: len(source.name) - len(suffix)])
        if match is None:
            target = self._saver.target(source)
            return ResultNames(target.parent, target.name.removesuffix(".nii.gz"), "")
        entities = dict(part.split("-", 1) for part in match["entities"].split("_"))
        folder = self.path / f"sub-{entities['sub']}"
        if "ses" in entities:
            folder /= f"ses-{entities['ses']}"
        if source.parent.name in DATATYPES:
            folder /= source.parent.name
        description = entities.pop("desc", "")
        start = "_".join(f"{key}-{value}" for key, value in entities.items())
        return ResultNames(folder, f"{start}_desc-{description}", f"_{match['suffix']}")


def describe_derivatives(folder: Path, name: str) -> None:
    """Write BIDS's ``dataset_description.json``, if it is not there.

    Args:
        folder: of the derivatives, made if it is not there.
        name: what they are.

    Raises:
        RunFolderError: if it cannot be written.
    """
    path = folder / DESCRIPTION
    if path.exists():
        return
    make_folder(folder)
    made_by = {"Name": "monai_blurvae", "Version": __version__}
    content = {"Name": name, "BIDSVersion": BIDS_VERSION, "DatasetType": "derivative", "GeneratedBy": [made_by]}
    write_json(path, content)


class OutputNames:
    """An ``output_name_formatter`` of MONAI's ``SaveImage`` for inputs whose names differ in the suffix alone.

    MONAI names a result by the file without its suffix, so that the results of ``a.png`` and ``a.jpg`` overwrite each
    other. Here those become ``a_png`` and ``a_jpg``; all others keep the name that MONAI gives them.

    Args:
        data: all inputs, dictionaries with a path under ``image``.

    Example:
        >>> OutputNames([{"image": "/x/a.png"}, {"image": "/x/a.jpg"}])({"filename_or_obj": "/x/a.jpg"})["subject"]
        '/x/a_jpg.jpg'
    """

    def __init__(self, data: Iterable[Mapping[str, Any]]) -> None:
        by_stem = defaultdict(list)
        for path in dict.fromkeys(str(item["image"]) for item in data):
            by_stem[_split(path)[0]].append(path)
        taken = set(by_stem)
        self._names: dict[str, str] = {}
        for same in by_stem.values():
            for path in sorted(same) if len(same) > 1 else ():
                stem, suffix = _split(path)
                name = stem + suffix.replace(".", "_")
                while name in taken:
                    name += "_"
                taken.add(name)
                self._names[path] = name + (suffix or ".")  # which MONAI takes off again

    def __call__(self, meta: Mapping[str, Any] | None, saver: object = None) -> dict[str, Any]:
        """What MONAI's ``FolderLayout`` makes the name of a result of.

        Args:
            meta: of the input, with its path.
            saver: the ``SaveImage``, which counts images without a path.
        """
        meta = meta or {}
        path = str(meta.get(ImageMetaKey.FILENAME_OR_OBJ, getattr(saver, "_data_index", 0)))
        return {"subject": self._names.get(path, path), "idx": meta.get(ImageMetaKey.PATCH_INDEX)}


def _split(path: str) -> tuple[str, str]:
    """A path and its suffix, as MONAI divides it."""
    stem, suffix = os.path.splitext(path)  # noqa: PTH122 - as MONAI does
    if suffix == ".gz":
        stem, inner = os.path.splitext(stem)  # noqa: PTH122
        suffix = inner + suffix
    return stem, suffix


def digest_of(path: str) -> str:
    """SHA-256 of the contents of all files of a volume, in hexadecimal."""
    return hashlib.sha256("".join(sha256_of(file) for file in volume_files(path)).encode()).hexdigest()


def is_finished(names: ResultNames, about: str, targets: Sequence[Path], settings: Mapping[str, Any]) -> bool:
    """Whether all results of a volume are there.

    Args:
        names: of the results.
        about: kind of the JSON with the ``settings``, which is written last.
        targets: the other files.
        settings: what the results depend on.

    Raises:
        RunFolderError: if there are results of other settings, or files that were not made by this package.
    """
    path = names.path(about, ".json")
    if path.is_file():
        require_same(path, settings)
        return True
    there = [target for target in targets if target.exists()]
    if there and not marker_of(names).exists():
        raise RunFolderError(f"{there[0]} is there and was not made by this; choose another output_dir.")
    return False


def require_same(path: Path, settings: Mapping[str, Any]) -> None:
    """Check the ``settings`` in a JSON.

    Args:
        path: of the JSON.
        settings: what is expected.

    Raises:
        RunFolderError: if one of them is another, or the file cannot be read.
    """
    before = read_object(path, "choose another output_dir").get("settings")
    before = before if isinstance(before, Mapping) else {}
    differing = [name for name, value in settings.items() if before.get(name) != value]
    if differing:
        name = differing[0]
        raise RunFolderError(
            f"{path} is of other settings, {name} was {before.get(name)!r} and is {settings[name]!r} now; "
            "choose another output_dir, or remove the results."
        )


def marker_of(names: ResultNames) -> Path:
    """The file that is there while results are written, see :func:`~monai_blurvae.files.finishing`."""
    return names.path("unfinished", "")
