"""Images of CIFAR-10 in its python version: pickled batches, read without running anything that a pickle may ask for.

Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. An image of a batch goes by the name of the
file and the row in it, ``data_batch_1#17``.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from monai_blurvae.errors import DataError

IMAGE_SHAPE = (3, 32, 32)
ROW = re.compile(r"(.+)#([0-9]{1,9})", re.DOTALL)
"""The path of a batch and a row in it."""
BATCHES_IN_MEMORY = 6
"""All, 31 MB each: images are drawn in random order, and with fewer nearly every one would cost reading a batch."""


class _ArrayType:
    """In place of ``numpy.ndarray``, which the pickles only name."""


class _DataType:
    """In place of ``numpy.dtype``."""

    def __init__(self, code: bytes | str, *_: object) -> None:
        self.code = code.decode("ascii", "replace") if isinstance(code, bytes) else str(code)

    def __setstate__(self, state: object) -> None:
        pass  # byte order and fields, which a single byte has not


class _Array:
    """In place of an array: its pickled state, not looked at before it is known which array it is."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Scalar:
    """In place of a NumPy number, such as a label; its value is not looked at."""

    def __init__(self, *_: object) -> None:
        pass


def _from_buffer(data: object, data_type: object, shape: object, order: object, *_: object) -> _Array:
    """In place of the function of protocol 5, which gives no state of its own."""
    if order not in ("C", "F"):
        raise pickle.UnpicklingError(f"it has an array in the order {order!r}, where C or F is expected")
    array = _Array()
    array.state = (1, shape, data_type, order == "F", data)
    return array


def _bytes(*arguments: object) -> bytes:
    """In place of what makes bytes where a protocol has none: of no size but that of what is written in the file."""
    match arguments:
        case ():
            return b""
        case (bytes() | bytearray() as data,):
            return bytes(data)
        case (str() as text, "latin1" | "latin-1" | b"latin1" | b"latin-1"):
            return text.encode("latin-1")
    raise pickle.UnpicklingError("it has bytes in another form than Python writes them")


STAND_INS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _DataType,
    ("_codecs", "encode"): _bytes,
    **{(module, name): _bytes for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _BatchUnpickler(pickle.Unpickler):
    """Knows arrays by stand-ins of its own and nothing else, so that neither NumPy nor anything else is called."""

    def find_class(self, module_name: str, global_name: str) -> Callable[..., object]:
        """The stand-in of a NumPy name.

        Raises:
            pickle.UnpicklingError: for any other class or function, naming it.
        """
        if (module_name, global_name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which no array needs")
        return STAND_INS[module_name, global_name]


def read_cifar_batch(path: str | Path) -> npt.NDArray[np.uint8]:
    """The images of a batch.

    Args:
        path: ``data_batch_1`` to ``data_batch_5`` or ``test_batch`` of the python version, as distributed or pickled
            again by Python 2 or 3 in any protocol. Its pickle may name NumPy's arrays and numbers, under their old or
            new module, and nothing else.

    Returns:
        (N, 3, 32, 32), red, green and blue, 0 to 255, read-only.

    Raises:
        DataError: if the file is missing, cut off, asks for anything but arrays or holds no such images.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check dataset_dir.") from error
    try:
        # What Python 2 wrote as text comes as bytes.
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
        return _images(batch)
    except Exception as error:  # a damaged pickle can raise anything
        cut = isinstance(error, EOFError) or "truncated" in str(error)
        reason = f"it is cut off after {len(content)} bytes" if cut else error
        raise DataError(
            f"{path} is no batch of CIFAR-10's python version ({reason}); unpack cifar-10-python.tar.gz again."
        ) from error


def _images(batch: object) -> npt.NDArray[np.uint8]:
    """The entry ``data`` of a batch: (N, 3072) uint8."""
    if not isinstance(batch, dict):
        raise pickle.UnpicklingError(f"it holds a {type(batch).__name__}, not a dictionary")
    array = batch.get(b"data", batch.get("data"))
    if not isinstance(array, _Array) or not isinstance(array.state, tuple) or len(array.state) != 5:
        raise pickle.UnpicklingError("it has no array 'data'")
    _, shape, data_type, fortran, data = array.state
    if not isinstance(data_type, _DataType) or data_type.code != "u1":
        code = getattr(data_type, "code", data_type)
        raise pickle.UnpicklingError(f"its 'data' are of the type {code}, where u1 is expected")
    pixels = math.prod(IMAGE_SHAPE)
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] != pixels or shape[0] < 1:
        raise pickle.UnpicklingError(f"its 'data' have the shape {shape}, where (N, {pixels}) is expected")
    rows = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")
    images: npt.NDArray[np.uint8] = np.ascontiguousarray(rows).reshape(-1, *IMAGE_SHAPE)
    images.flags.writeable = False
    return images


def is_cifar_row(path: str) -> bool:
    """Whether a path names a row of a batch, as ``"…/data_batch_1#17"`` does: the name of no image ends so."""
    return ROW.fullmatch(path) is not None


def read_cifar_image(path: str) -> Image.Image:
    """One image of a batch; the batches are kept in memory, up to 184 MB in each process that reads images of all.

    Args:
        path: of the batch and the row in it, ``"…/data_batch_1#17"``.

    Returns:
        RGB, 32×32.

    Raises:
        DataError: if the path does not end so, there is no such row, or as :func:`read_cifar_batch` says.
    """
    match = ROW.fullmatch(path)
    if match is None:
        raise DataError(f"{path} does not name a row of a CIFAR-10 batch; write it like data_batch_1#17.")
    file, row = Path(match.group(1)), int(match.group(2))
    images = _cached_batch(file, *_version(file))
    if row >= len(images):
        raise DataError(f"{path} names a row that is not there: {file} has the rows 0 to {len(images) - 1}.")
    return Image.fromarray(np.ascontiguousarray(images[row].transpose(1, 2, 0)))


@lru_cache(maxsize=BATCHES_IN_MEMORY)
def _cached_batch(path: Path, *_version: int) -> npt.NDArray[np.uint8]:
    return read_cifar_batch(path)


def _version(path: Path) -> tuple[int, int]:
    """What tells a file from the one that was there before."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0  # which reading it will explain
    return status.st_mtime_ns, status.st_size
