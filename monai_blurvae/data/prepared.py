"""What a run asks of its images, whether they are patches of volumes or photographs."""

from __future__ import annotations

import logging
from collections.abc import Set
from typing import Any, Protocol

from monai_blurvae.data.datalist import Datalist

logger = logging.getLogger(__name__)


class PreparedImages(Protocol):
    """The images of a run, ready to be drawn from: :class:`Volumes` or :class:`Images`."""

    @property
    def training(self) -> Any:
        """Those of the training split, with a length."""

    @property
    def validation(self) -> Any:
        """Those of the validation split, with a length."""

    @property
    def test(self) -> Any:
        """Those of the test split, with a length."""

    @property
    def skipped(self) -> list[str]:
        """One sentence for each file that could not be used and was left out."""

    @property
    def remark(self) -> str:
        """What every table of results has to say of the data, for example that it is synthetic; mostly nothing."""

    @property
    def voxel_sizes(self) -> list[tuple[float, float]]:
        """In-plane voxel size in mm, (row, column), of each training volume; empty where there is none."""

    @property
    def voxel_size(self) -> tuple[float, float] | None:
        """Their median; None where there is none."""

    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell whether a run is resumed with the data that it began with."""

    def identities(self) -> Set[str]:
        """What tells two images apart across data lists."""

    def used(self, datalist: Datalist) -> Datalist:
        """The data list without what was left out, to be recorded."""

    def changed(self, datalist: Datalist) -> list[str]:
        """Files whose content is not that which the data list has recorded, if it has."""

    def count_text(self, count: int) -> str:
        """What ``count`` evaluated images are, for example ``"32 patches of 2 subjects"``."""


def log_skipped(images: PreparedImages) -> None:
    """List at the end what was left out, where it cannot have scrolled away."""
    if images.skipped:
        logger.warning(f"Skipped {len(images.skipped)} file(s):")
        for line in images.skipped:
            logger.warning(f"  {line}")
