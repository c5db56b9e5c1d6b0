"""All that a report is made from: the files in the folder of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from monai.bundle import ConfigParser
from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator

from monai_blurvae.data.datalist import SPLITS
from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import Record, read_object
from monai_blurvae.handlers.evaluation_record import EvaluationRecord
from monai_blurvae.run_files import (
    CONFIG,
    DATALIST,
    DENOISING_NPZ,
    EVALUATION_NPZ,
    MEASURES_JSON,
    METRICS_CSV,
    SETTINGS,
    SUMMARY,
    TENSORBOARD,
    TEST,
    VERSIONS,
    YARDSTICK_JSON,
)
from monai_blurvae.runs.configs import is_prior

if TYPE_CHECKING:
    from pandas import DataFrame

KERNELS, PICTURES = "kernels", "input, reconstruction, sample"
"""Names of the pictures that a training writes."""
SYNTHETIC_MARK = "synthetic"
"""How the description of a data list of synthetic images begins, in either case."""
SECTIONS = ("network_def", "train#term", "train#objective", "train#kernel_objective")
"""The parts of a config whose own arguments are settings too."""
YARDSTICK_KEYS = {
    *("title", "evaluated_on", "fitted_on", "latent_size", "beta", "weight", "samples", "network", "linear"),
    *("equal_rate", "behind", "verdict"),
}
"""What is known of a comparison with a linear model that was made."""
MEASURE_KEYS = {"value", "reason", "name", "unit", "what", "features", "better"}
"""What is known of each measure."""
DENOISING_ARRAYS = ("images", "noisy", "denoised", "real_patches", "mean_patches", "drawn_patches")
DENOISING_ABOUT = (
    *("title", "remark", "evaluated_on", "sigmas", "metrics", "examples", "inference", "bank", "patch_size"),
    *("latent_size", "quarter_turns"),
)
"""What is known of the evaluation of a learned prior."""

Content = TypeVar("Content")


class History(NamedTuple):
    """What a training wrote over its epochs; empty as long as it wrote nothing.

    Attributes:
        scalars: values by name and epoch.
        pictures: encoded pictures by name and epoch.
    """

    scalars: Mapping[str, Mapping[int, float]]
    pictures: Mapping[str, Mapping[int, bytes]]

    def scalar(self, name: str) -> Mapping[int, float]:
        """Values by epoch, empty where there are none."""
        return self.scalars.get(name, {})

    def picture(self, name: str) -> Mapping[int, bytes]:
        """Pictures by epoch, empty where there are none."""
        return self.pictures.get(name, {})

    @property
    def epochs(self) -> int:
        """The last epoch of which anything was written, 0 if there is none."""
        return max((max(values) for values in self.scalars.values() if values), default=0)

    @property
    def trains_kernel(self) -> bool:
        """Whether the kernel generator was trained: its loss was written only then."""
        return bool(self.scalar("train/kernel_loss"))


class RunRecord(NamedTuple):
    """The files of a run, as far as they are there.

    Attributes:
        path: the run's folder.
        evaluation_dir: the evaluation that is shown, by default the test at the end of the training.
        settings: see :func:`plain_settings`.
        datalist: the images of each split, or None.
        versions: of the packages, and the state of the checkout; empty if unknown.
        summary: written at the end of a training; None for an unfinished one.
        history: curves and pictures.
        evaluation: examples, spectra and means of ``evaluation_dir``, or None.
        rows: of ``metrics.csv`` there, its numbers as numbers, or None.
        measures: of ``measures.json`` there, or None.
        yardstick: of ``yardstick.json`` there, or None.
        denoising: of the evaluation of a learned prior, in place of ``evaluation``, or None.
        is_prior: whether it is the training of a learned prior of patches.
        problems: a sentence for each file that is there and cannot be read.
    """

    path: Path
    evaluation_dir: Path
    settings: Mapping[str, Any]
    datalist: Mapping[str, Any] | None
    versions: Mapping[str, Any]
    summary: Mapping[str, Any] | None
    history: History
    evaluation: EvaluationRecord | None
    rows: DataFrame | None
    measures: Mapping[str, Any] | None
    yardstick: Mapping[str, Any] | None
    denoising: Record | None
    is_prior: bool
    problems: Sequence[str]

    @property
    def spatial_dims(self) -> int:
        """Of the images."""
        return 3 if 3 in (self.settings.get("network_def#spatial_dims"), self.settings.get("spatial_dims")) else 2

    @property
    def test_images(self) -> int | None:
        """Entries of the test split, or None if unknown."""
        return None if self.datalist is None else len(self.datalist.get("test", []))

    @property
    def remark(self) -> str:
        """What has to be said of the data wherever a result stands; mostly nothing."""
        listed = self.datalist or {}
        description = str(listed.get("description", ""))
        synthetic = description if description.lower().startswith(SYNTHETIC_MARK) else ""
        evaluated = self.evaluation or self.denoising
        sources = (evaluated.about if evaluated else {}, self.summary or {}, listed)
        remarks = [str(source["remark"]) for source in sources if source.get("remark")] or [synthetic]
        return "; ".join(dict.fromkeys(remarks))

    @property
    def skipped(self) -> list[str]:
        """A sentence for each file that was left out."""
        return [str(line) for line in (self.summary or {}).get("skipped", [])]


def read_run(run_dir: str | Path, evaluation_dir: str | Path | None = None) -> RunRecord:
    """Read the folder of a run, finished or not.

    Args:
        run_dir: the folder.
        evaluation_dir: of an evaluation, in place of the test at the end of the training.

    Raises:
        RunFolderError: if it is no folder of a run, or the evaluation that was asked for is not there.
    """
    path = Path(run_dir).expanduser()
    if not (path / CONFIG).is_file():
        raise RunFolderError(f"{path} holds no {CONFIG}; give the folder of a training.")
    config = read_object(path / CONFIG)
    prior = is_prior(config)
    evaluated = path / TEST if evaluation_dir is None else Path(evaluation_dir).expanduser()
    record = DENOISING_NPZ if prior else EVALUATION_NPZ
    if evaluation_dir is not None and not (evaluated / record).is_file():
        raise RunFolderError(f"{evaluated} holds no {record}; give the folder that an evaluation wrote.")
    problems: list[str] = []

    def found(path: Path, read: Callable[[Path], Content], absent: Content) -> Content:
        try:
            return read(path) if path.exists() else absent
        except RunFolderError as error:
            problems.append(str(error))
            return absent

    return RunRecord(
        path=path,
        evaluation_dir=evaluated,
        settings={**plain_settings(config), **found(path / SETTINGS, _read_settings, {})},
        datalist=found(path / DATALIST, _read_datalist, None),
        versions=found(path / VERSIONS, read_object, {}),
        summary=found(path / SUMMARY, read_object, None),
        history=found(path / TENSORBOARD, read_history, History({}, {})),
        evaluation=None if prior else found(evaluated / EVALUATION_NPZ, EvaluationRecord.read, None),
        rows=None if prior else found(evaluated / METRICS_CSV, _read_rows, None),
        measures=found(evaluated / MEASURES_JSON, _read_measures, None),
        yardstick=found(evaluated / YARDSTICK_JSON, _read_yardstick, None),
        denoising=found(evaluated / DENOISING_NPZ, _read_denoising, None) if prior else None,
        is_prior=prior,
        problems=problems,
    )


def read_history(folder: Path) -> History:
    """Read the event files of a run, all of them if it was resumed.

    Of an epoch that was done again the last counts, and what a cut run wrote after its last checkpoint is forgotten.

    Args:
        folder: of the event files; without one the history is empty.

    Raises:
        RunFolderError: if the files cannot be read.
    """
    if not folder.is_dir():
        return History({}, {})
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every end of a file and every resumed run
    events = EventAccumulator(str(folder), size_guidance={IMAGES: 0, SCALARS: 0})  # 0 keeps all
    try:
        events.Reload()
        tags = events.Tags()
        scalars = {name: {e.step: e.value for e in events.Scalars(name)} for name in tags[SCALARS]}
        pictures = {name: {e.step: e.encoded_image_string for e in events.Images(name)} for name in tags[IMAGES]}
    except Exception as error:  # the readers of events and of their messages have errors of their own
        raise RunFolderError(
            f"the event files in {folder} cannot be read ({type(error).__name__}: {error}); move the broken one away."
        ) from error
    return History(
        {name: dict(sorted(values.items())) for name, values in scalars.items()},
        {name: dict(sorted(values.items())) for name, values in pictures.items()},
    )


def spread(epochs: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly spread, the first and the last among them.

    Args:
        epochs: in order.
        most: how many, at least 2.
    """
    places = np.linspace(0, len(epochs) - 1, min(most, len(epochs))).round()
    return [epochs[int(place)] for place in places]


