"""Where an evaluation, an inference and a comparison find a trained model and what it was trained with."""

from __future__ import annotations

import json
import logging
import pydoc
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.transforms import Compose
from torch import nn

from monai_blurvae import SAMPLE_MODEL, __version__
from monai_blurvae.data import Datalist, SizedDataset, facts_of
from monai_blurvae.data.datalist import image_file
from monai_blurvae.errors import DataError, RunFolderError
from monai_blurvae.files import default_cache_dir, make_folder, read_object
from monai_blurvae.handlers.checkpoint import load_weights
from monai_blurvae.losses import ELBOLoss
from monai_blurvae.networks import BlurVAE, BlurVAEReconstructor, LatentImageModel, as_reconstructor
from monai_blurvae.run_files import (
    CONFIG,
    DATALIST,
    DENSITIES,
    EVALUATION,
    LINEAR,
    METRICS_CSV,
    MODEL,
    PACKED,
    PACKED_METADATA,
    PACKED_REFERENCE,
    SETTINGS,
    SUMMARY,
    VERSIONS,
    unpack,
)
from monai_blurvae.running import is_plain
from monai_blurvae.runs.configs import is_prior, trains_another_model
from monai_blurvae.runs.settings import TrainedObjective
from monai_blurvae.runs.training import PACKAGE, new_numbered_folder, numbered_folders

logger = logging.getLogger(__name__)

SECTIONS = {"training": "train", "validation": "validate", "test": "test"}
"""The sections of a config by the split that they are of."""

SAMPLE = SAMPLE_MODEL.stem
"""The word for the model that comes with the package."""


