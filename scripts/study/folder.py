"""The files of a study, and what they say about each cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from monai_blurvae.files import make_folder, read_object, write_json
from monai_blurvae.run_files import MODEL, SUMMARY, TENSORBOARD
from study.plan import LINEAR, Cell


class KeptRate(NamedTuple):
    """The rate at which the rows of all tables are compared.

    Attributes:
        nats: validation KL.
        given: whether the user asked for it.
    """

    nats: float
    given: bool


class StudyFolder:
    """The folder of a study.

    ``study.json`` says what all cells share, ``datalist.json`` the split, ``rate.json`` where rows are compared;
    ``cells/NAME/`` is a cell's run folder, ``cells/NAME.json`` its settings and why it failed, ``cells/NAME.log`` its
    output; ``measures/NAME.SPLIT.json`` its measures, the same with ``.npz`` its pictures,
    ``measures/linear.SPLIT.json`` the measures of the linear model. Tables and figures stand beside them.

    Args:
        path: the folder, which is created.

    Raises:
        RunFolderError: if it cannot be written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = make_folder(Path(path).expanduser().resolve())
        make_folder(self.path / "cells")
        make_folder(self.path / "measures")
        self.datalist = self.path / "datalist.json"
        self.training_datalist = self.path / "datalist_without_test.json"
        self.study = self.path / "study.json"
        self._rate = self.path / "rate.json"

    @property
    def rate(self) -> KeptRate | None:
        """The rate that was kept, or None."""
        return KeptRate(**read_json(self._rate)) if self._rate.is_file() else None

    def keep_rate(self, rate: KeptRate) -> None:
        """Keep a rate for later commands."""
        write_json(self._rate, rate._asdict())

    def cell_dir(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.path / "cells" / cell.name

    def model_file(self, cell: Cell) -> Path:
        """The weights that are measured."""
        return self.cell_dir(cell) / MODEL

    def tensorboard_dir(self, cell: Cell) -> Path:
        """The event files of a cell's training."""
        return self.cell_dir(cell) / TENSORBOARD

    def log(self, cell: Cell) -> Path:
        """The output of a cell's training."""
        return self.path / "cells" / f"{cell.name}.log"

    def is_finished(self, cell: Cell) -> bool:
        """Whether the cell was trained to its end."""
        return (self.cell_dir(cell) / SUMMARY).is_file()

    def is_started(self, cell: Cell) -> bool:
        """Whether there is anything of the cell."""
        return self.cell_dir(cell).is_dir()

    def write_cell(self, cell: Cell, settings: Mapping[str, Any], failed: str | None = None) -> None:
        """Note a cell's settings and, if it failed, the reason."""
        content = {**cell._asdict(), "settings": dict(settings), "failed": failed}
        write_json(self.path / "cells" / f"{cell.name}.json", content)

    def settings(self, cell: Cell) -> dict[str, Any] | None:
        """The settings that a cell was started with, or None if it never was."""
        path = self.path / "cells" / f"{cell.name}.json"
        return dict(read_json(path)["settings"]) if path.is_file() else None

    def failures(self) -> dict[Cell, str]:
        """The cells that failed, with the reason."""
        contents = [read_json(path) for path in sorted((self.path / "cells").glob("*.json"))]
        return {_cell(c): c["failed"] for c in contents if c["failed"] is not None}

    def finished(self) -> list[Cell]:
        """All cells that were trained to their end, those of earlier commands too."""
        cells = [_cell(read_json(path)) for path in sorted((self.path / "cells").glob("*.json"))]
        return [cell for cell in cells if self.is_finished(cell)]

    def measure_file(self, cell: Cell, split: str) -> Path:
        """Where the measures of a cell are."""
        return self.path / "measures" / f"{cell.name}.{split}.json"

    def picture_file(self, cell: Cell, split: str) -> Path:
        """Where the pictures of a cell are."""
        return self.path / "measures" / f"{cell.name}.{split}.npz"

    def linear_file(self, split: str) -> Path:
        """Where the measures of the linear model are."""
        return self.path / "measures" / f"{LINEAR.name}.{split}.json"

    def yardstick(self, cell: Cell, split: str) -> dict[str, Any]:
        """How a cell stands to the linear VAE of its own objective, or at its rate; empty if not measured."""
        return dict(self._measures(cell, split).get("yardstick", {}))

    def measured(self, split: str) -> Iterator[tuple[Cell, dict[str, float | str]]]:
        """Every finished cell that has measures, with them: numbers, or the reason why there is none."""
        for cell in self.finished():
            content = self._measures(cell, split)
            if content and "failed" not in content:
                measures = content["measures"].items()
                yield cell, {name: m["reason"] if m["value"] is None else m["value"] for name, m in measures}

    def spectra(self, cell: Cell, split: str) -> dict[str, list[float]]:
        """Mean log₁₀ radial power spectra of ``images``, ``reconstruction`` and ``sample``; none if not measured.

        Those of images drawn around the latter two are ``reconstruction_draw_variance`` and so on, by the density.
        """
        return dict(self._measures(cell, split).get("spectra", {}))

    def _measures(self, cell: Cell, split: str) -> dict[str, Any]:
        path = self.measure_file(cell, split)
        return read_json(path) if path.is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of the study.

    Raises:
        RunFolderError: if it cannot be read.
    """
    return read_object(path, "remove it, and run the command again")


def _cell(content: Mapping[str, Any]) -> Cell:
    return Cell(content["row"], float(content["beta"]), int(content["seed"]))
