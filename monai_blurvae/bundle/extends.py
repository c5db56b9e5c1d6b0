"""What the bundles share: configs of this package that a bundle's file extends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from monai_blurvae.errors import SettingsError

EXTENDS = "extends"
"""The key that names the shared config, a file in ``bundle/shared`` without its suffix."""


def extended(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the one that it extends put underneath, and so on; without the key ``extends``.

    Sections are merged key by key, and what the config says wins, as in MONAI's overlays. A component, that is a
    section with a ``_target_`` of its own, replaces the shared one whole. Lists are joined: handlers that a config
    names come after the shared ones. A bundle's file names the shared sections as empty ones, since MONAI's nested
    overrides (``--train#trainer#max_epochs 3``) and its experiment tracking look for them before anything is run.

    Args:
        config: of a bundle, overlays and overrides included.

    Raises:
        SettingsError: if there is no such shared config.
    """
    own = {name: value for name, value in config.items() if name != EXTENDS}
    if config.get(EXTENDS) is None:
        return own
    return _over(extended(_shared(config[EXTENDS])), own)


def _shared(name: Any) -> dict[str, Any]:
    folder = files("monai_blurvae.bundle") / "shared"
    names = sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json"))
    if name not in names:
        raise SettingsError(f"'{EXTENDS}' is {name!r}, but has to be one of {', '.join(names)}.")
    shared: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return shared


def _over(base: Any, own: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(own, Mapping) and "_target_" not in own:
        merged = {name: _over(value, own[name]) if name in own else value for name, value in base.items()}
        return merged | {name: value for name, value in own.items() if name not in base}
    if isinstance(base, list) and isinstance(own, list):
        return base + own
    return own
