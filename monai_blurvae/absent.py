"""Files that are named where their content is not: broken links, and the pointers of git-annex and git-lfs."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from monai_blurvae.errors import DataError

logger = logging.getLogger(__name__)

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
