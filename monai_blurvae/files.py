"""Files that are whole or not there, and those whose content is elsewhere."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from monai_blurvae.errors import DataError, RunFolderError, SettingsError

logger = logging.getLogger(__name__)


FilePath = str | Path | Callable[[], str | Path]
"""A file or folder, or what gives it when it is needed."""


def resolved(path: FilePath) -> Path:
    """The path, asked for if it is a callable."""
    return Path(path() if callable(path) else path).expanduser()


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write to a temporary name beside ``path``; rename it onto ``path`` when the block ends well.

    The content is on disk before the name points to it, so that neither a kill nor a full disk leaves half a file.

    Raises:
        RunFolderError: if the file cannot be written, naming it; the file that was there before is intact.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with writing_to(path):
        try:
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing_to(path: str | Path) -> Iterator[None]:
    """Around work that writes a file or folder.

    Raises:
        RunFolderError: in place of an ``OSError``, naming the file or folder.
    """
    try:
        yield
    except RunFolderError:
        raise
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror or error}); free space there, or choose another place."
        ) from error


def remove_leftovers(folder: str | Path, stem: str = "") -> None:
    """Delete the temporary files of a process that was killed while it wrote; hold the folder's lock."""
    for leftover in Path(folder).rglob(f".{stem}*.part*"):
        leftover.unlink(missing_ok=True)


@contextmanager
def finishing(marker: Path, targets: Sequence[Path]) -> Iterator[None]:
    """Around the writing of several files of one result: what a kill leaves is known as ours, and is made again.

    Args:
        marker: an empty file that is there while they are written; its folder is made.
        targets: the files, of which none may be there unless the marker is; an error in the block deletes them.

    Raises:
        RunFolderError: if the folder cannot be written to.
    """
    make_folder(marker.parent)
    with writing_to(marker):
        marker.touch()
    try:
        yield
    except BaseException:
        for path in targets:
            path.unlink(missing_ok=True)
        marker.unlink(missing_ok=True)
        raise
    marker.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename outlast a power cut, where the system lets folders be synchronised."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_object(path: str | Path, remedy: str = "write it again, or remove it") -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: of the file.
        remedy: what the user can do where it cannot be read, for the message.

    Raises:
        RunFolderError: if it cannot be read, or holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read as JSON ({error}); {remedy}.") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} holds a {type(content).__name__}, where an object is expected; {remedy}.")
    return content


def write_text(path: str | Path, content: str) -> None:
    """Write text, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def make_folder(path: str | Path) -> Path:
    """Create a folder and its parents.

    Raises:
        RunFolderError: if it cannot be created or written to.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{secrets.token_hex(4)}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunFolderError(
            f"the folder {path} cannot be written to ({error.strerror or error}); choose another one."
        ) from error
    return path


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with Path(path).open("rb") as handle:
        digest = hashlib.sha256()
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def default_cache_dir() -> str:
    """``$BLURVAE_CACHE_DIR``, or ``monai_blurvae`` in the user's cache folder.

    Raises:
        SettingsError: if there is neither, nor a home folder.
    """
    given = os.environ.get("BLURVAE_CACHE_DIR")
    if given:
        return given
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    except RuntimeError as error:  # no HOME, and no such user
        raise SettingsError("there is no home folder for the cache; set cache_dir or BLURVAE_CACHE_DIR.") from error
    return str(Path(base) / "monai_blurvae")


ABOUT = "about"


class Record(NamedTuple):
    """The content of an ``.npz`` file.

    Attributes:
        arrays: by name.
        about: what is no array, as JSON holds it.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    about: Mapping[str, Any]

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            RunFolderError: if it cannot be written.
        """
        about = np.array(json.dumps(self.about))
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **{**self.arrays, ABOUT: about})

    @classmethod
    def read(cls, path: str | Path, arrays: Iterable[str], about: Iterable[str], remedy: str) -> Record:
        """Read a file.

        Args:
            path: of it.
            arrays: names that have to be there.
            about: keys that have to be there.
            remedy: what to do where they are not.

        Raises:
            RunFolderError: if it cannot be read, or something is not there.
        """
        try:
            with np.load(path, allow_pickle=False) as content:
                found = {name: content[name] for name in content.files}
            told = json.loads(str(found.pop(ABOUT)))
        except Exception as error:  # zip, NumPy's and JSON's readers have errors of their own
            raise RunFolderError(f"{path} cannot be read ({error}); {remedy}.") from error
        missing = [name for name in arrays if name not in found] + [key for key in about if key not in told]
        if missing:
            raise RunFolderError(f"{path} has no {missing[0]}; {remedy}.")
        return cls(found, told)


LARGEST_POINTER = 1024
"""Bytes; a file with more holds its content."""
LFS = b"version https://git-lfs.github.com/spec/"
ANNEX = b"/annex/objects/"


def is_absent(path: str | Path) -> bool:
    """Whether a path is a link to what is not there, or a small text that stands for a file not yet downloaded."""
    path = Path(path)
    if path.is_symlink() and not path.exists():
        return True
    return _pointer(path) is not None


def how_to_get(path: str | Path) -> str:
    """What to do about a file for which :func:`is_absent` holds: a command, or where its link leads."""
    path = Path(path)
    target = os.readlink(path) if path.is_symlink() else ""  # noqa: PTH115 - with what the system wrote
    pointer = _pointer(path) if not target else None
    if pointer == LFS:
        return f"git-lfs has not downloaded it; run 'git lfs pull' in {_repository(path)}"
    if pointer == ANNEX or "/annex/objects/" in target.replace(os.sep, "/"):
        return (
            f"git-annex keeps its content elsewhere; run 'datalad get .', or 'git annex get .', in {_repository(path)}"
        )
    return f"it is a link to {target}, where nothing is; mount or restore what it leads to, or remove the link"


def handle_absent(root: Path, absent: Sequence[str], count: int, skip: bool) -> None:
    """Refuse files of a folder that are named and not there, or warn of them.

    Args:
        root: the folder.
        absent: paths relative to it; there may be none.
        count: of all files that match, those included.
        skip: go on without them, if there are others.

    Raises:
        DataError: if there are any, unless they are skipped; how many, one of them, and what to do.
    """
    if not absent:
        return
    sentence = (
        f"{len(absent)} of the {count} files that match in dataset_dir {root} are not there, {absent[0]} the first: "
        f"{how_to_get(root / absent[0])}"
    )
    if not skip or len(absent) == count:
        more = "" if len(absent) == count else ", or set skip_bad_files to go on without them"
        raise DataError(f"{sentence}{more}.")
    logger.warning(f"Going on without them, {sentence}.")


def _pointer(path: Path) -> bytes | None:
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_POINTER:
            return None
        content = path.read_bytes()
    except OSError:
        return None
    return next((mark for mark in (LFS, ANNEX) if content.startswith(mark)), None)


def _repository(path: Path) -> Path:
    """The checkout that a file is in, else its folder."""
    folder = Path(os.path.abspath(path)).parent  # noqa: PTH100 - a link stays one
    return next((above for above in (folder, *folder.parents) if (above / ".git").exists()), folder)
