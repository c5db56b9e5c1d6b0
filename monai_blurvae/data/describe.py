"""What a transform is, as JSON: the same for two that do the same, in every process."""

from __future__ import annotations

import enum
import hashlib
import json
import math
import os
import threading
import types
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.data import ImageReader
from monai.transforms import Randomizable

RANDOM_STATES = (np.random.RandomState, np.random.Generator, np.random.BitGenerator, torch.Generator)
OF_THE_PROCESS = (type(threading.Lock()), type(threading.RLock()), threading.local)
"""Locks, and what MONAI's invertible transforms note for each thread when they are called."""
LEFT_BY_USE = ((Randomizable, "_do_transform"), (ImageReader, "filenames"))
"""Attributes that MONAI's classes change whenever they are called."""


def describe_transform(transform: Any) -> Any:
    """Classes and arguments of a transform, however it is composed, in terms of JSON.

    Two descriptions are equal for two parses of the same config, in whatever process, and differ when any argument
    does. An object is described by its class and its attributes, a function by its name and a hash of its code, with
    the values that a lambda refers to, an array or tensor by a hash. Random states and locks do not count; what
    some random transforms of MONAI's keep of their last draw does, so describe them before they are used.

    Args:
        transform: any callable, a ``Compose`` or a list of them.

    Example:
        >>> from monai.transforms import Flip
        >>> describe_transform(Flip(spatial_axis=1)) == describe_transform(Flip(spatial_axis=0))
        False
    """
    return _describe(transform, ())


def transform_key(transform: Any) -> str:
    """Thirty-two hexadecimal digits that identify a transform by its description."""
    return digest_of(describe_transform(transform))


def digest_of(content: Any) -> str:
    """Thirty-two hexadecimal digits that identify JSON-able content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _describe(value: Any, inside: tuple[int, ...]) -> Any:
    """Describe a value inside of others, given by their ids; what contains itself is described by how far up it is."""
    if value is None or type(value) in (bool, int, float, str):
        # JSON knows no infinite numbers, and NaN is unlike itself
        return {"number": repr(value)} if isinstance(value, float) and not math.isfinite(value) else value
    if id(value) in inside:
        return {"contained_in": len(inside) - inside.index(id(value))}
    inside = (*inside, id(value))
    if isinstance(value, Mapping):
        pairs = [[_describe(k, inside), _describe(v, inside)] for k, v in value.items()]
        return {"mapping": sorted(pairs, key=json.dumps)}
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((_describe(v, inside) for v in value), key=json.dumps)}
    if isinstance(value, (list, tuple)):
        return [_describe(v, inside) for v in value]
    return _describe_plain(value) or _describe_callable(value, inside) or _describe_object(value, inside)


def _describe_plain(value: Any) -> dict[str, Any] | None:
    """Values without parts."""
    if isinstance(value, np.generic):
        return {"number": repr(value.item())}
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.as_subclass(torch.Tensor).float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
    if isinstance(value, np.ndarray):
        content = np.ascontiguousarray(value)
        data = content.tobytes() if content.dtype.kind != "O" else repr(content.tolist()).encode()
        return {"array": hashlib.sha256(data).hexdigest(), "type": str(content.dtype), "shape": list(content.shape)}
    if isinstance(value, enum.Enum):
        return {"enum": _name(type(value)), "name": value.name}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, os.PathLike):
        return {"path": os.fspath(value)}
    if isinstance(value, (torch.dtype, torch.device, np.dtype, slice, range, complex)):
        return {_name(type(value)): str(value)}
    if isinstance(value, RANDOM_STATES + OF_THE_PROCESS):
        return {"ignored": _name(type(value))}
    return None


def _describe_callable(value: Any, inside: tuple[int, ...]) -> dict[str, Any] | None:
    """Functions, methods, classes and modules."""
    if isinstance(value, types.ModuleType):
        return {"module": value.__name__}
    if isinstance(value, type):
        return {"class": _name(value)}
    if isinstance(value, partial):
        return {"partial": [_describe(part, inside) for part in (value.func, value.args, value.keywords)]}
    if isinstance(value, types.MethodType):
        return {"method": value.__func__.__qualname__, "of": _describe(value.__self__, inside)}
    if isinstance(value, (types.BuiltinFunctionType, np.ufunc)):
        return {"function": f"{getattr(value, '__module__', '')}.{value.__name__}"}
    if isinstance(value, types.FunctionType):
        found = {"function": _name(value), "code": _hash_of_code(value.__code__)}
        if "<" not in value.__qualname__:  # a name that others can import says it all
            return found
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        outside = [cells, value.__defaults__, value.__kwdefaults__, _globals_used(value)]
        return {**found, "values": [_describe(part, inside) for part in outside]}
    return None


def _describe_object(value: Any, inside: tuple[int, ...]) -> dict[str, Any]:
    """Any other object by its attributes, or, if it has none, by what it would be pickled as."""
    attributes = dict(getattr(value, "__dict__", {}))
    if not attributes:
        try:
            parts: Any = value.__reduce_ex__(2)[1:3]
        except Exception:  # what cannot be pickled may raise anything, and is then known by its class alone
            parts = None
        return {"object": _name(type(value)), "state": _describe(parts, inside)}
    kept = {
        name: _describe(attributes[name], inside)
        for name in sorted(attributes)
        if not isinstance(attributes[name], RANDOM_STATES + OF_THE_PROCESS) and not _left_by_use(value, name)
    }
    return {"object": _name(type(value)), "attributes": kept}


def _left_by_use(value: Any, attribute: str) -> bool:
    return any(isinstance(value, kind) and attribute == name for kind, name in LEFT_BY_USE)


def _globals_used(function: types.FunctionType) -> dict[str, Any]:
    """The global values that a lambda refers to; of a dictionary, the entries that its code names.

    MONAI's configs turn ``@reference`` into ``__local_refs['reference']``, an entry of a dictionary of everything.
    """
    used: dict[str, Any] = {}
    for code in _codes(function.__code__):
        constants = [constant for constant in code.co_consts if isinstance(constant, str)]
        for name in code.co_names:
            if name in function.__globals__:
                value = function.__globals__[name]
                is_dict = isinstance(value, dict)
                used[name] = {key: value[key] for key in constants if key in value} if is_dict else value
    return used


def _codes(code: types.CodeType) -> list[types.CodeType]:
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return [code, *(deeper for constant in inner for deeper in _codes(constant))]


def _hash_of_code(code: types.CodeType) -> str:
    parts = [
        (c.co_code.hex(), c.co_names, [repr(k) for k in c.co_consts if not isinstance(k, types.CodeType)])
        for c in _codes(code)
    ]
    return digest_of(parts)


def _name(named: Any) -> str:
    return f"{named.__module__}.{named.__qualname__}"
