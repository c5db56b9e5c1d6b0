"""What has a state that an interrupted training needs, and where it hangs on an engine."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from ignite.engine import Engine
from ignite.metrics import Metric
from torch import nn

from monai_blurvae.networks import unwrapped


@runtime_checkable
class Stateful(Protocol):
    """What a checkpoint can hold: networks, optimizers, schedulers, averaged models, scalers, some handlers."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take the state back."""


def forgotten(engine: Engine, known: Iterable[Any]) -> list[str]:
    """Names of what has a state, hangs on an engine or on one of its handlers, and is none of what is known.

    Engines and metrics do not count: their states begin anew.

    Args:
        engine: whose attributes are searched, those of its handlers, and what lies in lists and dictionaries there.
        known: objects with a state; a module stands for its submodules too.
    """
    ids = {id(part) for item in known for part in _parts(item)}
    found: dict[int, str] = {}
    for owner in (engine, *_handlers(engine)):
        for name, item in _attributes(owner):
            if _has_state(item) and id(unwrapped(item)) not in ids:
                place = f"{name} of {type(owner).__name__}, {type(item).__name__}," if name else type(item).__name__
                found.setdefault(id(unwrapped(item)), place)
    return list(found.values())


def _has_state(item: Any) -> bool:
    if not isinstance(item, Stateful) or isinstance(item, type | Engine | Metric):
        return False
    return not isinstance(item, nn.Module) or bool(item.state_dict())


def _parts(item: Any) -> Iterator[Any]:
    item = unwrapped(item)
    yield item
    if isinstance(item, nn.Module):
        yield from item.modules()


def _handlers(engine: Engine) -> Iterator[Any]:
    """The objects that were attached, by way of a method or of themselves."""
    for entries in engine._event_handlers.values():
        for function, *_ in entries:
            while isinstance(function, functools.partial) or hasattr(function, "__wrapped__"):
                function = function.func if isinstance(function, functools.partial) else function.__wrapped__
            handler = getattr(function, "__self__", function)
            if hasattr(handler, "__dict__") and not isinstance(handler, Engine | Metric):
                yield handler


def _attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    yield "", owner
    for name, value in vars(owner).items():
        if isinstance(value, Mapping) and not isinstance(value, Stateful):
            yield from ((f"{name}[{key!r}]", item) for key, item in value.items())
        elif isinstance(value, list | tuple):
            yield from ((f"{name}[{i}]", item) for i, item in enumerate(value))
        else:
            yield name, value
