"""The page of reconstructed files, from what is in their folders."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import Record, read_object
from monai_blurvae.priors.reconstruction.splitting import CONVERGENCE, MEASURES
from monai_blurvae.report.charts import BLUE, GREY, STEP, Chart, Series, line_chart, need_matplotlib
from monai_blurvae.report.content import Setting, SettingGroup, Table, number_text, value_text
from monai_blurvae.report.figures import ColourBar, Example, colour_bar
from monai_blurvae.report.history import spread
from monai_blurvae.report.page import refuse_other_file, render_page, write_page
from monai_blurvae.report.pictures import SIGNED_MEANING, ErrorMaps, Picture, coloured, grey_pixels, picture
from monai_blurvae.run_files import CONVERGENCE_CSV, METRICS_CSV, RECONSTRUCTION_NPZ, REPORT

MOST_PICTURES = 48
"""Slices of all files that are shown, so that the page stays a few megabytes; at least one of each file."""
WHITE_PERCENTILE = 99.8
"""Of the magnitudes, that is shown white."""
MASK_ROWS = 24
ABOUT = {
    *("source", "slices", "reconstructed", "coils", "size", "lines", "centre_lines", "lines_differ", "white", "noise"),
    *("noise_from", "maps_from", "phase_from", "quarter_turns", "seconds"),
}
TITLES = {"zero_filled": "zero-filled", "reconstruction": "reconstruction", "reference": "fully sampled"}
LABELS = {"rmse_percent": "RMSE (%)", "nmse": "NMSE", "psnr": "PSNR (dB)", "ssim": "SSIM"}
CURVES = {
    "residual": ("Data residual ‖A x − y‖ / ‖y‖", "log₁₀ residual"),
    "change": ("Change from one step to the next, ‖x − x'‖ / ‖x‖", "log₁₀ change"),
    "psnr": ("PSNR of the magnitude", "PSNR (dB)"),
}
"""Title and label of each of :data:`CONVERGENCE`."""
SHARES = {50: ("median", BLUE, "-"), 0: ("lowest", GREY, ":"), 100: ("highest", GREY, "--")}
"""Label, colour and line of the percentiles over the slices that are drawn."""

Numbers = npt.NDArray[np.float64]


class ShownScan(NamedTuple):
    """A reconstructed file.

    Attributes:
        id: of its part of the page.
        name: of its folder.
        tiles: label and value of what one looks for first.
        shown: which slices, in words.
        white: the magnitude that is white.
        examples: the slices.
        bars: what the colours mean, and of what.
        tables: of the measures, where the image is known: the means, and each slice.
        charts: of the convergence, where the method was watched.
        mask: the lines.
        facts: name and value of what is known of the scan.
        groups: of settings.
    """

    id: str
    name: str
    tiles: Sequence[tuple[str, str]]
    shown: str
    white: str
    examples: Sequence[Example]
    bars: Sequence[tuple[ColourBar, str]]
    tables: Sequence[Table]
    charts: Sequence[Chart]
    mask: Picture
    facts: Sequence[tuple[str, str]]
    groups: Sequence[SettingGroup]


def write_reconstructions(output_dir: str | Path) -> Path:
    """Write ``report.html`` of all that has been reconstructed in a folder.

    Args:
        output_dir: the folder of the files' folders.

    Returns:
        The page.

    Raises:
        RunFolderError: if another file has its name, or it cannot be written.
        ImportError: without matplotlib, naming the extra.
    """
    need_matplotlib()
    folder = Path(output_dir).expanduser()
    page = folder / REPORT
    refuse_other_file(page)
    records = sorted(folder.glob(f"*/{RECONSTRUCTION_NPZ}"))
    most = max(1, MOST_PICTURES // max(1, len(records)))
    read = [_read(path, f"scan-{number}", most) for number, path in enumerate(records)]
    scans = [found for found in read if isinstance(found, ShownScan)]
    sections = [(scan.id, scan.name) for scan in scans]
    subtitle = f"{len(scans)} file(s)"
    return write_page(
        page,
        render_page(
            "reconstructions.html.jinja",
            "Reconstructions",
            sections,
            folder,
            subtitle=subtitle,
            scans=scans,
            problems=[found for found in read if isinstance(found, str)],
        ),
    )


def _read(path: Path, id: str, most: int) -> ShownScan | str:
    """A file, or why it cannot be shown."""
    try:
        return _scan(path, id, most)
    except RunFolderError as error:
        return str(error)


def _scan(path: Path, id: str, most: int) -> ShownScan:
    remedy = f"reconstruct {path.parent.name} again, into another output_dir"
    record = Record.read(path, ("zero_filled", "reconstruction", "shown"), ABOUT, remedy)
    rows = _rows(path.with_name(METRICS_CSV), ("slice", "method", *MEASURES), remedy)
    steps = _rows(path.with_name(CONVERGENCE_CSV), ("slice", "step", *CONVERGENCE), remedy)
    chosen = spread(range(len(record.arrays["shown"])), most)
    arrays = {name: array[chosen] for name, array in record.arrays.items()}
    about, slices = record.about, [int(index) for index in arrays["shown"]]
    white = float(np.percentile(arrays.get("reference", arrays["reconstruction"]), WHITE_PERCENTILE)) or about["white"]
    examples, bars = _examples(arrays, slices, white, about["quarter_turns"], rows)
    return ShownScan(
        id,
        path.parent.name,
        _tiles(about, rows),
        f"{len(slices)} of the {about['reconstructed']} reconstructed slices of {about['slices']}.",
        f"{white:.4g}",
        examples,
        bars,
        _tables(rows),
        _charts(id, steps),
        _mask(about),
        *_settings(about, read_object(path.with_name("settings.json"), remedy)),
    )


def _rows(path: Path, columns: Sequence[str], remedy: str) -> list[dict[str, str]]:
    """The rows of a table; none where there is no file."""
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, ValueError, csv.Error) as error:
        raise RunFolderError(f"{path} cannot be read as a table ({error}); {remedy}.") from error
    missing = [name for name in columns if any(row.get(name) is None for row in rows)]
    if missing:
        raise RunFolderError(f"{path} has no column {missing[0]}; {remedy}.")
    return rows


def _tiles(about: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    sampled, lines = sum(about["lines"]), len(about["lines"])
    tiles = [
        ("Acceleration", f"{lines / sampled:.2f}, {sampled} of {lines} lines"),
        ("Coils", str(about["coils"])),
        ("Noise", f"{about['noise']:.3g} of white"),
        ("Time", f"{about['seconds']:.2g} s a slice"),
    ]
    means = {row["method"]: row for row in rows if row["slice"] == "mean"}
    if len(means) == 2:
        for name in ("psnr", "ssim"):
            before, after = (float(means[method][name]) for method in ("zero_filled", "reconstruction"))
            tiles.append((f"{LABELS[name]}, zero-filled → reconstruction", f"{before:.4g} → {after:.4g}"))
    return tiles


def _examples(
    arrays: Mapping[str, Numbers],
    slices: Sequence[int],
    white: float,
    turns: int,
    rows: Sequence[Mapping[str, str]],
) -> tuple[list[Example], list[tuple[ColourBar, str]]]:
    shown = {TITLES[name]: grey_pixels(arrays[name], white, turns) for name in TITLES if name in arrays}
    maps: dict[str, ErrorMaps] = {}
    if "error" in arrays:
        maps["error"] = coloured(arrays["error"] / white, True, turns, SIGNED_MEANING, 0.01)
    if "std" in arrays:
        meaning = "standard deviation of the magnitude over draws from the posterior"
        maps["uncertainty"] = coloured(arrays["std"] / white, False, turns, meaning, 0.01)
    shown |= {name: found.maps for name, found in maps.items()}
    texts = [_slice_text(index, rows) for index in slices]
    examples = [
        Example(text, [picture(images[i], f"{name}: {text}", name) for name, images in shown.items()])
        for i, text in enumerate(texts)
    ]
    bars = [(colour_bar(found), f"{name.capitalize()}, where white is 1") for name, found in maps.items()]
    return examples, bars


def _slice_text(index: int, rows: Sequence[Mapping[str, str]]) -> str:
    found = [row for row in rows if row["slice"] == str(index) and row["method"] == "reconstruction"]
    if not found:
        return f"slice {index}"
    return f"slice {index}: {float(found[0]['psnr']):.2f} dB, SSIM {float(found[0]['ssim']):.3f}"


def _tables(rows: Sequence[Mapping[str, str]]) -> list[Table]:
    """The means over the slices, and each slice before and after; none where there is nothing to compare with."""
    means = [row for row in rows if row["slice"] == "mean"]
    each = sorted((row for row in rows if row["slice"] != "mean"), key=lambda row: int(row["slice"]))
    return [_rows_table(chosen) for chosen in (means, each)] if means else []


def _rows_table(rows: Sequence[Mapping[str, str]]) -> Table:
    cells = [
        (row["slice"], TITLES.get(row["method"], row["method"]), *(number_text(float(row[name])) for name in MEASURES))
        for row in rows
    ]
    return Table(("slice", "image", *(LABELS[name] for name in MEASURES)), cells)


def _charts(id: str, rows: Sequence[Mapping[str, str]]) -> list[Chart]:
    """Median, lowest and highest of the slices over the steps."""
    steps = sorted({int(row["step"]) for row in rows})
    slices = len({row["slice"] for row in rows})
    charts = []
    for name in CONVERGENCE:
        values = [[float(row[name]) for row in rows if int(row["step"]) == step and row[name]] for step in steps]
        known = [(step, found) for step, found in zip(steps, values, strict=True) if found]
        if name == "residual":  # of the zero-filled image of one coil there is none
            known = [(step, found) for step, found in known if step > 0]
        if known:
            charts.append(_chart(id, name, known, slices))
    return charts


def _chart(id: str, name: str, known: Sequence[tuple[int, Sequence[float]]], slices: int) -> Chart:
    title, label = CURVES[name]
    x = [step for step, _ in known]
    series = []
    for percentile, (kind, colour, line) in SHARES.items():
        y = np.array([np.percentile(found, percentile) for _, found in known])
        y = y if name == "psnr" else np.log10(np.maximum(y, np.finfo(float).tiny))
        series.append(Series(kind, x, list(y), colour, line=line))
    last = float(np.median(known[-1][1]))
    reached = f"{last:.2f} dB" if name == "psnr" else f"{last:.3g}"
    over, median = (f", over {slices} slices", " in the median") if slices > 1 else ("", "")
    caption = f"{title}{over}. Step {x[-1]}: {reached}{median}."
    svg = line_chart(f"{id}-{name}", caption, STEP, label, series if slices > 1 else series[:1])
    return Chart(svg, caption)


def _mask(about: Mapping[str, Any]) -> Picture:
    pixels = np.repeat(np.array(about["lines"], np.uint8)[None] * 255, MASK_ROWS, 0)
    differ = ", of the first slice; other slices have others" if about["lines_differ"] else ""
    text = f"Sampled lines, white{differ}; {about['centre_lines']} neighbours around the centre."
    return picture(pixels, text, text)


def _settings(
    about: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[list[tuple[str, str]], list[SettingGroup]]:
    """What is known of the scan, and the settings by what they are about."""
    method = dict(settings.get("method", {}))
    prior = method.pop("prior", {})
    sigmas = method.pop("sigmas", None)
    schedule = {"σ": f"{sigmas[0]:g} to {sigmas[-1]:g}, geometric, {len(sigmas)} steps"} if sigmas else {}
    lines = about["lines"]
    scan = {
        "file": about["source"],
        "k-space": f"{about['size'][0]} × {about['size'][1]}, {about['coils']} coil(s)",
        "acceleration": f"{len(lines) / sum(lines):.4g}",
        "sampled lines": f"{sum(lines)} of {len(lines)}, {about['centre_lines']} around the centre",
        "white, the zero-filled 99th percentile": f"{about['white']:.4g}",
        "noise": f"{about['noise']:.4g} of white, {about['noise_from']}",
        "coil maps": about["maps_from"],
        "phase": about["phase_from"],
    }
    groups = {"Method": {**method, **schedule}, "Prior": prior, "As given": settings.get("scan", {})}
    return list(scan.items()), [
        SettingGroup(title, [Setting(name, value_text(value), False) for name, value in found.items()])
        for title, found in groups.items()
        if found
    ]