def plain_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config, and of its :data:`SECTIONS`, whose value is plain: no expression and no part.

    Args:
        config: of a MONAI bundle, in which ``$…``, ``@…`` and ``%…`` are expressions and references.

    Returns:
        The values by their ids, and ``loss``, the name of the class of ``train#term``.
    """
    parser = ConfigParser(dict(config))
    sections = {id: parser.get(id) for id in SECTIONS}
    nested = {f"{id}#{name}": v for id, part in sections.items() if isinstance(part, dict) for name, v in part.items()}
    found = {**config, **nested}
    settings = {id: v for id, v in found.items() if _is_plain(v) and not id.rpartition("#")[2].startswith("_")}
    term = found.get("train#term#_target_")
    return settings if term is None else {"loss": str(term).rpartition(".")[2], **settings}


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return not value.startswith(("$", "@", "%"))
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float))


def _read_datalist(path: Path) -> dict[str, Any]:
    content = read_object(path)
    for split in SPLITS:
        entries = content.get(split, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise RunFolderError(f"{path} has no list of objects under {split!r}; take it from a copy of the run.")
    return content


def _read_settings(path: Path) -> dict[str, Any]:
    return {name: value for name, value in read_object(path).items() if _is_plain(value)}


def _read_measures(path: Path) -> dict[str, Any]:
    content = read_object(path)
    rows: Any = content.get("measures")
    whole = {"title", "notes"} <= content.keys() and isinstance(rows, dict)
    if not whole or not all(isinstance(row, dict) and row.keys() >= MEASURE_KEYS for row in rows.values()):
        raise RunFolderError(f"{path} lacks parts of its measures; evaluate the run again with them.")
    return content


def _read_yardstick(path: Path) -> dict[str, Any]:
    content = read_object(path)
    if "problem" not in content or not (content["problem"] or content.keys() >= YARDSTICK_KEYS):
        raise RunFolderError(f"{path} lacks parts of a comparison with a linear model; evaluate the run again.")
    return content


def _read_denoising(path: Path) -> Record:
    return Record.read(path, DENOISING_ARRAYS, DENOISING_ABOUT, "evaluate the run again")


def _read_rows(path: Path) -> DataFrame:
    """Numbers as numbers, but for the first column, which names subject or image."""
    import pandas as pd

    try:
        rows = pd.read_csv(path, dtype={0: str}, keep_default_na=False, na_values=["", "nan"])
        return rows.astype({"psnr": float})
    except (OSError, ValueError, KeyError) as error:
        raise RunFolderError(
            f"{path} cannot be read as a table with a column psnr ({error}); evaluate the run again."
        ) from error
