"""What a user asks of a study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.plan import Budget, ImageSet


@dataclass(frozen=True)
class StudyOptions:
    """The command line of ``scripts/reproduce.py``.

    Attributes:
        root: of the repository; configs are relative to it.
        image_set: the images, and the bundle that reads them.
        budget: how much each cell trains.
        output: the study's folder.
        tables: names of tables of ``TABLES``.
        figures: names of figures of ``FIGURES``.
        rate_distortion: whether rate is drawn against distortion.
        rows: names of the rows to train; the tables also show rows that were trained before.
        seeds: of the trainings.
        betas: of each row.
        dataset_dir: of the images; None for the bundle's own, unless ``datalist`` is given.
        image_pattern: glob relative to it, or None for the bundle's.
        datalist: a split to use in place of a random one.
        cache_dir: of the volume store, shared by all cells.
        weights_dir: of pretrained features, or None for the default folder.
        settings: of the bundle, for every cell.
        jobs: cells that train side by side.
        device: for training and measuring.
        importance_samples: of the importance-weighted bound.
        rate: validation KL in nats at which rows are compared; None for the one that is kept, or to choose it.
        validation_only: leave the test subjects alone, and report the validation subjects.
        slow_betas: of the slow rows; None for the same.
        overlays: config files of every cell, over the bundle's and the budget's and below those of the rows.
    """

    root: Path
    image_set: ImageSet
    budget: Budget
    output: Path
    tables: tuple[str, ...]
    figures: tuple[str, ...]
    rate_distortion: bool
    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    betas: tuple[float, ...]
    dataset_dir: Path | None
    image_pattern: str | None
    datalist: Path | None
    cache_dir: Path
    weights_dir: Path | None
    settings: dict[str, Any]
    jobs: int
    device: str
    importance_samples: int
    rate: float | None
    validation_only: bool
    slow_betas: tuple[float, ...] | None = None
    overlays: tuple[str, ...] = ()

    @property
    def base_files(self) -> tuple[str, ...]:
        """The config files of every cell: the bundle's, the budget's, the set's, the user's."""
        bundle, *overlays = self.set_files
        budget = (self.image_set.paper,) if self.budget.overlays is None else self.budget.overlays
        return (bundle, *budget, *overlays, *self.overlays)

    @property
    def set_files(self) -> tuple[str, ...]:
        """Those of the bundle and the set alone, whose networks are the full ones."""
        return (f"bundles/{self.image_set.bundle}/train.json", *self.image_set.overlays)

    def config(self, file: str) -> Path:
        """The place of a config file."""
        return self.root / file
