"""A model card: what a run was trained on, what it reaches, and what it is not for. No name and no path is in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_blurvae import __version__
from monai_blurvae.data.datalist import SPLITS
from monai_blurvae.data.header import PLANES
from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import read_object
from monai_blurvae.metrics.measures import MEASURES
from monai_blurvae.run_files import DATALIST, TEST, YARDSTICK_JSON
from monai_blurvae.trained.model import TrainedModel
from monai_blurvae.trained.source import summary_of

SETTINGS = (
    *("architecture", "channels", "latent_size", "kernel_size", "patch_size", "in_channels"),
    *("beta", "wiener_c", "max_epochs", "warmup_epochs", "batch_size", "lr", "precision", "seed"),
)
"""Settings that are told; none of them holds a name or a path."""

USE = """Research on generative models of images, on unusual appearance and on reconstruction.

**This is no medical device. Nothing that it outputs may be used for diagnosis or treatment.**"""

LIMITS = (
    "It has seen the images above and no others: what they do not show, such as other contrasts, scanners, voxel "
    "sizes, ages or pathology, is outside of what it knows.",
    "A reconstruction can show plausible anatomy that is not there, and leave out what is.",
    "A high log-density does not make an image normal: a blank one has a higher one.",
    "What lies outside of the range of intensities was clipped, and stays so.",
)


def model_card(run_dir: str | Path) -> str:
    """Write the card of a finished run in Markdown.

    Args:
        run_dir: its folder.

    Raises:
        RunFolderError: if it is not finished, or its files cannot be read.
    """
    folder = Path(run_dir).expanduser()
    summary = summary_of(folder)
    model = TrainedModel.load(folder)
    parts = {
        "Intended use": USE,
        "Data": _data(folder, model, summary),
        "Settings": _settings(model.config),
        "Test": _metrics(summary),
        "Yardstick": _yardstick(folder),
        "Limits": _listed(LIMITS),
    }
    sections = "\n\n".join(f"## {title}\n\n{text}" for title, text in parts.items() if text)
    return (
        f"# Model card\n\nA variational autoencoder of {_size(model)} images that predicts the blur of its "
        f"reconstructions, trained by monai_blurvae {__version__}.\n\n{sections}\n"
    )


def _size(model: TrainedModel) -> str:
    channels, *size = model.image_shape
    return f"{'×'.join(map(str, size))} {'grey' if channels == 1 else 'colour'}"


def _data(folder: Path, model: TrainedModel, summary: Mapping[str, Any]) -> str:
    lines = [f"{split}: {_counted(folder, split)}" for split in SPLITS]
    if model.volumes:
        known = all(model.voxel_size)
        size = " × ".join(f"{value:.3g}" for value in model.voxel_size) + " mm" if known else "unknown"
        lines += [f"slices: {PLANES[model.slice_axis]}", f"voxel size in plane: {size}"]
    lines.append(f"intensities: {_rule(model)}")
    if summary["skipped"]:
        lines.append(f"files that were left out: {len(summary['skipped'])}")
    if summary["remark"]:
        lines.append(str(summary["remark"]))
    return _listed(lines)


def _counted(folder: Path, split: str) -> str:
    path = folder / DATALIST
    entries = read_object(path).get(split)
    if not isinstance(entries, list):
        raise RunFolderError(f"{path} lists no {split} images; put the run's own back.")
    subjects = {entry["subject"] for entry in entries if "subject" in entry}
    return f"{len(entries)} file(s)" + (f" of {len(subjects)} subject(s)" if subjects else "")


def _rule(model: TrainedModel) -> str:
    rule = model.rule
    if rule is None:
        return "scaled to [−1, 1] by transforms of the training's own"
    limits = f"{rule.lower:g} to {rule.upper:g}"
    if rule.by == "value":
        return f"{limits} become −1 to 1"
    return f"percentiles {limits} of the whole become −1 to 1{', clipped' if rule.clip else ''}"


def _settings(config: Mapping[str, Any]) -> str:
    train = config["train"]
    rows = [f"| loss | {_class(train['term'])} |", f"| determinant | {train['objective'].get('determinant', '–')} |"]
    rows += [f"| {name} | {_plain(config[name])} |" for name in SETTINGS if name in config]
    return "\n".join(["| | |", "|---|---|", *rows])


def _class(section: Mapping[str, Any]) -> str:
    return str(section["_target_"]).rpartition(".")[2]


def _plain(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def _metrics(summary: Mapping[str, Any]) -> str:
    known = [(MEASURES[name], value) for name, value in summary["test"].items() if name in MEASURES]
    rows = [f"| {measure.label} | {measure.text(value)} |" for measure, value in known]
    return "\n".join(["| measure | mean |", "|---|---|", *rows]) if rows else "Nothing was tested."


def _yardstick(folder: Path) -> str:
    """The sentence of the comparison with a linear model, where it was made."""
    path = folder / TEST / YARDSTICK_JSON
    if not path.is_file():
        return ""
    verdict = str(read_object(path).get("verdict") or "")
    return f"{verdict[:1].upper()}{verdict[1:].rstrip('.')}." if verdict else "No linear model was compared with it."


def _listed(lines: Any) -> str:
    return "\n".join(f"- {line}" for line in lines)
