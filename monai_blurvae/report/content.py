"""The words, numbers and tables of a report."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from monai_blurvae.data.datalist import SPLITS
from monai_blurvae.handlers.evaluation import mean_and_std_text
from monai_blurvae.metrics.measures import MEASURES, PER_IMAGE
from monai_blurvae.report.checks import size_text
from monai_blurvae.report.run_record import RunRecord
from monai_blurvae.run_files import CONFIG, DATALIST
from monai_blurvae.yardstick.handler import notes as yardstick_notes
from monai_blurvae.yardstick.handler import table as yardstick_table

FIRST_ENTRIES = 5
"""Entries of each split that are shown; a data list may hold hundreds of thousands."""
TILES = ("psnr", "ssim", "kl")
"""The measures that one looks for first."""
EXTREMES = 5
"""Images with the lowest and the highest PSNR that are shown."""
LONG = 48
"""Characters from which on a value is folded away."""

GROUPS = {
    "Data": (
        *("dataset_dir", "image_pattern", "subject_pattern", "partition_file", "datalist", "slice_axis"),
        *("volume_size", "in_channels"),
        *("crop_size", "patch_size", "patches_per_volume", "eval_patches_per_volume", "eval_images", "min_foreground"),
        "skip_bad_files",
    ),
    "Network": ("network_def", "architecture", "channels", "latent_size", "kernel_size", "kernel_normalization"),
    "Loss": ("loss", "train#term", "train#objective", "train#kernel_objective", "beta", "warmup_epochs", "wiener_c"),
    "Optimisation": (
        *("max_epochs", "batch_size", "lr", "lr_warmup", "lr_final", "gradient_clip"),
        *("precision", "seed", "val_interval"),
    ),
}
"""The settings by what they are about, with all that is in a section of that name; any other is under Other."""


class Table(NamedTuple):
    """A table.

    Attributes:
        head: of the columns.
        rows: cells, one for each column.
        caption: above it; empty for none.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


class Setting(NamedTuple):
    """A setting as it is shown.

    Attributes:
        name: its key.
        text: its value.
        is_long: whether the value is folded away.
    """

    name: str
    text: str
    is_long: bool


class SettingGroup(NamedTuple):
    """Settings of one kind.

    Attributes:
        title: of the kind.
        settings: in it.
    """

    title: str
    settings: Sequence[Setting]


class Measures(NamedTuple):
    """What ``measures.json`` holds.

    Attributes:
        table: of the measures that have a value.
        missing: name and reason of each that has none.
        notes: without which they would be misread.
    """

    table: Table
    missing: Sequence[tuple[str, str]]
    notes: Sequence[str]


class Yardstick(NamedTuple):
    """The network beside the linear models.

    Attributes:
        verdict: which is better, or why they were not compared.
        table: of the figures; None where they were not compared.
        notes: without which they would be misread.
    """

    verdict: str
    table: Table | None
    notes: Sequence[str]


class Split(NamedTuple):
    """A split of the data list.

    Attributes:
        name: of the split.
        entries: how many.
        first: a few entries, subject and image.
    """

    name: str
    entries: int
    first: Sequence[tuple[str, str]]


def subtitle(run: RunRecord) -> str:
    """State, epochs, loss and remark of a run in a line."""
    max_epochs = run.setting("max_epochs")
    summary = run.summary
    parts = [
        "not finished" if summary is None else f"finished {str(summary.get('finished', ''))[:10]}".strip(),
        f"epoch {run.history.epochs}" + (f" of {max_epochs}" if max_epochs else ""),
        f"loss {run.setting('loss')}" if run.setting("loss") else "",
        run.remark,
    ]
    return " · ".join(filter(None, parts))


def tiles(run: RunRecord) -> list[tuple[str, str]]:
    """Label and value of the figures that one looks for first; those of the validation where there is no evaluation."""
    return _validated(run) if run.evaluation is None else _evaluated(run, run.evaluation.about)


