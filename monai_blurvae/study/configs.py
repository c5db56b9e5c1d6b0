"""The settings of each row, from config files and the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from monai_blurvae.errors import SettingsError
from monai_blurvae.study.options import StudyOptions
from monai_blurvae.study.plan import ROWS, Row, differences, read_config, read_settings, same_rows, warmup_epochs

READ_BY = {"tempering": "spectral_gaussian", "robust_representation": "robust", "watson_weights": "watson"}
"""The settings that one loss alone reads, and which: with another one they change no result."""


class RowConfigs:
    """The settings of all rows, those that are not trained too.

    Args:
        options: of the study.
        schedule: ``max_epochs`` and ``val_interval`` of the budget.

    Attributes:
        settings: of each row, all on which its result depends but β and seed.
        betas: middle of each row's β grid.
        problems: of the rows that have none, in a sentence.
        aliases: the row under whose name each row is trained: the first with the same settings.
    """

    def __init__(self, options: StudyOptions, schedule: Mapping[str, int]) -> None:
        self._options = options
        self._schedule = schedule
        found = {row.name: self._settings_or_problem(row) for row in ROWS.values()}
        self.settings = {name: value for name, value in found.items() if isinstance(value, dict)}
        self.betas = {name: self._beta(ROWS[name]) for name in self.settings}
        self.problems = {name: value for name, value in found.items() if isinstance(value, str)}
        self.aliases = same_rows(self.settings)

    def files(self, row: Row) -> list[str]:
        """The config files of a row, later ones over earlier ones."""
        return [*self._options.base_files, *row.overlays]

    def overrides(self, row: Row) -> dict[str, Any]:
        """Settings over the files: a row's own overlays win over the budget, the command line over everything.

        The warm-up keeps its share of the epochs.
        """
        options = self._options
        own = {name for file in row.overlays for name in read_config(options.config(file))}
        budget = {name: value for name, value in options.budget.settings.items() if name not in own}
        epochs = options.budget.epochs_of(row, self._schedule["max_epochs"])
        own_schedule = {"max_epochs": epochs, "warmup_epochs": warmup_epochs(self._from_files(row), epochs)}
        return {**budget, **self._schedule, **own_schedule, **options.settings}

    def change(self, row: str, before: Mapping[str, Any]) -> str | None:
        """The first difference to settings with which a cell of the row was trained, in words, or None."""
        return next(iter(differences(before, self.settings[row])), None)

    def _settings_or_problem(self, row: Row) -> dict[str, Any] | str:
        try:
            settings = self._from_files(row) | self.overrides(row)
            self._beta(row)
        except SettingsError as error:
            return str(error).replace(f"{self._options.root}/", "")
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        idle = {name for name, loss in READ_BY.items() if plain["loss"] != loss}
        return {name: value for name, value in plain.items() if name not in {"beta", "seed"} | idle}

    def _beta(self, row: Row) -> float:
        beta = self._from_files(row).get("beta")
        if not isinstance(beta, (int, float)) or isinstance(beta, bool) or not beta > 0:
            files = ", ".join(self.files(row))
            raise SettingsError(f"beta is {beta!r} by {files}, but has to be a positive number, the row's own β.")
        return float(beta)

    def _from_files(self, row: Row) -> dict[str, Any]:
        return read_settings([self._options.config(file) for file in self.files(row)])
