"""What a glob finds in a folder, litter and broken links told apart."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from monai_blurvae.errors import DataError


class Listing:
    """Walks through a folder, only where a glob may match, and opens no file.

    The glob's parts are the states of an automaton: a folder is entered with the positions in the glob that its path
    has reached, so that each name is compared with few parts, and folders that cannot match are left out. Upper and
    lower case are the same, links to folders and files are followed, and hidden folders are not entered.

    Args:
        pattern: glob relative to the folder, ``**`` included.

    Attributes:
        files: that match, relative to the folder, with forward slashes.
        folders: likewise.
        hidden: files that match and whose name begins with a dot, such as ``._scan.nii``.
        broken: links that match and lead to nothing.
    """

    def __init__(self, pattern: str) -> None:
        parts = list(PurePosixPath(pattern).parts) or [""]
        if parts[-1] == "**":
            parts.append("*")
        self._matchers = [None if part == "**" else _matcher(part) for part in parts]
        self.files: list[str] = []
        self.folders: list[str] = []
        self.hidden: list[str] = []
        self.broken: list[str] = []

    def of(self, root: Path) -> Listing:
        """List one folder.

        Raises:
            DataError: if it or a folder in it cannot be listed.
        """
        self._walk(str(root), "", self._closure({0}), frozenset())
        return self

    def _walk(self, folder: str, prefix: str, states: frozenset[int], above: frozenset[tuple[int, int]]) -> None:
        last = len(self._matchers) - 1
        matches = self._matchers[last] if last in states else None
        try:
            status = os.stat(folder)  # noqa: PTH116 - with scandir, for speed
            here = (status.st_dev, status.st_ino)
            if here in above:  # a link to a folder that it lies in
                return
            with os.scandir(folder) as listing:
                for entry in listing:
                    if entry.is_dir():
                        if not entry.name.startswith("."):
                            self._enter(entry, prefix, states, above | {here})
                            if matches is not None and matches(entry.name):
                                self.folders.append(prefix + entry.name)
                    elif matches is not None and matches(entry.name):
                        self._place(entry).append(prefix + entry.name)
        except OSError as error:
            raise DataError(
                f"the folder {folder} cannot be listed ({error.strerror or error}); check its permissions."
            ) from error

    def _enter(
        self, entry: os.DirEntry[str], prefix: str, states: frozenset[int], above: frozenset[tuple[int, int]]
    ) -> None:
        if below := self._step(states, entry.name):
            self._walk(entry.path, f"{prefix}{entry.name}/", below, above)

    def _place(self, entry: os.DirEntry[str]) -> list[str]:
        if entry.name.startswith("."):
            return self.hidden
        return self.files if entry.is_file() or not entry.is_symlink() else self.broken

    def _step(self, states: frozenset[int], name: str) -> frozenset[int]:
        """Positions in the glob after a folder of this name."""
        reached = set()
        for state in states:
            matches = self._matchers[state]
            if matches is None:
                reached.add(state)
            elif state + 1 < len(self._matchers) and matches(name):
                reached.add(state + 1)
        return self._closure(reached)

    def _closure(self, states: set[int]) -> frozenset[int]:
        """With the positions behind each ``**``, which may stand for no folder at all."""
        for state in sorted(states):
            while self._matchers[state] is None:
                state += 1
                states.add(state)
        return frozenset(states)


def _matcher(part: str) -> Callable[[str], object]:
    return re.compile(fnmatch.translate(part), re.IGNORECASE).match


def require_listable(root: Path, pattern: str, what: str) -> None:
    """Check a folder and a glob before they are used.

    Args:
        root: the folder.
        pattern: the glob.
        what: the folder has to hold, for the message.

    Raises:
        DataError: if the folder is not there or the glob is absolute.
    """
    if not root.is_dir():
        found = "but a file" if root.exists() else "nothing is there"
        raise DataError(f"dataset_dir {root} is not a folder, {found}; give the folder that holds the {what}.")
    if PurePosixPath(pattern).is_absolute():
        raise DataError(f"image_pattern {pattern!r} is absolute; make it relative to dataset_dir {root}.")


def count_text(number: int, what: str) -> str:
    """``"1 image"``, ``"2 images"``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def example_of(paths: Sequence[str]) -> str:
    """The first of some files, one that a user can see before a hidden one."""
    return min(paths, key=lambda path: (path.rpartition("/")[2].startswith("."), path))
