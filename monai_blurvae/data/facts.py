"""What a run records of a dataset."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from monai_blurvae.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetFacts:
    """What a run records of a dataset, by its method ``facts``.

    Attributes:
        entries: what is used: dictionaries with ``image`` (absolute path) and ``subject``, ``sha256`` of the file
            where it is known without reading it anew, and ``name`` where a subject has several.
        skipped: one sentence for each file that could not be used and was left out.
        remark: what every table of results has to say of the data, for example that it is synthetic; mostly nothing.
        voxel_sizes: in mm along the axes of a patch, (row, column) or (x, y, z), of each volume; none for photographs.
        digest: sixteen hexadecimal digits that tell whether a run is resumed with the data that it began with.
        identities: what tells two images apart across data lists.
        kind: ``"patches"``, ``"cubes"``, ``"images"`` or ``""``.
    """

    entries: list[dict[str, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    remark: str = ""
    voxel_sizes: list[tuple[float, ...]] = field(default_factory=list)
    digest: str = ""
    identities: frozenset[str] = frozenset()
    kind: str = ""

    def count_text(self, count: int) -> str:
        """What ``count`` samples are, for example ``"32 patches of 2 subjects"`` or ``"3 images"``."""
        one, many = {"patches": ("patch", "patches"), "cubes": ("cube", "cubes")}.get(self.kind, ("image", "images"))
        counted = f"{count} {one if count == 1 else many}"
        if one == "image":
            return counted
        subjects = len({entry["subject"] for entry in self.entries})
        return f"{counted} of {subjects} subject{'' if subjects == 1 else 's'}"


def facts_of(dataset: Any) -> DatasetFacts:
    """The facts of a dataset; of one without a method ``facts``, such as a user's own, nothing is known."""
    if hasattr(dataset, "facts"):
        found: DatasetFacts = dataset.facts()
        return found
    return DatasetFacts()


def require_distinct_contents(facts: Mapping[str, DatasetFacts]) -> None:
    """Check that no file is in two splits under two names, as far as checksums are known.

    One file under one name was put into both by whoever overrode the data of a split; that is warned of.

    Args:
        facts: of each split.

    Raises:
        DataError: naming two files with the same content.
    """
    seen: dict[str, tuple[str, str]] = {}
    for split, fact in facts.items():
        for entry in fact.entries:
            if "sha256" not in entry:
                continue
            before, image = seen.setdefault(entry["sha256"], (split, entry["image"]))
            if before != split and image == entry["image"]:
                logger.warning(f"{image} is in the splits {before} and {split}, so that their figures are not apart.")
            elif before != split:
                raise DataError(
                    f"{image} ({before}) and {entry['image']} ({split}) have the same content, which must not be in "
                    "two splits; remove one, or give them one subject by subject_pattern or in a datalist."
                )
