"""Prepared volumes and images on disk, memory-mapped, made once and shared by runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from monai.data.meta_tensor import MetaTensor
from monai.utils import TraceKeys, convert_to_numpy
from tqdm import tqdm

from monai_blurvae.data.datalist import image_file
from monai_blurvae.data.facts import describe_transform, digest_of
from monai_blurvae.data.header import read_header, volume_files
from monai_blurvae.errors import DataError, RunFolderError, user_error
from monai_blurvae.files import make_folder, remove_leftovers, replacing, sha256_of, write_json, write_text, writing_to
from monai_blurvae.transforms.rand_patch import PatchRule, PatchTable

logger = logging.getLogger(__name__)

STORE_FORMAT = 3

SHARED_LOCK = 0o666
"""Mode of lock files, for the users of a shared store; who may write in the folder decides its own mode."""


@dataclass
class StoredVolume:
    """One prepared volume in the store. Pickles without its memory map, so that workers may be spawned.

    Attributes:
        subject: whose volume it is.
        source: path of the image file.
        checksum: SHA-256 of that file.
        path: the ``.npy`` file, float16, (slices, channels, rows, columns).
        shape: its shape.
        slice_axis: spatial axis across which the slices lie.
        voxel_size: mm of (slice, row, column).
        affine: of the prepared volume, four rows.
        synthetic: whether the file's header marks the volume as synthetic.
        nan: voxels that were NaN and are background.
    """

    subject: str
    source: str
    checksum: str
    path: str
    shape: tuple[int, int, int, int]
    slice_axis: int
    voxel_size: tuple[float, float, float]
    affine: list[list[float]]
    synthetic: bool
    nan: int = 0

    def slices(self) -> npt.NDArray[np.float16]:
        """The volume (slices, channels, rows, columns), read-only."""
        mapped: npt.NDArray[np.float16] | None = self.__dict__.get("_mapped")
        if mapped is None:
            # the array behind the map: a memmap makes a new object of its own class, slowly, for every slice
            mapped = np.asarray(np.load(self.path, mmap_mode="r"))
            self.__dict__["_mapped"] = mapped
        return mapped

    def image(self) -> npt.NDArray[np.float16]:
        """The volume (C, X, Y, Z), a read-only view of the map."""
        return np.moveaxis(self.slices(), 0, self.slice_axis + 1)

    def tensor(self) -> MetaTensor:
        """A float32 copy of the volume (C, X, Y, Z) with its affine and file."""
        copy = torch.from_numpy(np.array(self.image())).to(torch.float32)
        affine = torch.tensor(self.affine, dtype=torch.float64)
        return MetaTensor(copy, affine=affine, meta={"filename_or_obj": self.source})

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_mapped"}


class VolumeStore:
    """A folder of prepared volumes, keyed by the checksum of the file, the transform and the slice axis.

    Entries appear whole or not at all, and are built under a lock that a killed process does not leave behind; so runs
    may share the folder, and an interrupted preparation goes on where it stopped. A folder that is read-only, or that
    belongs to another user, serves what it holds.

    Args:
        cache_dir: the folder; created if it is not there.
        transform: takes a dictionary with the path of a volume under ``image`` and puts ``(C, X, Y, Z)`` in its place.
        slice_axis: spatial axis of the result that comes first in the file, so that a slice lies in one piece.
    """

    def __init__(self, cache_dir: str | Path, transform: Callable[[dict[str, Any]], Any], slice_axis: int = 0) -> None:
        self.root = _existing_or_new(Path(cache_dir).expanduser() / "volumes")
        self.checksums = _existing_or_new(self.root / "checksums")
        self.transform = transform
        self.slice_axis = slice_axis
        self.description = describe_transform(transform)

    def get(self, source: str | Path, subject: str) -> StoredVolume | None:
        """The entry of a file, or None if it is not in the store yet."""
        checksum = self._checksum(source)
        return self._open(self._key(checksum), str(source), subject, checksum)

    def add(self, source: str | Path, subject: str) -> StoredVolume:
        """The entry of a file, prepared now unless it is in the store.

        Raises:
            DataError: if the file cannot be used, naming it.
            RunFolderError: if the store cannot be written.
        """
        checksum = self._checksum(source)
        key = self._key(checksum)
        entry = self._open(key, str(source), subject, checksum)
        if entry is None:
            with self._building(key, str(source)):
                entry = self._open(key, str(source), subject, checksum)
                if entry is None:
                    self._build(key, str(source))
                    entry = self._open(key, str(source), subject, checksum)
        assert entry is not None
        return entry

    def table(self, entry: StoredVolume, rule: PatchRule) -> PatchTable:
        """What is known of an entry's layers under a rule, measured now unless it is in the store."""
        name = digest_of(rule._asdict())[:8]
        path = Path(entry.path)
        path = path.with_name(f"{path.stem}.{name}.npy")
        try:
            array = np.load(path)
        except Exception:  # not there, or damaged, and measured anew
            array = None
        if not _is_table(array, entry, rule):
            table = PatchTable.complete(entry.slices(), rule)
            with suppress(RunFolderError), replacing(path) as temporary, temporary.open("wb") as handle:
                np.save(handle, table.to_array())  # where the store is another user's it is measured each time
            return table
        return PatchTable.of(array, rule)

    def _build(self, key: str, source: str) -> None:
        synthetic = read_header(source).synthetic
        volume = self._prepare(source)
        array = np.moveaxis(np.asarray(volume), self.slice_axis + 1, 0)
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array, dtype=np.float16)
        if not np.isfinite(array).all():
            raise DataError(
                f"{source} has values after the transform that float16 does not hold, the largest is "
                f"{float(np.abs(np.asarray(volume)).max()):g}; scale them in the transform, for example to [-1, 1]."
            )
        affine, spacing = (np.eye(4), np.ones(3))
        if isinstance(volume, MetaTensor):
            affine, spacing = volume.affine.cpu().numpy(), volume.pixdim.cpu().numpy()
        order = [self.slice_axis, *(axis for axis in range(3) if axis != self.slice_axis)]
        with replacing(self._file(key, ".npy")) as temporary, temporary.open("wb") as handle:
            np.save(handle, array)
        content = {
            "shape": array.shape,
            "voxel_size": [round(float(spacing[axis]), 6) for axis in order],
            "affine": affine.tolist(),
            "synthetic": synthetic,
            "nan": _count_of_nan(volume),
            "transform": self.description,
        }
        write_json(self._file(key, ".json"), content)

    def _prepare(self, source: str) -> Any:
        """What the transform makes of a file.

        Raises:
            DataError: for whatever the transform raises, naming the file.
        """
        try:
            volume = self.transform({"image": source})["image"]
        except Exception as error:  # a damaged file can raise whatever the reader meets
            raise data_error(source, error) from error
        if np.ndim(volume) != 4 or 0 in np.shape(volume):
            raise DataError(
                f"{source} has the shape {tuple(np.shape(volume))} after the transform, where (C, X, Y, Z) is "
                "expected; check the transform."
            )
        return volume

    def _open(self, key: str, source: str, subject: str, checksum: str) -> StoredVolume | None:
        """An entry counts when its description is readable and its array has the size that it says."""
        path = self._file(key, ".npy")
        try:
            content = json.loads(self._file(key, ".json").read_text(encoding="utf-8"))
            slices, channels, rows, columns = (int(n) for n in content["shape"])
            across, down, along = (float(size) for size in content["voxel_size"])
            affine = np.array(content["affine"], np.float64).reshape(4, 4).tolist()
            synthetic, nan = bool(content["synthetic"]), int(content["nan"])
            mapped = np.load(path, mmap_mode="r")
        except Exception:  # a damaged entry can raise whatever its readers meet, and is built again
            return None
        shape, spacing = (slices, channels, rows, columns), (across, down, along)
        if mapped.shape != shape or mapped.dtype != np.float16 or not mapped.flags.c_contiguous:
            return None
        return StoredVolume(
            subject, source, checksum, str(path), shape, self.slice_axis, spacing, affine, synthetic, nan
        )

    def _key(self, checksum: str) -> str:
        return digest_of([STORE_FORMAT, checksum, self.description, self.slice_axis])

    def _file(self, key: str, suffix: str) -> Path:
        return self.root / f"{key}{suffix}"

    def _checksum(self, source: str | Path) -> str:
        """SHA-256 of a volume; remembered under its files' paths, sizes and times, since HCP's files are large."""
        files = [path.resolve() for path in volume_files(source)]
        identity = "\n".join(_identity(path) for path in files)
        note = self.checksums / hashlib.sha256(os.fsencode(identity)).hexdigest()[:32]
        if note.is_file() and len(known := note.read_text(encoding="ascii", errors="replace")) == 64:
            return known
        sums = [sha256_of(path) for path in files]
        checksum = sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()
        with suppress(RunFolderError):  # a store that is another user's is used all the same
            write_text(note, checksum)
        return checksum

    @contextmanager
    def _building(self, key: str, source: str) -> Iterator[None]:
        """Hold an entry's lock, and remove what a killed process left of the entry.

        A lock file that another user made may not be writable. Entries are replaced whole, so that without a lock work
        may be done twice, but nothing is spoilt.

        Raises:
            RunFolderError: if the store cannot be written to, with the file that is not in it.
        """
        if not os.access(self.root, os.W_OK):
            raise RunFolderError(
                f"the store {self.root} cannot be written to and does not hold {source} as this config prepares it; "
                "let its owner prepare it, or set cache_dir to a folder of your own."
            )
        lock = FileLock(self._file(key, ".lock"), mode=SHARED_LOCK)
        try:
            lock.acquire()
        except PermissionError:
            yield
            return
        try:
            remove_leftovers(self.root, key)
            yield
        finally:
            lock.release()


