"""CIFAR-10's python version as a data list."""

from __future__ import annotations

from pathlib import Path

from monai_blurvae.errors import DataError
from monai_blurvae.transforms.cifar import read_cifar_batch

TRAINING_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_BATCH = "test_batch"
CIFAR_FOLDER = "cifar-10-batches-py"
"""What the archive unpacks to."""


def find_cifar_batches(dataset_dir: str | Path) -> Path | None:
    """The folder with the batches: ``dataset_dir`` itself or ``cifar-10-batches-py`` in it; None if there is none."""
    for folder in (Path(dataset_dir), Path(dataset_dir) / CIFAR_FOLDER):
        if any((folder / name).is_file() for name in (*TRAINING_BATCHES, TEST_BATCH)):
            return folder
    return None


def list_cifar_images(folder: str | Path) -> dict[str, list[dict[str, str]]]:
    """Every row of the batches as an entry of a data list; reads them all, about a second, so that none is broken.

    Args:
        folder: see :func:`find_cifar_batches`.

    Returns:
        ``training``, the rows of the five training batches, and ``test``; ``{"image": "data_batch_1#17", "subject":
        "data_batch_1#17"}``.

    Raises:
        DataError: if a batch is missing, or as :func:`read_cifar_batch` says.
    """
    for name in (*TRAINING_BATCHES, TEST_BATCH):
        if not (Path(folder) / name).is_file():
            raise DataError(
                f"{folder} has no {name}, one of the six batches of CIFAR-10; unpack cifar-10-python.tar.gz again."
            )
    training = [entry for name in TRAINING_BATCHES for entry in _rows(Path(folder) / name)]
    return {"training": training, "test": _rows(Path(folder) / TEST_BATCH)}


def _rows(path: Path) -> list[dict[str, str]]:
    names = [f"{path.name}#{row}" for row in range(len(read_cifar_batch(path)))]
    return [{"image": name, "subject": name} for name in names]
