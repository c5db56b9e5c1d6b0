"""What is kept for a report: arrays, and what is known of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import replacing

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
