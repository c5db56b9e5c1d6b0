"""The configs that a run leaves in its folder: what ran, and an inference and metadata with its own values."""

from __future__ import annotations

import json
import pydoc
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_blurvae.data import DatasetFacts
from monai_blurvae.files import read_object, write_json, write_text
from monai_blurvae.networks import BlurVAE, BlurVAEReconstructor, LatentImageModel, PatchModel, as_reconstructor
from monai_blurvae.run_files import CONFIG, INFERENCE, METADATA, MODEL
from monai_blurvae.running import RunningConfig, references

LOGGING = "logging.conf"
MULTI_GPU = "multi_gpu_train.json"
"""In the folder of a bundle: the overlay that makes of a training one in several processes."""
FROM_RUN = re.compile(r"\$@finished_run\.setting\('(\w+)'")
"""A setting of an inference that comes from the run."""


def write_configs(folder: Path, config: RunningConfig, training: DatasetFacts) -> None:
    """Write ``config.json`` (last, since it tells that the record is whole), ``inference.json`` and ``metadata.json``.

    There is an inference of a model of images only.

    Args:
        folder: of the run.
        config: that runs.
        training: facts of the training data.
    """
    resolved = config.resolved() | {"run_dir": None, "resume": False}
    source = source_folder(config)
    if source is not None:
        if (source / LOGGING).is_file():  # MONAI looks for it beside the config
            write_text(folder / LOGGING, (source / LOGGING).read_text(encoding="utf-8"))
        if (source / METADATA).is_file():
            write_json(folder / METADATA, run_metadata(read_object(source / METADATA), resolved))
        if trains_images(resolved) and (source / INFERENCE).is_file():
            inference = read_object(source / INFERENCE)
            place = {"bundle_root": str(folder.absolute()), "model_file": f"$@bundle_root + '/{MODEL}'"}
            write_json(folder / INFERENCE, with_run_values(inference, resolved) | place)
    write_json(folder / CONFIG, resolved)


def in_one_process(config: Mapping[str, Any], train: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a training in several processes without the overlay that made it one.

    Args:
        config: of the training; without the overlay it stays as it is.
        train: the bundle's own, where values come back from.
        overlay: the bundle's.
    """
    made, own = ConfigParser(json.loads(json.dumps(config))), ConfigParser(dict(train))
    for name in overlay if "world_size" in config else ():
        section, _, key = name.rpartition("#")
        if name in own:
            made[name] = own[name]
        else:
            made[section].pop(key, None)
    result: dict[str, Any] = made.get()
    return result


def trains_images(config: Mapping[str, Any]) -> bool:
    """Whether the network of a training is a model of images, which the bundles' evaluation and inference are for.

    Args:
        config: of the training; one of another kind may be without a network.
    """
    return issubclass(_network_class(config), LatentImageModel)


def trains_another_model(config: Mapping[str, Any]) -> bool:
    """Whether it is a model of images that the settings of a BlurVAE say nothing of.

    Args:
        config: likewise.
    """
    return trains_images(config) and not issubclass(_network_class(config), BlurVAE)


def is_prior(config: Mapping[str, Any]) -> bool:
    """Whether it is a learned prior of patches.

    Args:
        config: likewise.
    """
    return issubclass(_network_class(config), PatchModel)


def _network_class(config: Mapping[str, Any]) -> type:
    """Its class, or ``object`` where that is not known."""
    network = config.get("network_def")
    found = pydoc.locate(str(network.get("_target_", ""))) if isinstance(network, Mapping) else None
    return found if isinstance(found, type) else object


def source_folder(config: RunningConfig) -> Path | None:
    """The folder with the bundle's own files: that of the first config file, or the bundle's root."""
    root = Path(str(config.parser.get_parsed_content("bundle_root"))) if "bundle_root" in config.parser.get() else None
    candidates = [config.folder, root, None if root is None else root / "configs"]
    return next((folder for folder in candidates if folder is not None and (folder / METADATA).is_file()), None)


def with_run_values(config: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """An inference or evaluation config with the values of a training in place of those that it would ask the run for.

    Args:
        config: the bundle's.
        trained: resolved config of the training.
    """
    made = dict(config)
    for name, value in config.items():
        match = FROM_RUN.match(value) if isinstance(value, str) else None
        if match and match.group(1) in trained:
            made[name] = trained[match.group(1)]
    if not trains_images(trained):  # its evaluation asks the run for network and transforms
        return made
    made["network_def"] = _network_with_run_values(config["network_def"], trained)
    made["deterministic_transforms"] = trained["train"]["deterministic_transforms"]
    for name in references([made["deterministic_transforms"], made["network_def"]]):
        top = name.split("#")[0]
        if top not in made and top in trained:
            made[top] = trained[top]
    return made


def _network_with_run_values(network: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """The network of an inference or evaluation as a training had it: its arguments, or another one."""
    own: dict[str, Any] = trained["network_def"]
    if not trains_another_model(trained):
        return {**network, **{name: own[name] for name in network if name in own and name != "_target_"}}
    reconstructs = network["_target_"].endswith(BlurVAEReconstructor.__name__)
    return {"_target_": f"monai_blurvae.networks.{as_reconstructor.__name__}", "network": own} if reconstructs else own


def run_metadata(metadata: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """A bundle's metadata with the number of channels and the size of the images of a training.

    Args:
        metadata: the bundle's.
        trained: resolved config of the training.
    """
    made: dict[str, Any] = json.loads(json.dumps(metadata))
    for kind, name in (("inputs", "image"), ("outputs", "pred")):
        described = made["network_data_format"][kind][name]
        described["spatial_shape"] = [trained["patch_size"]] * len(described["spatial_shape"])
        channels = trained.get("in_channels", described["num_channels"])
        described["num_channels"] = channels
        if len(described["channel_def"]) != channels:
            described["channel_def"] = {str(i): f"channel {i}" for i in range(channels)}
    return made
