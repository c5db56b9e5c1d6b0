"""Where a run writes."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ignite.engine import Engine, Events
from torch.utils.data import Dataset

from monai_blurvae import __version__
from monai_blurvae.data import DatasetFacts, facts_of, require_distinct_contents
from monai_blurvae.data.datalist import SPLITS, image_file
from monai_blurvae.distributed import from_main_process, is_main_process, launch_id, was_restarted
from monai_blurvae.engines import BlurVAETrainer
from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import make_folder, remove_leftovers, write_json, write_text
from monai_blurvae.run_files import (
    CHECKPOINT,
    CONFIG,
    DATALIST,
    LAUNCH,
    LINEAR,
    MODEL,
    SETTINGS,
    SUMMARY,
    TENSORBOARD,
    TEST,
    VERSIONS,
)
from monai_blurvae.running import RunningConfig
from monai_blurvae.runs.configs import write_configs
from monai_blurvae.runs.settings import settings_of

logger = logging.getLogger(__name__)

RUN_FILES = (CONFIG, DATALIST, SUMMARY, MODEL, CHECKPOINT)
PACKAGE = "monai-blurvae"
PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "nibabel", "SimpleITK")


class TrainingRun:
    """The folder of one training.

    Which folder it is, is decided and checked at once; it is created when the training starts, so that a run that never
    begins leaves nothing behind. Of several processes the first decides. When torchrun starts them again since one has
    died, it is the folder that they wrote to before.

    Args:
        output_dir: gets a new numbered folder for each run.
        run_dir: a folder of one's own instead.
        resume: go on with the run in ``run_dir`` or, without one, with the newest unfinished run in ``output_dir``;
            ``"auto"`` starts a new run if there is none.
        config: what is recorded, and compared when a run is resumed; see :func:`running_config`.

    Raises:
        ValueError: if ``resume`` is something else.
        RunFolderError: if ``run_dir`` holds a run already, there is no run to resume, or nothing can be written.
    """

    def __init__(
        self,
        output_dir: str | Path,
        run_dir: str | Path | None = None,
        resume: bool | str = False,
        config: RunningConfig | None = None,
    ) -> None:
        if not isinstance(resume, bool) and resume != "auto":
            raise ValueError(f"resume must be true, false or auto, but is {resume!r}.")
        self.output_dir = Path(output_dir).expanduser()
        self.config = config
        self._auto = resume == "auto"
        self._resumed = bool(resume)
        self._restarted = was_restarted()
        self._chosen = from_main_process(lambda: self._choose(None if run_dir is None else Path(run_dir).expanduser()))
        self._path: Path | None = None
        self._lock: FileLock | None = None
        self._datasets: Mapping[str, Dataset[Any]] = {}
        self._result_config: dict[str, Any] | None = None

    @property
    def path(self) -> Path:
        """The folder; created when first asked for."""
        if self._path is None:
            self._path = from_main_process(self._create)
        return self._path

    def checkpoint_file(self) -> Path:
        """Everything needed to resume."""
        return self.path / CHECKPOINT

    def model_file(self) -> Path:
        """Weights of the best model on the validation subjects."""
        return self.path / MODEL

    def linear_file(self) -> Path:
        """The linear models that the network was held against."""
        return self.path / LINEAR

    def tensorboard_dir(self) -> Path:
        """Event files."""
        return self.path / TENSORBOARD

    def test_dir(self) -> Path:
        """Test tables and picture, written when the training is finished."""
        return self.path / TEST

    def result_config(self, training: Dataset[Any], validation: Dataset[Any]) -> dict[str, Any]:
        """What the result depends on, ``{id of the config: value}``, the content of the data in place of its folder.

        Args:
            training: dataset.
            validation: likewise.
        """
        if self._result_config is None:  # asked for at every checkpoint, and a list may hold 200,000 files
            items = {} if self.config is None else self.config.result_items()
            digests = [facts_of(dataset).digest for dataset in (training, validation)]
            self._result_config = items | {"data": f"data with checksum {'-'.join(filter(None, digests))}"}
        return self._result_config

    def record(self, trainer: BlurVAETrainer, datasets: Mapping[str, Dataset[Any]]) -> None:
        """Write what is needed to repeat, evaluate and use the run, once; ``--config_file FOLDER/config.json`` does.

        Args:
            trainer: whose parts tell the settings.
            datasets: by split.

        Raises:
            DataError: if two splits have a file of the same content.
        """
        self._datasets = datasets
        facts = {split: facts_of(dataset) for split, dataset in datasets.items()}
        require_distinct_contents(facts)
        if not is_main_process():
            return
        write_json(self.path / SETTINGS, settings_of(trainer))  # a resumed run may have more epochs
        if (self.path / CONFIG).is_file():
            return
        write_json(self.path / VERSIONS, versions())
        write_json(self.path / DATALIST, _datalist(facts))
        if self.config is not None:
            write_configs(self.path, self.config, facts["training"])

    def mark_unfinished(self) -> None:
        """A finished run that goes on with more epochs is unfinished again."""
        if is_main_process():
            (self.path / SUMMARY).unlink(missing_ok=True)

    def finish(self, trainer: Engine, tester: Engine) -> None:
        """Mark the run as finished, and list the files that it left out.

        Args:
            trainer: has trained.
            tester: has evaluated the test images, if there are any.
        """
        if not is_main_process():
            return
        facts = [facts_of(dataset) for dataset in self._datasets.values()]
        skipped = list(dict.fromkeys(sentence for fact in facts for sentence in fact.skipped))
        content = {
            "epochs": trainer.state.epoch,
            "test": {name: float(value) for name, value in tester.state.metrics.items()},
            "remark": next((fact.remark for fact in facts if fact.remark), ""),
            "skipped": skipped,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        write_json(self.path / SUMMARY, content)
        _log_skipped(skipped)
        if not len(tester.data_loader.dataset):
            logger.warning("There are no test images, so that nothing was tested.")
        self.release()
        logger.info(f"Finished. Model, metrics and pictures are in {self.path}.")

    def release(self) -> None:
        """Let other runs use the folder."""
        if self._lock is not None:
            self._lock.release()

    def _create(self) -> Path:
        path = new_numbered_folder(self.output_dir) if self._chosen is None else make_folder(self._chosen)
        self._acquire(path)
        remove_leftovers(path)
        launch = launch_id()
        if launch is not None:
            write_text(path / LAUNCH, launch)
        logger.info(f"Writing to {path}.")
        return path

    def _choose(self, run_dir: Path | None) -> Path | None:
        own = self._of_this_launch(run_dir) if self._restarted else None
        if own is not None:
            logger.info(f"The processes were started again; they go on in {own}.")
            return own
        if run_dir is None:
            return self._newest_unfinished() if self._resumed else None
        held = [name for name in RUN_FILES if (run_dir / name).exists()]
        if held and not self._resumed:
            raise RunFolderError(
                f"run_dir {run_dir} holds a run already ({held[0]}); go on with it by resume true, or choose another "
                "folder."
            )
        if self._resumed and not held and not self._auto:
            raise RunFolderError(f"run_dir {run_dir} holds no run to resume; leave out resume to start one.")
        return run_dir

    def _of_this_launch(self, run_dir: Path | None) -> Path | None:
        """The folder that this launch by torchrun has written to, if it came to that."""
        folders = numbered_folders(self.output_dir) if run_dir is None else [run_dir]
        marks = [(path, path / LAUNCH) for path in reversed(folders)]
        return next((path for path, mark in marks if mark.is_file() and mark.read_text() == launch_id()), None)

    def _newest_unfinished(self) -> Path | None:
        runs = [p for p in numbered_folders(self.output_dir) if (p / CONFIG).is_file() and not (p / SUMMARY).is_file()]
        if not runs and not self._auto:
            raise RunFolderError(
                f"{self.output_dir} holds no unfinished run to resume; leave out resume to start one, or name a "
                "finished one as run_dir to go on with more epochs."
            )
        return runs[-1] if runs else None

    def _acquire(self, path: Path) -> None:
        """Hold the folder as long as this run writes to it; the system releases it when the process dies."""
        self._lock = FileLock(path / ".lock", blocking=False)
        try:
            # a process that was killed leaves the lock to the workers of its loader, which take seconds to see it
            self._lock.acquire(timeout=30 if self._restarted else 0, blocking=self._restarted)
        except Timeout:
            raise RunFolderError(
                f"another process is writing to {path}; wait for it, or choose another run_dir."
            ) from None


class RunRecordHandler:
    """Create the run's folder and record when the training starts.

    Args:
        run_folder: of the run.
        training: dataset, recorded.
        validation: likewise.
        test: likewise.
    """

    def __init__(
        self, run_folder: TrainingRun, training: Dataset[Any], validation: Dataset[Any], test: Dataset[Any]
    ) -> None:
        self.run_folder = run_folder
        self.datasets = {"training": training, "validation": validation, "test": test}

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, lambda trainer: self.run_folder.record(trainer, self.datasets))
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: self.run_folder.mark_unfinished())
        engine.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: self.run_folder.release())


def log_skipped(dataset: Dataset[Any]) -> None:
    """List at the end what a dataset left out, where it cannot have scrolled away."""
    _log_skipped(facts_of(dataset).skipped)


def prepare(*datasets: Dataset[Any]) -> None:
    """Fill the stores of datasets ahead of a training, which would do it by itself when it needs the data.

    Args:
        datasets: of training, validation and test; those that can be prepared have a method ``prepare``; volumes are
            when the dataset is made.

    Raises:
        DataError: if two of them have a file of the same content.
    """
    for dataset in datasets:
        if hasattr(dataset, "prepare"):
            dataset.prepare()
        log_skipped(dataset)
    require_distinct_contents(dict(zip(SPLITS, map(facts_of, datasets), strict=False)))
    logger.info(f"{sum(len(facts_of(dataset).entries) for dataset in datasets)} files are ready.")


def _log_skipped(skipped: list[str]) -> None:
    if skipped:
        logger.warning(f"Skipped {len(skipped)} file(s):")
        for line in skipped:
            logger.warning(f"  {line}")


def versions() -> dict[str, str | None]:
    """Versions of the packages, and the commit of the checkout that this one runs from, if it does."""
    found = {PACKAGE: __version__} | {name: _version(name) for name in PACKAGES}
    return found | {"python": platform.python_version(), "git": _git_state()}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # from a folder on PYTHONPATH
        return None


def _datalist(facts: Mapping[str, DatasetFacts]) -> dict[str, Any]:
    """In the layout that :func:`~monai_blurvae.data.read_datalist` takes back."""
    files = [image_file(entry["image"]) for fact in facts.values() for entry in fact.entries]
    root = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""  # noqa: PTH120, of 200,000
    splits = {
        split: [{**entry, "image": os.path.relpath(entry["image"], root)} for entry in fact.entries]
        for split, fact in facts.items()
    }
    remark = next((fact.remark for fact in facts.values() if fact.remark), "")
    return {"description": "the images of this run", "remark": remark, "dataset_dir": root, **splits}


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
