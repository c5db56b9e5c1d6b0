"""Prepared images on disk, memory-mapped, made when they are first asked for and shared by workers and runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from monai.utils import convert_to_numpy
from tqdm import tqdm

from monai_blurvae.data.datalist import image_file
from monai_blurvae.data.describe import describe_transform
from monai_blurvae.data.store import require_space
from monai_blurvae.errors import DataError, RunFolderError, user_error
from monai_blurvae.files import make_folder, remove_leftovers, replacing, writing_to

logger = logging.getLogger(__name__)

STORE_FORMAT = 2
"""Raised whenever the same file and transform would be stored as other values."""
TYPES = {"images": (np.uint8, np.float32), "checks": (np.uint32,)}
NOT_THERE = -1
"""Size of a file that is missing."""


StoredImage = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
ItemTransform = Callable[[dict[str, Any]], Mapping[Any, Any]]


class _Maps(NamedTuple):
    images: npt.NDArray[Any]
    checks: npt.NDArray[np.uint32]


class ImageStore:
    """The prepared images of a list of files, in one file, each made when it is first asked for.

    The folder ``images/{key}`` of the cache holds ``images.npy``, (N, *shape) in a sparse file, and ``checks.npy``, the
    CRC-32 of each image that is there, or 0. They are made with the first image that can be prepared, which says what
    shape and type all have. The key is a hash of the transform's classes and arguments and of every path, size and time
    of change, so that another list or a changed file has a store of its own. No file is read before its image is asked
    for.

    Processes may share the store without locks: all write the same bytes, and an image that is half written, by a
    process that was killed or is at it now, fails its check and is made again. The store pickles without its maps, so
    that workers may be spawned.

    Args:
        cache_dir: the cache; created if it is not there.
        sources: path of every image; ``path#N`` is image N of a file that holds many. There may be none.
        transform: prepares one: of ``{"image": path}`` it makes ``{"image": array or tensor}``, of one shape for all
            paths and without chance. uint8 is kept as it is; anything else becomes float32.

    Attributes:
        sources: as given.
        sizes: of the files in bytes, −1 for one that is not there.
        folder: of the store.

    Raises:
        RunFolderError: if the store cannot be created, or, later, written.
    """

    def __init__(self, cache_dir: str | Path, sources: Sequence[str], transform: ItemTransform) -> None:
        self.sources = list(sources)
        self.transform = transform
        self.sizes, self._times = _stat_files(self.sources)
        root = Path(cache_dir).expanduser() / "images"
        self.folder = root / self._key()
        if self.sources:
            make_folder(root)
            with writing_to(self.folder):
                self.folder.mkdir(exist_ok=True)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> StoredImage:
        """The prepared image, made now unless it is there.

        Raises:
            DataError: if it cannot be prepared, has another shape than the others, or its file has vanished or changed
                since the store was opened.
            RunFolderError: if there is not enough space for all images, or the store cannot be written.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends iteration over the store
        maps = self._maps()
        if maps is not None and (check := int(maps.checks[index])):
            image: StoredImage = np.array(maps.images[index])
            if check == _check(image):
                return image
            self._write("checks", maps.checks, index, np.uint32(0))
        image = self._prepare(index)
        if maps is None:
            maps = self._create(image)
        if (image.shape, image.dtype) != (maps.images.shape[1:], maps.images.dtype):
            raise DataError(
                f"{self.sources[index]} was prepared as {_kind(image)}, where the images before were "
                f"{_kind(maps.images[0])}; let the transform give all images one size."
            )
        self._write("images", maps.images, index, image)
        self._write("checks", maps.checks, index, np.uint32(_check(image)))
        return image

    def prepare(self, indices: Iterable[int], skip_bad_files: bool = False) -> dict[int, str]:
        """Make images now.

        Args:
            indices: which.
            skip_bad_files: go on after an image that cannot be prepared.

        Returns:
            A sentence for each image that cannot be prepared.

        Raises:
            DataError: for the first of these, without ``skip_bad_files``.
        """
        bad: dict[int, str] = {}
        for index in tqdm(list(indices), desc="preparing images", unit="image", delay=3):
            with _noting(bad, index, skip_bad_files):
                self[index]
        return bad

    def prepared(self) -> int:
        """How many images are there."""
        maps = self._maps()
        return 0 if maps is None else int(np.count_nonzero(maps.checks))

    def note_bad(self, index: int, sentence: str) -> bool:
        """Record that an image cannot be prepared, for the other processes; whether they did not know it yet."""
        with FileLock(self.folder / "bad.lock"):
            if self._recorded().get(index) == sentence:
                return False
            line = json.dumps({"index": index, "source": self.sources[index], "error": sentence})
            with writing_to(self._bad_file), self._bad_file.open("a", encoding="utf-8") as handle:
                handle.write(f"\n{line}\n")  # begins a line even after one that a killed process left half written
        return True

    def bad(self) -> dict[int, str]:
        """A sentence for each image that was recorded as bad, and has not been prepared since."""
        maps = self._maps()
        recorded = sorted(self._recorded().items())
        return {index: sentence for index, sentence in recorded if maps is None or not maps.checks[index]}

    @property
    def _bad_file(self) -> Path:
        return self.folder / "bad.jsonl"

    def _recorded(self) -> dict[int, str]:
        recorded = {}
        if self._bad_file.exists():
            for line in self._bad_file.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError, KeyError, TypeError):  # empty, or half written by a process that was killed
                    entry = json.loads(line)
                    recorded[int(entry["index"])] = str(entry["error"])
        return recorded

    def _prepare(self, index: int) -> StoredImage:
        source = self.sources[index]
        try:
            image = convert_to_numpy(self.transform({"image": source})["image"])
        except Exception as error:  # whatever the user's transforms meet; MONAI wraps our own errors
            shown = user_error(error)
            if isinstance(shown, DataError):
                raise shown from shown.__cause__
            reason = str(_innermost(error)).strip() or type(_innermost(error)).__name__
            raise DataError(
                f"{source} cannot be prepared ({reason.splitlines()[-1]}); replace or remove it, or mend the transform."
            ) from error
        self._require_unchanged(index)
        if image.dtype == np.uint8:
            return np.array(image, np.uint8, order="C")
        return np.array(image, np.float32, order="C")

    def _create(self, image: StoredImage) -> _Maps:
        """Make what of the store is not there or not whole, for images like this one."""
        with FileLock(self.folder.with_suffix(".lock")):
            missing = [name for name in _Maps._fields if self._map(name) is None]
            if missing:
                self._announce(image.nbytes)
                remove_leftovers(self.folder)
            shapes = {"images": (image.shape, image.dtype), "checks": ((), np.dtype(np.uint32))}
            for name in missing:
                shape, dtype = shapes[name]
                with replacing(self._file(name)) as temporary:
                    np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=(len(self), *shape)).flush()
        maps = self._maps()
        assert maps is not None
        return maps

    def _announce(self, image_bytes: int) -> None:
        needed = len(self) * (image_bytes + 4)
        amount = f"{needed / 1e9:.2f} GB" if needed >= 1e8 else f"{needed / 1e6:.1f} MB"
        logger.info(f"{len(self)} images are prepared as they are needed, once: up to {amount} in {self.folder}.")
        try:
            require_space(self.folder, needed, "images")
        except DataError as error:  # no image is to blame, or to be skipped
            raise RunFolderError(str(error)) from error

    def _key(self) -> str:
        identity = json.dumps({"format": STORE_FORMAT, "transform": describe_transform(self.transform)}, sort_keys=True)
        files = zip(self.sources, self.sizes.tolist(), self._times.tolist(), strict=True)
        here = str(Path.cwd())
        # ten times as fast as Path's own joining, of which 200 000 take seconds
        lines = [f"{os.path.join(here, source)}\0{size}\0{time}" for source, size, time in files]  # noqa: PTH118
        return hashlib.sha256(os.fsencode("\n".join([identity, *lines]))).hexdigest()[:32]

    def _require_unchanged(self, index: int) -> None:
        if _stat(image_file(self.sources[index])) != (self.sizes[index], self._times[index]):
            raise DataError(
                f"{self.sources[index]} has changed since the images were listed; "
                "leave the files as they are, and start again."
            )

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _maps(self) -> _Maps | None:
        """The store's files; None before the first image is there, or if one of them is not whole."""
        maps: _Maps | None = self.__dict__.get("_mapped")
        if maps is None:
            images, checks = (self._map(name) for name in _Maps._fields)
            if images is None or checks is None:
                return None
            self.__dict__["_mapped"] = maps = _Maps(images, checks)
        return maps

    def _map(self, name: str) -> npt.NDArray[Any] | None:
        try:
            array: npt.NDArray[Any] = np.load(self._file(name), mmap_mode="r")
            return array if len(array) == len(self) and array.dtype in TYPES[name] else None
        except Exception:  # a damaged file can raise whatever its reader meets, and is made again
            return None

    def _write(self, name: str, array: npt.NDArray[Any], index: int, value: StoredImage | np.uint32) -> None:
        """Write one entry through the file: on a full disk that is an error, where the map would kill the process."""
        assert isinstance(array, np.memmap)
        path = self._file(name)
        with writing_to(path), path.open("r+b") as handle:
            handle.seek(array.offset + index * value.nbytes)
            handle.write(value.tobytes())

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_mapped"}


def _check(image: StoredImage) -> int:
    """CRC-32, with 1 for 0, which means that the image is not there."""
    return zlib.crc32(image.tobytes()) or 1


def _kind(image: npt.NDArray[Any]) -> str:
    return f"{image.dtype} {image.shape}"


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def _noting(bad: dict[int, str], index: int, skip: bool) -> Iterator[None]:
    """Around the work on one image: note the error and go on, or stop."""
    try:
        yield
    except DataError as error:
        if not skip:
            raise
        bad[index] = str(error)


def _stat(path: str) -> tuple[int, int]:
    """Size and time of change."""
    try:
        status = os.stat(path)  # noqa: PTH116, five times as fast as Path.stat
    except OSError:
        return NOT_THERE, 0
    return status.st_size, status.st_mtime_ns


def _stat_files(sources: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sizes and times of change, asking for those of each file once."""
    files = [image_file(source) for source in sources]
    known = {file: _stat(file) for file in dict.fromkeys(files)}
    status = np.array([known[file] for file in files], np.int64).reshape(-1, 2)
    return status[:, 0], status[:, 1]
