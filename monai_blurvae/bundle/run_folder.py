"""Where a run writes, and where an evaluation finds it."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from monai.bundle import ConfigParser

from monai_blurvae.bundle.settings import FREE_ON_RESUME, SETTINGS, boolean, current_parser
from monai_blurvae.data import Datalist, PreparedImages, SizedDataset, log_skipped
from monai_blurvae.data.datalist import image_file
from monai_blurvae.errors import DataError, RunFolderError
from monai_blurvae.files import make_folder, remove_leftovers, write_json, write_text
from monai_blurvae.losses import ELBOLoss, WienerLoss

logger = logging.getLogger(__name__)

CONFIG, DATALIST, SUMMARY = "config.json", "datalist.json", "summary.json"
MODEL, CHECKPOINT = "model.pt", "checkpoint.pt"
RUN_FILES = (CONFIG, DATALIST, SUMMARY, MODEL, CHECKPOINT)
FEATURE_LOSSES = ("vgg", "watson")
"""Losses that are not built to be asked: no likelihoods, no kernel, and weights that may be on another machine."""

PACKAGES = ("monai-blurvae", "torch", "monai", "pytorch-ignite", "numpy", "nibabel")


class RunFolder:
    """The folder of one training.

    Which folder it is, is decided and checked at once; it is created when the training starts, so that a run that never
    begins leaves nothing behind.

    Args:
        runs_dir: gets a new numbered folder for each run.
        output_dir: a folder of one's own instead.
        resume: go on with the run in ``output_dir`` or, without one, with the newest unfinished run in ``runs_dir``;
            ``"auto"`` starts a new run if there is none.

    Raises:
        RunFolderError: if ``output_dir`` holds a run already, there is no run to resume, or nothing can be written.
    """

    def __init__(
        self,
        runs_dir: str | Path,
        output_dir: str | Path | None = None,
        resume: bool | str = False,
    ) -> None:
        self.runs_dir = Path(runs_dir).expanduser()
        self._auto = resume == "auto"
        self._resumed = self._auto or boolean(resume)
        self._parser = current_parser()
        self._chosen = self._choose(None if output_dir is None else Path(output_dir).expanduser())
        self._path: Path | None = None
        self._lock: FileLock | None = None

    @property
    def path(self) -> Path:
        """The folder; created when first asked for."""
        if self._path is None:
            path = new_numbered_folder(self.runs_dir) if self._chosen is None else make_folder(self._chosen)
            self._acquire(path)
            remove_leftovers(path)
            self._path = path
            logger.info(f"Writing to {self._path}.")
        return self._path

    def checkpoint_file(self) -> Path:
        """Everything needed to resume."""
        return self.path / CHECKPOINT

    def model_file(self) -> Path:
        """Weights of the best model on the validation subjects."""
        return self.path / MODEL

    def tensorboard_dir(self) -> Path:
        """Event files."""
        return self.path / "tensorboard"

    def test_dir(self) -> Path:
        """Test tables and picture, written when the training is finished."""
        return self.path / "test"

    def finish(self, metrics: Mapping[str, Any], epochs: int, images: PreparedImages) -> None:
        """Mark the run as finished, and list the files that it left out."""
        content = {
            "epochs": epochs,
            "test": {name: float(value) for name, value in metrics.items()},
            "remark": images.remark,
            "skipped": images.skipped,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        write_json(self.path / SUMMARY, content)
        log_skipped(images)
        if not len(images.test):
            logger.warning("The data list names no test images, so that nothing was tested.")
        self.release()
        logger.info(f"Finished. Model, metrics and pictures are in {self.path}.")

    def result_settings(self, images: PreparedImages) -> dict[str, Any]:
        """The settings that the result depends on, with the content of the data in place of its folder."""
        settings = {name: value for name, value in self.settings().items() if name not in FREE_ON_RESUME}
        return settings | {"dataset_dir": f"data with checksum {images.digest()}"}

    def settings(self) -> dict[str, Any]:
        """The resolved settings of the run."""
        config = self._parser.get()
        return {name: _plain(self._parser.get_parsed_content(name)) for name in SETTINGS if name in config}

    def _choose(self, output_dir: Path | None) -> Path | None:
        if output_dir is None:
            make_folder(self.runs_dir)
            return self._newest_unfinished() if self._resumed else None
        held = [name for name in RUN_FILES if (output_dir / name).exists()]
        if held and not self._resumed:
            raise RunFolderError(
                f"output_dir {output_dir} holds a run already ({held[0]}); go on with it by --resume true, or choose "
                "another folder."
            )
        if self._resumed and not held and not self._auto:
            raise RunFolderError(f"output_dir {output_dir} holds no run to resume; leave out --resume to start one.")
        if not output_dir.exists():
            make_folder(output_dir.parent)
        else:
            make_folder(output_dir)
        return output_dir

    def _newest_unfinished(self) -> Path | None:
        runs = [p for p in numbered_folders(self.runs_dir) if (p / CONFIG).is_file() and not (p / SUMMARY).is_file()]
        if not runs and self._auto:
            return None
        if not runs:
            raise RunFolderError(
                f"{self.runs_dir} holds no unfinished run to resume; leave out --resume to start one, or name a "
                "finished one as --output_dir to go on with more epochs."
            )
        return runs[-1]

    def _acquire(self, path: Path) -> None:
        """Hold the folder as long as this run writes to it; the system releases it when the process dies."""
        self._lock = FileLock(path / ".lock", blocking=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise RunFolderError(
                f"another process is writing to {path}; wait for it, or choose another --output_dir."
            ) from None

    def release(self) -> None:
        """Let other runs use the folder."""
        if self._lock is not None:
            self._lock.release()

    def mark_unfinished(self) -> None:
        """A finished run that goes on with more epochs is unfinished again."""
        (self.path / SUMMARY).unlink(missing_ok=True)

    def record(self, datalist: Datalist, images: PreparedImages) -> None:
        """Write what is needed to repeat the run, once; ``--config_file FOLDER/config.json`` does."""
        if (self.path / CONFIG).is_file():
            return
        settings = self.settings() | {"output_dir": None, "resume": False}
        config = {**self._parser.get(), **settings}
        config.pop("_meta_", None)
        versions: dict[str, str | None] = {name: version(name) for name in PACKAGES}
        versions |= {"python": platform.python_version(), "git": _git_state()}
        root = Path(str(self._parser.get_parsed_content("bundle_root")))
        for name in ("metadata.json", "logging.conf"):  # MONAI looks for them beside the config
            source = next((p for p in (root / name, root / "configs" / name) if p.is_file()), None)
            if source is not None:
                write_text(self.path / name, source.read_text(encoding="utf-8"))
        write_json(self.path / "versions.json", versions)
        images.used(datalist).write(self.path / DATALIST)
        write_json(self.path / CONFIG, config)


class TrainedObjective(NamedTuple):
    """What the measures of a model depend on beside its weights: the objective that it was trained with.

    Attributes:
        loss: its name.
        trains_kernel: whether the kernel generator was trained, by the loss or beside it.
        wiener_c: the Wiener constant C.
        weighting: of the kernel's likelihood, see :func:`~monai_blurvae.functional.wiener_weight`.
        departures: why the objective is no bound on log p(x), a clause each; none if it is one.
        fixed_kernel: whether the loss had a fixed kernel, so that the generator's is not that of its likelihood.
    """

    loss: str
    trains_kernel: bool
    wiener_c: float
    weighting: str
    departures: tuple[str, ...]
    fixed_kernel: bool


class FinishedRun:
    """A training that an evaluation takes its model, data and settings from.

    Args:
        runs_dir: where to look for the newest finished run.
        run_dir: the folder of a run instead.

    Raises:
        RunFolderError: if there is no such run.
    """

    def __init__(self, runs_dir: str | Path, run_dir: str | Path | None = None) -> None:
        self.path = self._newest(Path(runs_dir)) if run_dir is None else Path(run_dir).expanduser()
        for name in (CONFIG, MODEL):
            if not (self.path / name).is_file():
                raise RunFolderError(f"{self.path} holds no {name}; give the folder of a training as --run_dir.")
        self._config = self._read(CONFIG)
        self._evaluation_dir: Path | None = None
        logger.info(f"Evaluating the run in {self.path}.")

    def _read(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.path / name} cannot be read as JSON ({error}); take another run.") from error

    @staticmethod
    def _newest(runs_dir: Path) -> Path:
        finished = [p for p in numbered_folders(runs_dir) if (p / SUMMARY).is_file()]
        if not finished:
            raise RunFolderError(f"{runs_dir} holds no finished run; train first, or give one as --run_dir.")
        return finished[-1]

    def setting(self, name: str) -> Any:
        """The value that the training had for a setting."""
        if name not in self._config:
            raise RunFolderError(f"{self.path / CONFIG} has no key {name}; give it as --{name}.")
        return self._config[name]

    @property
    def model_file(self) -> Path:
        """Weights of the best model."""
        return self.path / MODEL

    def datalist(self, dataset_dir: str | Path | None) -> str | None:
        """The run's data list, or None when other data is given."""
        return str(self.path / DATALIST) if dataset_dir is None else None

    def evaluation_dir(self, output_dir: str | Path | None) -> Path:
        """A new numbered folder ``evaluation/NNNN`` in the run, or ``output_dir``; the same one when asked again.

        Raises:
            RunFolderError: if ``output_dir`` holds results.
        """
        if self._evaluation_dir is None:
            self._evaluation_dir = self._new_evaluation_dir(output_dir)
        return self._evaluation_dir

    def _new_evaluation_dir(self, output_dir: str | Path | None) -> Path:
        if output_dir is None:
            return new_numbered_folder(self.path / "evaluation")
        folder = Path(output_dir).expanduser()
        if (folder / "metrics.csv").exists():
            raise RunFolderError(f"output_dir {folder} holds metrics.csv already; choose another folder.")
        return make_folder(folder)

    def parser(self) -> ConfigParser:
        """A parser of the run's config, which is code: what it parses is built as the training built it."""
        return ConfigParser(self._read(CONFIG))

    def objective(self) -> TrainedObjective:
        """What the model was trained with. A setting that the run does not have yet was off."""
        objective = self._built_objective()
        weighting = self.setting("weighting")
        return TrainedObjective(
            loss=self.setting("loss"),
            trains_kernel=boolean(self._config.get("train_kernel", False))
            or (objective is not None and objective.uses_kernel),
            wiener_c=self.setting("wiener_c"),
            # flat weights are no kernel's, and the paper's are taken
            weighting="wiener" if weighting == "flat" else weighting,
            departures=tuple(self._departures(objective)),
            fixed_kernel=objective is not None
            and isinstance(objective.term, WienerLoss)
            and objective.determinant == "fixed",
        )

    def _built_objective(self) -> ELBOLoss | None:
        if self.setting("loss") in FEATURE_LOSSES:
            return None
        objective: ELBOLoss = self.parser().get_parsed_content("train#objective")
        return objective

    def _departures(self, objective: ELBOLoss | None) -> Iterator[str]:
        if objective is None or not getattr(objective.term, "is_likelihood", False):
            yield f"its loss, {self.setting('loss')}, is no likelihood"
        elif isinstance(objective.term, WienerLoss) and objective.determinant in ("omit", "epsilon"):
            yield f"its determinant, {objective.determinant!r}, is not that of its covariance"
        if self._config.get("spectrum_weight", 0) or (objective is not None and len(objective.auxiliary_terms)):
            yield "an auxiliary term was added to its loss"
        if self._config.get("adversarial_weight", 0):
            yield "an adversarial term was added to its loss"
        if self.setting("beta") != 1:
            yield f"its KL had the weight β = {self.setting('beta'):g}"

    def validation_images(self, cache_dir: str | Path) -> tuple[SizedDataset, PreparedImages]:
        """The images by which the run chose its model, prepared as it prepared them.

        Args:
            cache_dir: of the store.

        Returns:
            The dataset of the run's validation, and the prepared images that it draws from.

        Raises:
            DataError: if a file is not there any more, is another one, or cannot be used.
            RunFolderError: if the run has no data list.
        """
        path = self.path / DATALIST
        content = self._read(DATALIST)
        entries, root = content["validation"], Path(content["dataset_dir"])
        mend = f'put it back, or write where the images are now as "dataset_dir" into {path}'
        for entry in entries:
            if not Path(image_file(str(root / entry["image"]))).is_file():
                raise DataError(
                    f"the likelihoods are fitted on the run's validation images, but {root / entry['image']} is not "
                    f"there any more; {mend}, or leave out --measures."
                )
        parser = self.parser()
        datalist = Datalist(root, [], entries, [])
        parser["data"] = datalist  # no section of its own: MONAI changes the # of a CIFAR row in those
        parser["images"]["required"] = ["validation"]
        parser["cache_dir"] = str(cache_dir)
        images: PreparedImages = parser.get_parsed_content("images")
        for source in images.changed(datalist):
            raise DataError(
                f"the likelihoods are fitted on the run's validation images, but {source} has changed since the "
                f"training; {mend}, or leave out --measures."
            )
        dataset: SizedDataset = parser.get_parsed_content("validate#dataset")
        return dataset, images


def numbered_folders(parent: Path) -> list[Path]:
    """Subfolders whose name is a number, the newest last."""
    if not parent.is_dir():
        return []
    return sorted((p for p in parent.iterdir() if p.is_dir() and p.name.isdigit()), key=lambda p: int(p.name))


def new_numbered_folder(parent: Path) -> Path:
    """Create the next of ``0001``, ``0002``, … in a folder; two runs never get the same."""
    make_folder(parent)
    existing = numbered_folders(parent)
    number = int(existing[-1].name) + 1 if existing else 1
    while True:
        path = parent / f"{number:04d}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _git_state() -> str | None:
    """Commit of the checkout that this package runs from, with a mark if it has changes; None elsewhere."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
