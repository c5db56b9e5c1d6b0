"""Names of what is made of a volume, by BIDS where the volume is named by it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from monai_blurvae import __version__
from monai_blurvae.data.header import VOLUME_SUFFIXES
from monai_blurvae.data.save_volume import SaveVolumed
from monai_blurvae.errors import DataError
from monai_blurvae.files import make_folder, write_json

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
