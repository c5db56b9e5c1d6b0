"""The settings of each row, from config files and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_blurvae.errors import SettingsError
from study.likelihood import is_likelihood
from study.options import StudyOptions
from study.plan import (
    ROWS,
    Row,
    differences,
    merged_config,
    read_config,
    same_rows,
    settings_of,
    shares_of_epochs,
)


class RowConfigs:
    """The settings of all rows, those that are not trained too.

    Args:
        options: of the study.
        schedule: ``max_epochs`` and ``val_interval`` of the budget.

    Attributes:
        settings: of each row, see :func:`~study.plan.settings_of`.
        likelihoods: whether each row trains one.
        problems: of the rows that have none of these, in a sentence.
        aliases: the row under whose name each row is trained: the first with the same settings.
    """

    def __init__(self, options: StudyOptions, schedule: Mapping[str, int]) -> None:
        self._options = options
        self._schedule = schedule
        self.settings: dict[str, dict[str, Any]] = {}
        self.likelihoods: dict[str, bool] = {}
        self.problems: dict[str, str] = {}
        for row in ROWS.values():
            self._add(row)
        self.aliases = same_rows(self.settings)

    def files(self, row: Row) -> list[str]:
        """The config files of a row, later ones over earlier ones."""
        return [*self._options.base_files, *row.overlays]

    def config(self, row: Row, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The merged config of a row."""
        return merged_config([self._options.config(file) for file in self.files(row)], overrides)

    def overrides(self, row: Row) -> dict[str, Any]:
        """Settings over the files: a row's own overlays win over the budget, the command line over everything.

        Warm-ups keep their share of the epochs; the channels are those of the row's architecture over the divisor.
        """
        options = self._options
        own = {name for file in row.overlays for name in read_config(options.config(file))}
        budget = {name: value for name, value in options.budget.settings.items() if name not in own}
        epochs = options.budget.epochs_of(row, self._schedule["max_epochs"])
        schedule = {**self._schedule, **shares_of_epochs(self.config(row), epochs)}
        return {**budget, **self._channels(row), **schedule, **options.settings}

    def _channels(self, row: Row) -> dict[str, list[int]]:
        divisor = self._options.budget.divisor
        if divisor == 1:
            return {}
        full = merged_config([self._options.config(file) for file in (*self._options.set_files, *row.overlays)])
        return {"channels": [max(1, count // divisor) for count in full["channels"]]}

    def change(self, row: str, before: Mapping[str, Any]) -> str | None:
        """The first difference to settings with which a cell of the row was trained, in words, or None."""
        return next(iter(differences(before, self.settings[row])), None)

    def _add(self, row: Row) -> None:
        try:
            config = self.config(row, self.overrides(row))
        except SettingsError as error:
            self.problems[row.name] = str(error).replace(f"{self._options.root}/", "")
            return
        self.settings[row.name] = settings_of(config)
        self.likelihoods[row.name] = is_likelihood(config)
