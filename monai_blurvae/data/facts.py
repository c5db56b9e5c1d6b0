"""What a run records of a dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class DatasetFacts:
    """What a run records of a dataset, by its method ``facts``.

    Attributes:
        entries: what is used: dictionaries with ``image`` (absolute path) and ``subject``, and ``sha256`` of the file
            where it is known without reading it anew.
        skipped: one sentence for each file that could not be used and was left out.
        remark: what every table of results has to say of the data, for example that it is synthetic; mostly nothing.
        voxel_sizes: in-plane voxel size in mm, (row, column), of each volume; none for photographs.
        digest: sixteen hexadecimal digits that tell whether a run is resumed with the data that it began with.
        identities: what tells two images apart across data lists.
        kind: ``"patches"``, ``"images"`` or ``""``.
    """

    entries: list[dict[str, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    remark: str = ""
    voxel_sizes: list[tuple[float, float]] = field(default_factory=list)
    digest: str = ""
    identities: frozenset[str] = frozenset()
    kind: str = ""

    def count_text(self, count: int) -> str:
        """What ``count`` samples are, for example ``"32 patches of 2 subjects"`` or ``"3 images"``."""
        if self.kind != "patches":
            return f"{count} image{'' if count == 1 else 's'}"
        subjects = len({entry["subject"] for entry in self.entries})
        return f"{count} patch{'' if count == 1 else 'es'} of {subjects} subject{'' if subjects == 1 else 's'}"


def facts_of(dataset: Any) -> DatasetFacts:
    """The facts of a dataset; of one without a method ``facts``, such as a user's own, nothing is known."""
    if hasattr(dataset, "facts"):
        found: DatasetFacts = dataset.facts()
        return found
    return DatasetFacts()