def _evaluated(run: RunRecord, about: Mapping[str, Any]) -> list[tuple[str, str]]:
    metrics = about["metrics"]
    shown = [(MEASURES[name].name, _with_unit(name, **metrics[name])) for name in TILES]
    if about["active_units"] is not None:
        shown.append((MEASURES["active_units"].name, f"{about['active_units']} of {about['latent_size']}"))
    if run.history.trains_kernel:
        width = metrics["kernel_width"]["mean"]
        sizes = about["training_voxel_size"]
        millimetres = f" = {width * fmean(sizes):.2f} mm" if all(sizes) else ""
        shown.append((MEASURES["kernel_width"].name, _with_unit("kernel_width", width) + millimetres))
    return shown


def _validated(run: RunRecord) -> list[tuple[str, str]]:
    last = {name: list(run.history.scalar(f"validation/{name}").values())[-1:] for name in TILES}
    return [
        (f"{MEASURES[name].name}, last validation", _with_unit(name, *value)) for name, value in last.items() if value
    ]


def _with_unit(name: str, mean: float, std: float | None = None) -> str:
    return f"{MEASURES[name].text(mean, std)} {MEASURES[name].unit}".rstrip()


def setting_groups(settings: Mapping[str, Any]) -> list[SettingGroup]:
    """The settings by what they are about, those of other kinds last.

    Args:
        settings: by name.
    """
    made: dict[str, list[Setting]] = {title: [] for title in (*GROUPS, "Other")}
    places = {key: (title, i) for title, keys in GROUPS.items() for i, key in enumerate(keys)}

    def place(name: str) -> tuple[str, int]:
        return places.get(name) or places.get(name.rpartition("#")[0]) or ("Other", 0)

    for name in sorted(settings, key=lambda name: place(name)[1]):
        made[place(name)[0]].append(_setting(name, settings[name]))
    return [SettingGroup(title, found) for title, found in made.items() if found]


def _setting(name: str, value: Any) -> Setting:
    text = value_text(value)
    return Setting(name, text, len(text) > LONG)


