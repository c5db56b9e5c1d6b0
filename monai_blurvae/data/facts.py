"""What a run records of a dataset and of a transform, and the order of what it sees."""

from __future__ import annotations

import enum
import hashlib
import json
import logging
import math
import os
import threading
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import ImageReader
from monai.transforms import Randomizable
from torch import Tensor

from monai_blurvae.errors import DataError
from monai_blurvae.seeding import numpy_rng

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetFacts:
    """What a run records of a dataset, by its method ``facts``.

    Attributes:
        entries: what is used: dictionaries with ``image`` (absolute path) and ``subject``, ``sha256`` of the file
            where it is known without reading it anew, and ``name`` where a subject has several.
        skipped: one sentence for each file that could not be used and was left out.
        remark: what every table of results has to say of the data, for example that it is synthetic; mostly nothing.
        voxel_sizes: in mm along the axes of a patch, (row, column) or (x, y, z), of each volume; none for photographs.
        digest: sixteen hexadecimal digits that tell whether a run is resumed with the data that it began with.
        identities: what tells two images apart across data lists.
        kind: ``"patches"``, ``"cubes"``, ``"images"`` or ``""``.
    """

    entries: list[dict[str, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    remark: str = ""
    voxel_sizes: list[tuple[float, ...]] = field(default_factory=list)
    digest: str = ""
    identities: frozenset[str] = frozenset()
    kind: str = ""

    def count_text(self, count: int) -> str:
        """What ``count`` samples are, for example ``"32 patches of 2 subjects"`` or ``"3 images"``."""
        one, many = {"patches": ("patch", "patches"), "cubes": ("cube", "cubes")}.get(self.kind, ("image", "images"))
        counted = f"{count} {one if count == 1 else many}"
        if one == "image":
            return counted
        subjects = len({entry["subject"] for entry in self.entries})
        return f"{counted} of {subjects} subject{'' if subjects == 1 else 's'}"


def facts_of(dataset: Any) -> DatasetFacts:
    """The facts of a dataset; of one without a method ``facts``, such as a user's own, nothing is known."""
    if hasattr(dataset, "facts"):
        found: DatasetFacts = dataset.facts()
        return found
    return DatasetFacts()


def require_distinct_contents(facts: Mapping[str, DatasetFacts]) -> None:
    """Check that no file is in two splits under two names, as far as checksums are known.

    One file under one name was put into both by whoever overrode the data of a split; that is warned of.

    Args:
        facts: of each split.

    Raises:
        DataError: naming two files with the same content.
    """
    seen: dict[str, tuple[str, str]] = {}
    for split, fact in facts.items():
        for entry in fact.entries:
            if "sha256" not in entry:
                continue
            before, image = seen.setdefault(entry["sha256"], (split, entry["image"]))
            if before != split and image == entry["image"]:
                logger.warning(f"{image} is in the splits {before} and {split}, so that their figures are not apart.")
            elif before != split:
                raise DataError(
                    f"{image} ({before}) and {entry['image']} ({split}) have the same content, which must not be in "
                    "two splits; remove one, or give them one subject by subject_pattern or in a datalist."
                )


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


class EpochOrder:
    """The random order of a dataset in each epoch, a function of (seed, epoch).

    Args:
        size: of the dataset.
        seed: of the order.

    Example:
        >>> order = EpochOrder(3, seed=0)
        >>> sorted(order[index] for index in (3, 4, 5))
        [(1, 0), (1, 1), (1, 2)]
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self._newest: tuple[int, npt.NDArray[np.int64]] = (-1, np.zeros(0, np.int64))

    def __getitem__(self, index: int) -> tuple[int, int]:
        """The epoch of index n = epoch · size + i, which runs on over all epochs, and what is i-th in its order.

        Raises:
            IndexError: for a negative index, or if there is nothing to order.
        """
        if index < 0 or not self.size:
            raise IndexError(index)
        epoch, i = divmod(index, self.size)
        if self._newest[0] != epoch:
            self._newest = (epoch, numpy_rng(self.seed, "order", epoch).permutation(self.size))
        return epoch, int(self._newest[1][i])


def evenly_spread(size: int, most: int | None) -> list[int]:
    """Indices of ``most`` of ``size`` things, of all where there are fewer, evenly spread, from the first on.

    Args:
        size: how many there are.
        most: how many are wanted; None for all.
    """
    number = size if most is None else min(size, most)
    return [i * size // number for i in range(number)]


def reference_images(dataset: Any, most: int, most_values: int) -> Tensor:
    """Images of a training, evenly spread over the data, the same at every call and for every seed.

    A dataset with a method ``unshuffled``, as this package's have, gives what an evaluation of its data would see.
    Of any other, such as a user's own, they are items by their index.

    Args:
        dataset: of ``{"image"}``, ``(C, *image_size)`` in [−1, 1]. Images that it skips are left out.
        most: how many at most.
        most_values: how many numbers they may have altogether at most, to bound the memory.

    Returns:
        ``(N, C, *image_size)`` float32.

    Raises:
        DataError: if there are none, or one cannot be used.
    """
    fixed = dataset.unshuffled(most) if hasattr(dataset, "unshuffled") else dataset

    def image(index: int) -> Tensor | None:
        try:
            return torch.as_tensor(fixed[index]["image"], dtype=torch.float32)
        except DataError:
            if getattr(dataset, "skip_bad_files", False):
                return None
            raise

    first = next((found for found in map(image, range(len(fixed))) if found is not None), None)
    if first is None:
        raise DataError("the training has no images that can be used; give its data.")
    images = map(image, evenly_spread(len(fixed), min(most, max(1, most_values // first.numel()))))
    return torch.stack([found for found in images if found is not None] or [first])