class Run:
    """A training that an evaluation or inference takes its model, data and settings from: a run or a packed bundle.

    Nothing is looked up before it is asked for, so that a config that names one can be parsed where there is none. A
    zip lies unpacked in a temporary folder as long as the object lives. Config and transforms of either are code, as
    those of every bundle of MONAI's; files of weights and figures are read as data.

    Args:
        run_dir: the folder of a run, that of a packed bundle, its zip, or :data:`SAMPLE` for the model that comes with
            the package.
        output_dir: without ``run_dir``, the newest finished run in there is taken, if there is one.
        bundle_root: without either, the bundle itself is taken where it holds a trained model.
    """

    def __init__(
        self,
        run_dir: str | Path | None = None,
        output_dir: str | Path | None = None,
        bundle_root: str | Path | None = None,
    ) -> None:
        self._places = [None if place is None else Path(place).expanduser() for place in (run_dir, bundle_root)]
        self._output_dir = None if output_dir is None else Path(output_dir).expanduser()
        self._zip: Path | None = None
        self._found: tuple[Path, Path, Path] | None = None
        self._config: dict[str, Any] | None = None
        self._settings: dict[str, Any] | None = None
        self._evaluation_dir: Path | None = None

    @property
    def path(self) -> Path:
        """The folder.

        Raises:
            RunFolderError: if there is no such run.
        """
        return self._files()[0]

    @property
    def name(self) -> Path:
        """What messages call it: the folder, or the zip.

        Raises:
            RunFolderError: if there is no such run.
        """
        return self.path if self._zip is None else self._zip

    @property
    def is_packed(self) -> bool:
        """Whether it is a packed bundle, which comes without images and with what was made of them.

        Raises:
            RunFolderError: if there is no such run.
        """
        return self._files()[1].name != CONFIG

    @property
    def model_file(self) -> Path:
        """Weights of the best model.

        Raises:
            RunFolderError: if there is no such run.
        """
        return self._files()[2]

    @property
    def linear_file(self) -> Path:
        """The linear models that the run kept beside its weights; it need not be there.

        Raises:
            RunFolderError: if there is no such run.
        """
        return self.model_file.with_name(LINEAR)

    @property
    def densities_file(self) -> Path:
        """Of a packed bundle, what was fitted around its decoder; it need not be there.

        Raises:
            RunFolderError: if there is no such run.
        """
        return self.model_file.with_name(DENSITIES)

    @property
    def settings_file(self) -> Path:
        """What the model was trained with.

        Raises:
            RunFolderError: if there is no such run.
        """
        return self.model_file.with_name(SETTINGS)

    @property
    def reference_file(self) -> Path:
        """Of a packed bundle, the scores of its validation subjects; it need not be there.

        Raises:
            RunFolderError: if there is no such run.
        """
        return self.model_file.with_name(PACKED_REFERENCE)

    @property
    def cache_dir(self) -> str:
        """The store of the training, where it is there; else the user's."""
        own = Path(str(self.setting("cache_dir", "") or default_cache_dir()))
        return str(own) if own.is_dir() else default_cache_dir()

    @property
    def datalist_file(self) -> str | None:
        """The run's data list; None where there is no run, or a bundle that comes without data."""
        path = self._files()[0] / DATALIST if self.exists else None
        return str(path) if path is not None and path.is_file() else None

    @property
    def exists(self) -> bool:
        """Whether there is such a run."""
        try:
            self._files()
        except RunFolderError:
            return False
        return True

    def require(self, model_file: str | Path | None = None) -> None:
        """Say at once what is missing.

        Args:
            model_file: weights that were given by themselves, so that no run is needed.

        Raises:
            RunFolderError: if there is neither, or a bundle that another version packed.
        """
        if model_file is None:
            if self.is_packed:
                self.require_version()
            logger.info(f"The model is that of {self.name}.")

    def require_version(self) -> None:
        """Refuse what another version wrote, whose files may mean something else; the last number may differ.

        Raises:
            RunFolderError: if it did.
        """
        if self.is_packed:
            made_by = read_object(self.path / PACKED_METADATA).get("required_packages_version", {}).get(PACKAGE)
        else:
            made_by = read_object(self.path / VERSIONS).get(PACKAGE)
        if str(made_by).split(".")[:2] != __version__.split(".")[:2]:
            raise RunFolderError(
                f"{self.name} was made by {PACKAGE} {made_by or 'of no known version'}, and this is {__version__}; "
                "install that version, or train again."
            )

    @property
    def config(self) -> dict[str, Any]:
        """The run's config as it ran; empty where there is none.

        Raises:
            RunFolderError: if it cannot be read.
        """
        if self._config is None:
            self._config = read_object(self._files()[1], "take another run") if self.exists else {}
        return self._config

    def setting(self, name: str, default: Any) -> Any:
        """The value that the training had for a top-level key.

        Args:
            name: of the key.
            default: where there is no run, or it has no such key.
        """
        return self.argument(name, default)

    def argument(self, name: str, default: Any) -> Any:
        """The plain value that the training had for an id of its config.

        Args:
            name: for example ``"network_def#kernel_normalization"``.
            default: where there is no run, or it has no plain value there.
        """
        value: Any = self.config
        for part in name.split("#"):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        expression = isinstance(value, str) and value.startswith(("$", "@", "%"))
        return default if expression or not is_plain(value) else value

    @property
    def is_prior(self) -> bool:
        """Whether it is the training of a learned prior; False where there is no run."""
        return is_prior(self.config)

    def preprocessing(self, transforms: Sequence[Any]) -> Compose:
        """The deterministic transforms of the training.

        Args:
            transforms: those to take where there is no run.
        """
        if "train" not in self.config:
            return Compose(list(transforms))
        return self.parser().get_parsed_content("train#preprocessing")

    def parser(self) -> ConfigParser:
        """A parser of the run's config, which is code: what it parses is built as the training built it."""
        return ConfigParser(json.loads(json.dumps(self.config)))

    def network(self, device: str = "cpu") -> LatentImageModel:
        """The trained network in evaluation mode.

        Args:
            device: to put it on.

        Raises:
            RunFolderError: if the weights cannot be read.
        """
        network = self.untrained_network()
        load_weights(network, self.model_file)
        return network.to(device).eval()

    def architecture(self, network: nn.Module) -> nn.Module:
        """The network that the run's weights are for, untrained.

        Args:
            network: of the bundle, which is taken unless the run trained a model of images of another class. That one
                gets a forward like its.
        """
        ours = isinstance(network, (BlurVAE, BlurVAEReconstructor))  # else it is the run's already
        if not ours or not self._trained_another_model():
            return network
        own = self.untrained_network()
        return own if isinstance(network, BlurVAE) else as_reconstructor(own)

    @property
    def latent_size(self) -> int:
        """Of the trained model of images; 0 where the run has none."""
        return int(self.settings.get("latent_size", 0))

    def _trained_another_model(self) -> bool:
        if "network_def" in self.config:
            _locate(self.config["network_def"])  # says what is not installed
        return trains_another_model(self.config)

    def untrained_network(self) -> LatentImageModel:
        """The network as the training built it, with random weights."""
        network: LatentImageModel = self.parser().get_parsed_content("network_def")
        return network

    @property
    def settings(self) -> dict[str, Any]:
        """What the model was trained with, see :func:`~monai_blurvae.runs.settings.settings_of`.

        Empty for weights without a run.

        Raises:
            RunFolderError: if the file is not there or cannot be read.
        """
        if self._settings is None:
            self._settings = read_object(self.settings_file, "take another run") if self.exists else {}
        return self._settings

    def objective(self) -> TrainedObjective:
        """What the model was trained with.

        Raises:
            RunFolderError: as of :attr:`settings`, or for a model of patches.
        """
        if "objective" not in self.settings:
            raise RunFolderError(f"{self.name} holds no objective of a model of images; take the run of one.")
        return TrainedObjective.read(self.settings["objective"])

    def closed_form_objective(self) -> ELBOLoss | None:
        """The objective that the model was trained with, where a linear model of it has a closed form; else None.

        Objectives of other terms are not built, which might need weights that are not there.
        """
        if not self.settings or not self.objective().has_closed_form:  # there may be a file of weights and no run
            return None
        objective = self.parser().get_parsed_content("train#objective")
        return objective if isinstance(objective, ELBOLoss) else None

    def dataset(self, section: str, items: Sequence[Mapping[str, str]], cache_dir: str | Path) -> SizedDataset:
        """The dataset of a section of the run's config for other items.

        Args:
            section: ``"train"``, ``"validate"`` or ``"test"``.
            items: ``{"image", "subject"}``.
            cache_dir: of the store.

        Raises:
            DataError: if a file cannot be used.
        """
        parser = self.parser()
        parser["cache_dir"] = str(cache_dir)
        parser["skip_bad_files"] = False
        names = [name for name in parser[f"{section}#dataset"] if not name.startswith("_") and name != "data"]
        resolved = {name: parser.get_parsed_content(f"{section}#dataset#{name}") for name in names}
        # not through the config: MONAI changes the # of a CIFAR row in its texts
        dataset: SizedDataset = _locate(parser[f"{section}#dataset"])(data=list(items), **resolved)
        return dataset

    def validation_dataset(self, cache_dir: str | Path) -> SizedDataset:
        """The images by which the run chose its model, prepared as it prepared them.

        Args:
            cache_dir: of the store.

        Raises:
            DataError: if a file is not there any more, is another one, or cannot be used.
            RunFolderError: if the run has no data list.
        """
        return self._own_dataset("validation", cache_dir, "the likelihoods are fitted", "; or leave out measures")

    def training_dataset(self, cache_dir: str | Path) -> SizedDataset:
        """The images that the run was trained on, likewise.

        Args:
            cache_dir: of the store.

        Raises:
            DataError: if a file is not there any more, is another one, or cannot be used.
            RunFolderError: if the run has no data list.
        """
        return self._own_dataset("training", cache_dir, "the linear model is fitted")

    def _own_dataset(self, split: str, cache_dir: str | Path, what: str, remedy: str = "") -> SizedDataset:
        path = self.path / DATALIST
        if not path.is_file():
            come = f"{self.name} was packed without them; take the run" if self.is_packed else f"{path} is not there"
            raise RunFolderError(f"{what} on the run's {split} images, but {come}.")
        mend = f'put it back, or write where the images are now as "dataset_dir" into {path}{remedy}'
        content = read_object(path, "take another run")
        datalist = Datalist.of(Path(content.get("dataset_dir") or self.path), content)
        items = datalist.items(split)  # the other splits need not be there any more
        for item in items:
            if not Path(image_file(item["image"])).is_file():
                raise DataError(
                    f"{what} on the run's {split} images, but {item['image']} is not there any more; {mend}."
                )
        dataset = self.dataset(SECTIONS[split], items, cache_dir)
        recorded = {item["image"]: item.get("sha256") for item in items}
        for entry in facts_of(dataset).entries:
            if recorded.get(entry["image"]) not in (None, entry.get("sha256")):
                raise DataError(
                    f"{what} on the run's {split} images, but {entry['image']} has changed since the training; {mend}."
                )
        return dataset

    def evaluation_dir(self, evaluation_dir: str | Path | None = None) -> Path:
        """A new numbered folder ``evaluation/NNNN`` in the run, or the given one; the same one when asked again.

        That of a zip is in the current folder.

        Args:
            evaluation_dir: a folder of one's own.

        Raises:
            RunFolderError: if it holds results.
        """
        if self._evaluation_dir is None:
            self._evaluation_dir = self._new_evaluation_dir(evaluation_dir)
        return self._evaluation_dir

    def _new_evaluation_dir(self, evaluation_dir: str | Path | None) -> Path:
        if evaluation_dir is None:
            return new_numbered_folder((self.path if self._zip is None else Path()) / EVALUATION)
        folder = Path(evaluation_dir).expanduser()
        if (folder / METRICS_CSV).exists():
            raise RunFolderError(f"evaluation_dir {folder} holds {METRICS_CSV} already; choose another folder.")
        return make_folder(folder)

    def _files(self) -> tuple[Path, Path, Path]:
        """Folder, config and weights."""
        if self._found is None:
            self._found = self._look()
        return self._found

    def _look(self) -> tuple[Path, Path, Path]:
        run_dir, bundle_root = self._places
        if run_dir is not None:
            folder = self._opened(run_dir)
            for config, model in ((CONFIG, MODEL), PACKED):
                if (folder / config).is_file() and (folder / model).is_file():
                    return folder, folder / config, folder / model
            missing = MODEL if (run_dir / CONFIG).is_file() else CONFIG
            raise RunFolderError(f"{run_dir} holds no {missing}; give the folder of a training as run_dir.")
        if bundle_root is not None and all((bundle_root / name).is_file() for name in PACKED):
            return (bundle_root, *(bundle_root / name for name in PACKED))  # type: ignore[return-value]
        if self._output_dir is None:
            raise RunFolderError("there is no model; give the folder of a training as run_dir, or a model_file.")
        finished = [p for p in numbered_folders(self._output_dir) if (p / SUMMARY).is_file()]
        if not finished:
            raise RunFolderError(f"{self._output_dir} holds no finished run; train first, or give one as run_dir.")
        newest = finished[-1]
        return newest, newest / CONFIG, newest / MODEL

    def _opened(self, path: Path) -> Path:
        """The folder that a path stands for."""
        if path == Path(SAMPLE) and not path.exists():
            path = SAMPLE_MODEL
        if not path.exists():
            raise RunFolderError(
                f"{path} is not there; give the folder of a finished run, a packed bundle or its zip as run_dir."
            )
        if path.is_dir():
            return path
        folder = Path(tempfile.mkdtemp(prefix=f"{path.stem}_"))  # so that messages that name a file in it tell whose
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        unpacked = unpack(path, folder)
        self._zip = path
        return unpacked


def _locate(component: Mapping[str, Any]) -> type:
    found = pydoc.locate(component["_target_"])
    if not isinstance(found, type):
        raise RunFolderError(f"there is no class {component['_target_']!r}, which the run used; install its package.")
    return found
