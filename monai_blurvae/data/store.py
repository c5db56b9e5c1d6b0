"""Prepared volumes on disk, memory-mapped, made once and shared by runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from monai_blurvae.errors import DataError
from monai_blurvae.files import make_folder, remove_leftovers, replacing, sha256_of, write_json, write_text
from monai_blurvae.transforms import PrepareVolume, VolumeHeader

STORE_FORMAT = 1
FOREGROUND_THRESHOLD = 0.05
"""Voxels above this value of the scaled range [0, 1] count as foreground; air and zeroed background lie below."""


@dataclass
class StoredVolume:
    """One prepared volume in the store. Pickles without its memory map, so that workers may be spawned.

    Attributes:
        subject: whose volume it is.
        source: path of the NIfTI file.
        checksum: SHA-256 of that file.
        path: the ``.npy`` file, float16 in [0, 1], (slices, rows, columns).
        shape: its shape.
        voxel_size: mm, in the same order.
        synthetic: whether the header marks the volume as synthetic.
        foreground: number of foreground pixels of each slice.
    """

    subject: str
    source: str
    checksum: str
    path: str
    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    synthetic: bool
    foreground: Sequence[int]

    def array(self) -> npt.NDArray[np.float16]:
        """The volume, memory-mapped and read-only."""
        mapped: npt.NDArray[np.float16] | None = self.__dict__.get("_mapped")
        if mapped is None:
            mapped = np.load(self.path, mmap_mode="r")
            self.__dict__["_mapped"] = mapped
        return mapped

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_mapped"}


class VolumeStore:
    """A folder of prepared volumes, keyed by the checksum of the file and the preprocessing.

    Entries appear whole or not at all, and are built under a lock that a killed process does not leave behind; so runs
    may share the folder, and an interrupted preparation goes on where it stopped.

    Args:
        cache_dir: the folder; created if it is not there.
        transform: the preprocessing.
    """

    def __init__(self, cache_dir: str | Path, transform: PrepareVolume) -> None:
        self.root = make_folder(Path(cache_dir).expanduser() / "volumes")
        self.checksums = make_folder(self.root / "checksums")
        self.transform = transform

    def get(self, source: str | Path, subject: str) -> StoredVolume | None:
        """The entry of a file, or None if it is not in the store yet."""
        checksum = self._checksum(source)
        return self._open(self._key(checksum), str(source), subject, checksum)

    def add(self, source: str | Path, subject: str) -> StoredVolume:
        """The entry of a file, prepared now unless it is in the store.

        Raises:
            DataError: if the file cannot be used.
            RunFolderError: if the store cannot be written.
        """
        checksum = self._checksum(source)
        key = self._key(checksum)
        with FileLock(self._file(key, ".lock")):
            entry = self._open(key, str(source), subject, checksum)
            if entry is None:
                remove_leftovers(self.root, key)
                self._build(key, source)
                entry = self._open(key, str(source), subject, checksum)
        assert entry is not None
        return entry

    def _build(self, key: str, source: str | Path) -> None:
        array, header = self.transform(source)
        foreground = (array > FOREGROUND_THRESHOLD).sum((1, 2)).tolist()
        with replacing(self._file(key, ".npy")) as temporary, temporary.open("wb") as handle:
            np.save(handle, array)
        content = {"header": header._asdict(), "foreground": foreground, "preprocessing": self.transform.parameters()}
        write_json(self._file(key, ".json"), content)

    def _open(self, key: str, source: str, subject: str, checksum: str) -> StoredVolume | None:
        """An entry counts when its description is readable and its array has the size that it says."""
        path = self._file(key, ".npy")
        try:
            content = json.loads(self._file(key, ".json").read_text(encoding="utf-8"))
            header = VolumeHeader(*(_tuple(value) for value in content["header"].values()))
            mapped = np.load(path, mmap_mode="r")
            foreground = [int(n) for n in content["foreground"]]
        except Exception:  # a damaged entry can raise whatever its readers meet, and is built again
            return None
        if mapped.shape != header.shape or mapped.dtype != np.float16 or len(foreground) != mapped.shape[0]:
            return None
        return StoredVolume(subject, source, checksum, str(path), *header, foreground=foreground)

    def _key(self, checksum: str) -> str:
        identity = {"format": STORE_FORMAT, "file": checksum, "preprocessing": self.transform.parameters()}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

    def _file(self, key: str, suffix: str) -> Path:
        return self.root / f"{key}{suffix}"

    def _checksum(self, source: str | Path) -> str:
        """SHA-256 of a file; remembered under its path, size and time of change, since HCP's files are large."""
        path = Path(source).resolve()
        status = path.stat()
        identity = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"
        note = self.checksums / hashlib.sha256(os.fsencode(identity)).hexdigest()[:32]
        if note.is_file() and len(known := note.read_text(encoding="ascii", errors="replace")) == 64:
            return known
        checksum = sha256_of(path)
        write_text(note, checksum)
        return checksum


def require_space(root: Path, needed: int, what: str) -> None:
    """Check that a store fits onto its disk before it is made.

    Args:
        root: folder of the store.
        needed: bytes.
        what: that need it, for the message.

    Raises:
        DataError: if there is less space.
    """
    free = shutil.disk_usage(root).free
    if needed > free:
        raise DataError(
            f"cache_dir {root} has {free / 1e9:.2f} GB free, but the {what} need {needed / 1e9:.2f} GB; "
            "set --cache_dir to a larger disk."
        )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
