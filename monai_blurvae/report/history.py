"""A training's curves and pictures, from what it wrote for TensorBoard."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator

from monai_blurvae.errors import RunFolderError

KERNELS, PICTURES = "kernels", "input, reconstruction, sample"
"""Names of the pictures."""


class History(NamedTuple):
    """What a training wrote over its epochs; empty as long as it wrote nothing.

    Attributes:
        scalars: values by name and epoch.
        pictures: encoded pictures by name and epoch.
    """

    scalars: Mapping[str, Mapping[int, float]]
    pictures: Mapping[str, Mapping[int, bytes]]

    def scalar(self, name: str) -> Mapping[int, float]:
        """Values by epoch, empty where there are none."""
        return self.scalars.get(name, {})

    def picture(self, name: str) -> Mapping[int, bytes]:
        """Pictures by epoch, empty where there are none."""
        return self.pictures.get(name, {})

    @property
    def epochs(self) -> int:
        """The last epoch of which anything was written, 0 if there is none."""
        return max((max(values) for values in self.scalars.values() if values), default=0)

    @property
    def trains_kernel(self) -> bool:
        """Whether the kernel generator was trained: its loss was written only then."""
        return bool(self.scalar("train/kernel_loss"))


def read_history(folder: Path) -> History:
    """Read the event files of a run, all of them if it was resumed.

    Of an epoch that was done again the last counts, and what a cut run wrote after its last checkpoint is forgotten.

    Args:
        folder: of the event files; without one the history is empty.

    Raises:
        RunFolderError: if the files cannot be read.
    """
    if not folder.is_dir():
        return History({}, {})
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every end of a file and every resumed run
    events = EventAccumulator(str(folder), size_guidance={IMAGES: 0, SCALARS: 0})  # 0 keeps all
    try:
        events.Reload()
        tags = events.Tags()
        scalars = {name: {e.step: e.value for e in events.Scalars(name)} for name in tags[SCALARS]}
        pictures = {name: {e.step: e.encoded_image_string for e in events.Images(name)} for name in tags[IMAGES]}
    except Exception as error:  # the readers of events and of their messages have errors of their own
        raise RunFolderError(
            f"the event files in {folder} cannot be read ({type(error).__name__}: {error}); move the broken one away."
        ) from error
    return History(
        {name: dict(sorted(values.items())) for name, values in scalars.items()},
        {name: dict(sorted(values.items())) for name, values in pictures.items()},
    )


def spread(epochs: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly spread, the first and the last among them.

    Args:
        epochs: in order.
        most: how many, at least 2.
    """
    if not epochs:
        return []
    places = np.linspace(0, len(epochs) - 1, min(most, len(epochs))).round()
    return [epochs[int(place)] for place in places]
