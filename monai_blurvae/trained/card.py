"""A model card: what a run was trained on, what it reaches, and what it is not for. No name and no path is in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_blurvae import __version__
from monai_blurvae.data.datalist import SPLITS
from monai_blurvae.data.header import PLANES
from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import read_object
from monai_blurvae.metrics.measures import MEASURES
from monai_blurvae.run_files import DATALIST, METRICS_MD, TEST, YARDSTICK_JSON
from monai_blurvae.running import is_plain
from monai_blurvae.runs.run import Run
from monai_blurvae.trained.intensity import IntensityRule
from monai_blurvae.trained.model import TrainedModel
from monai_blurvae.trained.source import is_of_volumes, read_weights, summary_of

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
    run = Run(run_dir)
    summary = summary_of(run.path)
    parts = {
        "Intended use": USE,
        "Data": _data(run, summary),
        "Settings": _settings(run),
        "Test": _denoising(run.path) if run.is_prior else _metrics(summary),
        "Yardstick": _yardstick(run.path),
        "Limits": _listed(LIMITS),
    }
    sections = "\n\n".join(f"## {title}\n\n{text}" for title, text in parts.items() if text)
    return f"# Model card\n\n{_what(run)}, trained by monai_blurvae {__version__}.\n\n{sections}\n"


def _what(run: Run) -> str:
    if run.is_prior:
        size = math.isqrt(len(read_weights(run)["scale"]))
        return f"A learned prior: the log-density of {size}×{size} patches of grey images, with white noise or without"
    channels, *sizes = TrainedModel(run).image_shape
    size_and_kind = f"{'×'.join(map(str, sizes))} {'grey' if channels == 1 else 'colour'}"
    return f"A variational autoencoder of {size_and_kind} images that predicts the blur of its reconstructions"


def _data(run: Run, summary: Mapping[str, Any]) -> str:
    lines = [f"{split}: {_counted(run.path, split)}" for split in SPLITS]
    if is_of_volumes(run.config):
        voxel_size = read_weights(run)["voxel_size"].tolist()
        size = " × ".join(f"{value:.3g}" for value in voxel_size) + " mm" if all(voxel_size) else "unknown"
        if len(voxel_size) == 2:
            lines += [f"slices: {PLANES[run.settings['slice_axis']]}", f"voxel size in plane: {size}"]
        else:
            lines += [f"cubes, with the voxel size {size}"]
    lines.append(f"intensities: {_rule(IntensityRule.of(run.config))}")
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


def _rule(rule: IntensityRule | None) -> str:
    if rule is None:
        return "scaled to [−1, 1] by transforms of the training's own"
    limits = f"{rule.lower:g} to {rule.upper:g}"
    if rule.by == "value":
        return f"{limits} become −1 to 1"
    return f"percentiles {limits} of the whole become −1 to 1{', clipped' if rule.clip else ''}"


def _settings(run: Run) -> str:
    """What the built parts of the training had; none of it holds a name or a path."""
    rows = [f"| {name} | {_plain(value)} |" for name, value in run.settings.items() if is_plain(value)]
    if "architecture" not in run.settings:  # of another class than BlurVAE: what it was built with
        rows += _network_rows(run.config["network_def"])
    return "\n".join(["| | |", "|---|---|", *rows])


def _network_rows(section: Mapping[str, Any]) -> list[str]:
    """The class of a network, those inside it, and the values that its config has for them."""
    rows = [f"| network | {str(section['_target_']).rpartition('.')[2]} |"]
    for name, value in section.items():
        if isinstance(value, Mapping) and "_target_" in value:
            rows += _network_rows(value)
        elif is_plain(value) and not str(value).startswith(("@", "$", "%")) and not name.startswith("_"):
            rows.append(f"| {name} | {_plain(value)} |")
    return rows


def _plain(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def _metrics(summary: Mapping[str, Any]) -> str:
    known = [(MEASURES[name], value) for name, value in summary["test"].items() if name in MEASURES]
    rows = [f"| {measure.label} | {measure.text(value)} |" for measure, value in known]
    return "\n".join(["| measure | mean |", "|---|---|", *rows]) if rows else "Nothing was tested."


def _denoising(folder: Path) -> str:
    """The log-densities of held-out patches and the denoising, as the table of the test has them."""
    path = folder / TEST / METRICS_MD
    if not path.is_file():
        return "Nothing was tested."
    return path.read_text(encoding="utf-8").partition("\n\n")[2].strip()  # its title stands above already


def _yardstick(folder: Path) -> str:
    """The sentence of the comparison with a linear model, where it was made."""
    path = folder / TEST / YARDSTICK_JSON
    if not path.is_file():
        return ""
    verdict = str(read_object(path).get("verdict") or "")
    return f"{verdict[:1].upper()}{verdict[1:].rstrip('.')}." if verdict else "No linear model was compared with it."


def _listed(lines: Any) -> str:
    return "\n".join(f"- {line}" for line in lines)