def value_text(value: Any) -> str:
    """A value as one writes it: ``–`` for null, ``true`` and ``false``, lists with commas."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(value_text(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def splits(datalist: Mapping[str, Any]) -> list[Split]:
    """Counts and first entries of each split of a data list.

    Args:
        datalist: content of ``datalist.json``.
    """
    return [_split(name, datalist.get(name, [])) for name in SPLITS]


def _split(name: str, entries: Sequence[Mapping[str, Any]]) -> Split:
    first = [(str(entry.get("subject", "")), str(entry.get("image", ""))) for entry in entries[:FIRST_ENTRIES]]
    return Split(name, len(entries), first)


def _nan_text(datalist: Mapping[str, Any]) -> str:
    """In how many volumes of a data list NaN was taken as background, and in how many voxels; empty if in none."""
    counts = [int(e["nan_voxels"]) for split in SPLITS for e in datalist.get(split, []) if e.get("nan_voxels")]
    return f"{sum(counts)} voxels of {len(counts)} volumes" if counts else ""


def data_facts(run: RunRecord) -> list[tuple[str, str]]:
    """Name and value of what is known of the data."""
    listed = run.datalist or {}
    about = run.evaluation.about if run.evaluation else {}
    trained, here = about.get("training_voxel_size") or [], about.get("voxel_size")
    facts = [
        ("description", str(listed.get("description", ""))),
        ("remark", run.remark),
        ("folder", str(listed.get("dataset_dir", ""))),
        ("voxel size of the training", f"{size_text(trained)} mm" if trained and all(trained) else ""),
        ("voxel size of the evaluated images", f"{size_text(here)} mm" if here else ""),
        ("NaN, taken as background", _nan_text(listed)),
    ]
    return [fact for fact in facts if fact[1]]


def metric_table(about: Mapping[str, Any]) -> Table:
    """Mean and standard deviation of each metric.

    Args:
        about: of the evaluation's record.
    """
    rows = [(MEASURES[name].label, mean_and_std_text(**about["metrics"][name])) for name in PER_IMAGE]
    if about["active_units"] is not None:
        rows.append((MEASURES["active_units"].name, f"{about['active_units']} of {about['latent_size']}"))
    return Table(("measure", "mean ± std over the images"), rows, f"{about['title']}: {about['evaluated_on']}")


def extreme_tables(rows: Sequence[Mapping[str, str]]) -> list[Table]:
    """The images with the lowest and the highest PSNR, or all of them where they are few.

    Args:
        rows: of ``metrics.csv``.
    """
    ordered = sorted(rows, key=lambda row: float(row["psnr"]))
    if not ordered:
        return []
    if len(ordered) <= 2 * EXTREMES:
        return [_rows_table(ordered, "All images, by PSNR")]
    return [
        _rows_table(ordered[:EXTREMES], f"The {EXTREMES} images with the lowest PSNR"),
        _rows_table(ordered[: -EXTREMES - 1 : -1], f"The {EXTREMES} images with the highest PSNR"),
    ]


def _rows_table(rows: Sequence[Mapping[str, str]], caption: str) -> Table:
    cells = [[f"{float(text):.4g}" if name in PER_IMAGE else text for name, text in row.items()] for row in rows]
    return Table([MEASURES[name].label if name in PER_IMAGE else name for name in rows[0]], cells, caption)


def example_text(row: Mapping[str, Any]) -> str:
    """Where an example is from and how well it is reconstructed.

    Args:
        row: its line of ``metrics.csv``.
    """
    (_, name), *rest = [(key, value) for key, value in row.items() if key not in PER_IMAGE]
    place = ", ".join([str(name), *(f"{key} {value}" for key, value in rest)])
    return f"{place}: {row['psnr']:.2f} dB, SSIM {row['ssim']:.3f}"


def measures_of(content: Mapping[str, Any]) -> Measures:
    """The measures of a comparison.

    Args:
        content: of ``measures.json``.
    """
    rows = content["measures"].values()
    cells = [_measure_cells(row) for row in rows if row["value"] is not None]
    table = Table(("measure", "value", "unit", "what it is"), cells, str(content["title"]))
    return Measures(table, [(row["name"], row["reason"]) for row in rows if row["value"] is None], content["notes"])


def yardstick_of(content: Mapping[str, Any]) -> Yardstick:
    """The network beside the linear models.

    Args:
        content: of ``yardstick.json``.
    """
    if content["problem"]:
        return Yardstick(f"The network was not compared with a linear model: {content['problem']}", None, [])
    head, *rows = yardstick_table(content)
    said = str(content["verdict"])
    caption = f"{content['title']}: {content['evaluated_on']}"
    return Yardstick(f"{said[:1].upper()}{said[1:]}.", Table(head, rows, caption), list(yardstick_notes(content)))


def _measure_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    arrow = {"higher": " ↑", "lower": " ↓"}.get(row["better"], "")
    features = f"; features: {row['features']}" if row["features"] else ""
    return row["name"] + arrow, number_text(row["value"]), row["unit"], row["what"] + features


def number_text(value: float) -> str:
    """Four digits, more for large numbers, with a minus sign."""
    text = f"{value:.1f}" if abs(value) >= 1000 and math.isfinite(value) else f"{value:.4g}"
    return text.replace("-", "−")


def resume_command(run_dir: Path) -> str:
    """What goes on with a run.

    Args:
        run_dir: its folder.
    """
    return f"{repeat_command(run_dir)} --run_dir {shlex.quote(str(run_dir))} --resume true"


def repeat_command(run_dir: Path) -> str:
    """What does a run again.

    Args:
        run_dir: its folder.
    """
    return f"python -m monai.bundle run training --config_file {shlex.quote(str(run_dir / CONFIG))}"


def same_split_option(run_dir: Path) -> str:
    """What makes a repetition take the same images, whatever the data folder holds by then.

    Args:
        run_dir: its folder.
    """
    return f"--datalist {shlex.quote(str(run_dir / DATALIST))}"
