"""A packed bundle: what its files are called, and how they come out of its zip."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from pathlib import Path

from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import make_folder
from monai_blurvae.run_files import DENSITIES, INFERENCE, LINEAR, METADATA, MODEL, MODEL_CARD, PACKED_REFERENCE

PACKED = ("configs/train.json", f"models/{MODEL}")
"""Config and weights."""
PACKED_INFERENCE, PACKED_METADATA = f"configs/{INFERENCE}", f"configs/{METADATA}"
PACKED_CARD = f"docs/{MODEL_CARD}"

FILES = (
    *(*PACKED, PACKED_INFERENCE, PACKED_METADATA, PACKED_CARD),
    *(f"models/{name}" for name in (DENSITIES, LINEAR, PACKED_REFERENCE)),
)
"""All that is taken out of a zip."""


def is_packed_zip(path: Path) -> bool:
    """Whether a file is the zip of a packed bundle; torch's own files of weights are zips, too."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(_ends(name, PACKED[1]) for name in archive.namelist())


def unpack(path: Path, folder: Path) -> Path:
    """Take the :data:`FILES` of a packed bundle out of its zip.

    They are written under their own names, whatever else the zip holds or calls them: nothing of it gets out of the
    folder, and nothing is run.

    Args:
        path: of the zip.
        folder: an empty one.

    Returns:
        The folder.

    Raises:
        RunFolderError: if it is no zip, is broken, or holds no packed bundle.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            present = set(archive.namelist())
            root = next((name.removesuffix(PACKED[0]) for name in sorted(present) if _ends(name, PACKED[0])), "")
            for name in PACKED:
                if root + name not in present:
                    raise RunFolderError(f"{path} holds no {name}; give the zip that scripts/pack_bundle.py wrote.")
            for name in FILES:
                if root + name in present:
                    target = folder / name
                    make_folder(target.parent)
                    with archive.open(root + name) as source, target.open("wb") as copy:
                        shutil.copyfileobj(source, copy)
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # RuntimeError: it is encrypted
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(f"{path} cannot be read as a zip ({error}); pack the run again.") from error
    return folder


def _ends(name: str, end: str) -> bool:
    return f"/{name}".endswith(f"/{end}")
