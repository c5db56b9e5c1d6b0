"""The config that is running: the only handle that MONAI leaves on it, and what a run keeps of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigParser, ConfigWorkflow

from monai_blurvae.errors import SettingsError

STEPS = (
    *("imports", "initialize", "finalize", "run"),
    *("preparing", "training", "evaluating", "inference", "reconstructing"),
)
"""Top-level keys that are lists of expressions to run, not values."""

FREE = frozenset(
    (
        *STEPS,
        *(
            "bundle_root",
            "dataset_dir",
            "image_pattern",
            "subject_pattern",
            "datalist",
            "partition_file",
            "sample_dir",
            "cache_dir",
            "data",
        ),
        *("output_dir", "run_dir", "resume", "run_folder", "skip_bad_files", "max_epochs", "device", "num_workers"),
        *("checkpoint_minutes", "quarter_turns", "test", "tracking_uri", "experiment_name", "run_name"),
        *("save_execute_config", "is_not_rank0", "train#dataset#data", "validate#dataset#data", "weights_dir"),
        *("train#trainer#max_epochs", "train#dataloader#num_workers", "train#dataloader#pin_memory"),
        *("train#handlers#*#minutes", "validate#dataloader#num_workers", "yardstick_images"),
    )
)
"""Ids of the config that a resumed run may change, with everything below them; ``*`` stands for a number. The data is
compared by its content in place of its place."""

SHOWING = ("TensorBoard", "EpochProgress", "StatsHandler", "MLFlow", "ProgressBar")
"""Handlers whose class has such a name only show a run, and may come and go."""


class RunningConfig(NamedTuple):
    """A config with its parser.

    Attributes:
        parser: of the merged files and overrides.
        folder: of the first config file, where metadata and logging are, or None outside MONAI's workflow.
    """

    parser: ConfigParser
    folder: Path | None

    def resolved(self) -> dict[str, Any]:
        """The config as it runs: every top-level expression that gives a plain value is replaced by it."""
        config: dict[str, Any] = self.parser.get()
        return {name: self._resolved(name, value) for name, value in config.items() if name != ConfigParser.meta_key}

    def result_items(self) -> dict[str, Any]:
        """What a training's result depends on, ``{id: value}``, without the ids of :data:`FREE`."""
        items = flattened(_without_showing_handlers(self.resolved()))
        return {name: value for name, value in items.items() if not is_free(name)}

    def _resolved(self, name: str, value: Any) -> Any:
        if name in STEPS or not isinstance(value, str) or not value.startswith(("$", "@")):
            return value
        content = self.parser.get_parsed_content(name)
        content = str(content) if isinstance(content, Path) else content
        return content if is_plain(content) else value


def running_config() -> RunningConfig:
    """The config in which the calling expression stands.

    MONAI gives an expression no handle on the config that it belongs to; walking up the stack is the only way to the
    merged files and overrides.

    Raises:
        SettingsError: outside a config.
    """
    parser, folder = None, None
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if parser is None and isinstance(owner, ConfigParser):
            parser = owner
        if isinstance(owner, ConfigWorkflow):
            folder = Path(owner.config_root_path)
            break
        frame = frame.f_back
    if parser is None:
        raise SettingsError("this function reads the config that calls it; use it in a bundle's config.")
    return RunningConfig(parser, folder)


def flattened(config: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of a config by their ids, ``{"train#trainer#seed": "@seed"}``; empty lists and dictionaries are leaves.

    Args:
        config: of dictionaries, lists and plain values.
        prefix: id of ``config``.
    """
    if not isinstance(config, (Mapping, list)) or not config:
        return {prefix: config}
    pairs: Any = config.items() if isinstance(config, Mapping) else enumerate(config)
    items: dict[str, Any] = {}
    for name, value in pairs:
        items |= flattened(value, f"{prefix}#{name}" if prefix else str(name))
    return items


def is_free(name: str) -> bool:
    """Whether an id is one of :data:`FREE` or lies below one."""
    parts = re.sub(r"#\d+(?=#|$)", "#*", name).split("#")
    return any("#".join(parts[:length]) in FREE for length in range(1, len(parts) + 1))


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a text, a truth value, None, or a list of such."""
    if isinstance(value, (list, tuple)):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def references(config: Any) -> Iterator[str]:
    """Ids that the texts of a config refer to by ``@`` or ``%``, with ``#`` between their parts."""
    for value in flattened(config).values():
        if isinstance(value, str):
            for match in re.findall(r"[@%](\w+(?:(?:#|::)\w+)*)", value):
                yield match.replace("::", "#")


def _without_showing_handlers(config: dict[str, Any]) -> dict[str, Any]:
    """The config whose lists of handlers have neither what only shows a run nor a place that depends on it."""
    kept = dict(config)
    for section in ("train", "validate"):
        if isinstance(kept.get(section), Mapping) and isinstance(kept[section].get("handlers"), list):
            handlers = [h for h in kept[section]["handlers"] if not any(name in _class_of(h) for name in SHOWING)]
            kept[section] = {**kept[section], "handlers": handlers}
    return kept


def _class_of(component: Any) -> str:
    return str(component.get("_target_", "")) if isinstance(component, Mapping) else ""
