"""All that a report is made from: the files in the folder of a run."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from monai.bundle import ConfigParser

from monai_blurvae.data.datalist import SPLITS
from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import Record, read_object
from monai_blurvae.handlers.evaluation_record import EvaluationRecord
from monai_blurvae.report.history import History, read_history
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

EVALUATOR, PRIOR_EVALUATOR = "validate#evaluator#_target_", "PatchVAEEvaluator"
"""Where the class of the evaluation stands, and that of a learned prior."""

DENOISING_ARRAYS = ("images", "noisy", "denoised", "real_patches", "mean_patches", "drawn_patches")
DENOISING_ABOUT = (
    *("title", "remark", "evaluated_on", "sigmas", "metrics", "examples", "inference", "bank", "patch_size"),
    *("latent_size", "quarter_turns"),
)
"""What is known of the evaluation of a learned prior."""

Content = TypeVar("Content")


class RunRecord(NamedTuple):
    """The files of a run, as far as they are there.

    Attributes:
        path: the run's folder.
        evaluation_dir: the evaluation that is shown, by default the test at the end of the training.
        settings: every plain value at the top of the config and of its :data:`SECTIONS`: neither expressions nor
            parts that are built; and ``loss``, the class of the reconstruction term.
        datalist: the images of each split, or None.
        versions: of the packages, and the state of the checkout; empty if unknown.
        summary: written at the end of a training; None for an unfinished one.
        history: curves and pictures.
        evaluation: examples, spectra and means of ``evaluation_dir``, or None.
        rows: of ``metrics.csv`` there.
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
    rows: Sequence[Mapping[str, str]]
    measures: Mapping[str, Any] | None
    yardstick: Mapping[str, Any] | None
    denoising: Record | None
    is_prior: bool
    problems: Sequence[str]

    def setting(self, name: str) -> Any:
        """The value of a setting, or None."""
        return self.settings.get(name)

    @property
    def spatial_dims(self) -> int:
        """Of the images."""
        return 3 if 3 in (self.setting("network_def#spatial_dims"), self.setting("spatial_dims")) else 2

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
    record = DENOISING_NPZ if is_prior(config) else EVALUATION_NPZ
    evaluated = path / TEST if evaluation_dir is None else Path(evaluation_dir).expanduser()
    if evaluation_dir is not None and not (evaluated / record).is_file():
        raise RunFolderError(f"{evaluated} holds no {record}; give the folder that an evaluation wrote.")
    files = _Reader()
    return RunRecord(
        path=path,
        evaluation_dir=evaluated,
        settings={**plain_settings(config), **files.read(path / SETTINGS, _read_settings, {})},
        datalist=files.read(path / DATALIST, _read_datalist, None),
        versions=files.read(path / VERSIONS, read_object, {}),
        summary=files.read(path / SUMMARY, read_object, None),
        history=files.read(path / TENSORBOARD, read_history, History({}, {})),
        evaluation=files.read(evaluated / EVALUATION_NPZ, EvaluationRecord.read, None),
        rows=[] if is_prior(config) else files.read(evaluated / METRICS_CSV, _read_rows, []),
        measures=files.read(evaluated / MEASURES_JSON, _read_measures, None),
        yardstick=files.read(evaluated / YARDSTICK_JSON, _read_yardstick, None),
        denoising=files.read(evaluated / DENOISING_NPZ, _read_denoising, None) if is_prior(config) else None,
        is_prior=is_prior(config),
        problems=files.problems,
    )


def is_prior(config: Mapping[str, Any]) -> bool:
    """Whether a run's config trains a learned prior of patches.

    Args:
        config: of the run.
    """
    return str(ConfigParser(dict(config)).get(EVALUATOR, "")).rpartition(".")[2] == PRIOR_EVALUATOR


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


class _Reader:
    """Reads files that may be missing or broken, and notes those that are broken."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def read(self, path: Path, read: Callable[[Path], Content], absent: Content) -> Content:
        if not path.exists():
            return absent
        try:
            return read(path)
        except RunFolderError as error:
            self.problems.append(str(error))
            return absent


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
    rows = content.get("measures")
    if not {"title", "notes"} <= content.keys() or not isinstance(rows, dict):
        raise RunFolderError(f"{path} holds no title, measures and notes; evaluate the run again with its measures.")
    for name, row in rows.items():
        if not isinstance(row, dict) or not row.keys() >= MEASURE_KEYS:
            raise RunFolderError(f"{path} lacks parts of {name!r}; evaluate the run again with its measures.")
    return content


def _read_yardstick(path: Path) -> dict[str, Any]:
    content = read_object(path)
    if "problem" not in content or not (content["problem"] or content.keys() >= YARDSTICK_KEYS):
        raise RunFolderError(f"{path} lacks parts of a comparison with a linear model; evaluate the run again.")
    return content


def _read_denoising(path: Path) -> Record:
    return Record.read(path, DENOISING_ARRAYS, DENOISING_ABOUT, "evaluate the run again")


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
        for row in rows:
            float(row["psnr"])
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunFolderError(
            f"{path} cannot be read as a table with a column psnr ({error}); evaluate the run again."
        ) from error
    return rows
