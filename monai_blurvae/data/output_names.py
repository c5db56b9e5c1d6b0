"""Names of what an inference writes, a different one for each input."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from monai.utils import ImageMetaKey


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