def _count_of_nan(volume: Any) -> int:
    """Voxels that :class:`~monai_blurvae.transforms.NaNToBackgroundd` filled, by what it left for its inverse."""
    operations = volume.applied_operations if isinstance(volume, MetaTensor) else []
    masks = [(operation.get(TraceKeys.EXTRA_INFO) or {}).get("nan") for operation in operations]
    return sum(int(mask.sum()) for mask in masks if mask is not None)


def _existing_or_new(folder: Path) -> Path:
    """A folder that is there, maybe for reading alone, or is made."""
    return folder if folder.is_dir() else make_folder(folder)


def _identity(path: Path) -> str:
    status = path.stat()
    return f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"


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
            "set cache_dir to a folder on a larger disk."
        )


def _is_table(array: Any, entry: StoredVolume, rule: PatchRule) -> bool:
    """Whether a table from the disk can be one of the entry: damage must not lead outside of the volume."""
    if not isinstance(array, np.ndarray) or array.dtype != np.int32 or array.ndim != 2 or array.shape[1] != 5:
        return False
    slices, _, rows, columns = entry.shape
    index, top, left, height, width = array.astype(np.int64).T
    inside = (index + rule.depth <= slices) & (top + height + rule.patch_size - 1 <= rows)
    inside &= (left + width + rule.patch_size - 1 <= columns) & ((height > 0) == (width > 0))
    return bool((array >= 0).all() and (inside | (height == 0)).all() and (np.diff(index) > 0).all())


def data_error(source: str, error: Exception) -> DataError:
    """The sentence for what a transform raised: its own, if it is one of ours, or one with the innermost reason.

    Args:
        source: the file, to be named.
        error: with the reasons that it was raised from.
    """
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    for link in chain:
        if isinstance(link, DataError):
            return DataError(str(link) if source in str(link) else f"{source}: {link}")
    lines = str(chain[-1]).strip().splitlines()
    reason = lines[-1] if lines else type(chain[-1]).__name__
    failed = [match[1] for link in chain if (match := re.match(r"applying transform <?([\w.]+)", str(link)))]
    if not failed or "LoadImage" in failed[-1]:
        return DataError(f"{source} cannot be read to its end ({reason}); copy or download it again.")
    name = failed[-1].rpartition(".")[2]
    return DataError(f"{source} cannot be prepared by {name} ({reason}); repair the file or change the transform.")


IMAGE_FORMAT = 2
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
        identity = json.dumps({"format": IMAGE_FORMAT, "transform": describe_transform(self.transform)}, sort_keys=True)
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
