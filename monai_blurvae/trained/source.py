"""Reading what a finished run or a packed bundle holds, without running anything from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_blurvae import __version__
from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import read_object
from monai_blurvae.handlers.checkpoint import load_safely
from monai_blurvae.run_files import SUMMARY
from monai_blurvae.runs.run import Run
from monai_blurvae.runs.training import versions


def read_weights(run: Run) -> dict[str, Any]:
    """The ``state_dict`` of the best model of a run or of a packed bundle.

    Nothing is run: the config is read as data, the weights with ``weights_only``.

    Args:
        run: to read.

    Raises:
        RunFolderError: if it is neither, broken, unfinished, or of another version of this package.
    """
    if not run.is_packed:
        _require_finished(run.path)
    run.require_version()
    weights = load_safely(run.model_file)
    if not isinstance(weights, dict):
        raise RunFolderError(f"{run.model_file} holds no network weights; give a model.pt.")
    return weights


def is_of_volumes(config: Mapping[str, Any]) -> bool:
    """Whether the images of a training are slices of volumes, not files of images.

    Args:
        config: of the training.
    """
    transforms = config.get("train", {}).get("deterministic_transforms") or ()
    return not any(str(item.get("_target_", "")).endswith("PrepareImaged") for item in transforms)


def summary_of(folder: Path) -> dict[str, Any]:
    """What a finished training found.

    Raises:
        RunFolderError: if it is not finished.
    """
    _require_finished(folder)
    return read_object(folder / SUMMARY)


def _require_finished(folder: Path) -> None:
    if not (folder / SUMMARY).is_file():
        raise RunFolderError(f"{folder} holds no {SUMMARY}, since its training is not finished; go on with it first.")


def release_metadata(metadata: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """MONAI's metadata of a model that leaves, with its test's metrics and the versions of this environment.

    Args:
        metadata: of the run.
        summary: of its training.
    """
    here = versions()
    required = {name: here.get(name) or version for name, version in metadata["required_packages_version"].items()}
    remark = {"data_remark": summary["remark"]} if summary["remark"] else {}
    return {
        **metadata,
        "eval_metrics": {name: round(value, 4) for name, value in summary["test"].items()},
        **remark,
        "version": __version__,
        "changelog": {**metadata["changelog"], __version__: "packed from a finished run"},
        "monai_version": here["monai"],
        "pytorch_version": str(here["torch"]).split("+")[0],
        "numpy_version": here["numpy"],
        "required_packages_version": required,
    }
