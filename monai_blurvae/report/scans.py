"""Pages of scans: one of a reconstructed volume, of all reconstructed k-space files, and of all prepared scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from markupsafe import Markup
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries
from torch.nn.functional import avg_pool3d

from monai_blurvae.data.header import PLANES
from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import Record, read_object
from monai_blurvae.handlers.pictures import GAP, LABEL_HEIGHT, Pixels
from monai_blurvae.priors.reconstruction.splitting import CONVERGENCE, MEASURES
from monai_blurvae.report.figures import (
    BLUE,
    ERROR_PERCENTILE,
    GREY,
    SIGNED_MEANING,
    STEP,
    Curve,
    colour_scale,
    coloured,
    colours_of,
    grey_pixels,
    image_row,
    line_chart,
    picture,
    square_pixels,
)
from monai_blurvae.report.page import (
    Section,
    facts,
    fold,
    grid,
    need_extra,
    number_text,
    paragraph,
    part,
    refuse_other_file,
    table,
    tiles,
    write_page,
)
from monai_blurvae.report.record import spread
from monai_blurvae.report.run import value_text
from monai_blurvae.run_files import CONVERGENCE_CSV, METRICS_CSV, RECONSTRUCTION_NPZ, REPORT

if TYPE_CHECKING:
    from pandas import DataFrame

Volume = npt.NDArray[np.float32]

LOG_PROB = "−log p, nats per pixel"
REGION_MM = 8.0
"""Side of the cubes whose mean squared error is compared: a few millimetres are a lesion, single voxels are noise."""
REGIONS = 5
CORONAL = 1
"""The plane that shows a region where cubes were reconstructed."""
CROP_MM = 24.0
"""From the centre of a region to the border of its pictures."""
GREY_PERCENTILES = (1.0, 99.5)
LARGEST_OPACITY = 0.85
ENOUGH = 1_000_000
"""Voxels that percentiles are taken of."""
VISIBLE = 0.02
"""Share of the brightest intensities from which on a voxel counts to the object, whose middle the planes go through."""

MOST_PICTURES = 48
"""Slices of all files that are shown, so that the page stays a few megabytes; at least one of each file."""
WHITE_PERCENTILE = 99.8
"""Of the magnitudes of a reconstruction, that is shown white."""
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

PREPARATION = "preparation.html"
BRAIN_PERCENTILE = 99.5
"""Of a brain, that is shown white."""
OUTLINE = (255, 160, 0)
SMALLEST_PLANE = 240
"""Pixels; smaller planes are enlarged by a whole number, so that the outline stays thin."""


class VolumeResults(NamedTuple):
    """What a page shows.

    Attributes:
        name: of the volume.
        affine: from voxels to RAS millimetres, ``(4, 4)``.
        scan: in its units, ``(X, Y, Z)``.
        reconstruction: likewise.
        error: reconstruction − scan.
        neg_log_prob: −log p of each pixel, in nats; None without a likelihood.
        slice_axis: 0, 1 or 2 for the sagittal, coronal or axial slices that were reconstructed, None for cubes.
    """

    name: str
    affine: npt.NDArray[np.float64]
    scan: Volume
    reconstruction: Volume
    error: Volume
    neg_log_prob: Volume | None
    slice_axis: int | None


class Region(NamedTuple):
    """A cube of the volume.

    Attributes:
        centre: its middle voxel in RAS order.
        rms_error: root of the mean squared error, in units of the scan.
        mean_error: mean of the signed error.
        neg_log_prob: mean of −log p in nats per pixel; None without a likelihood.
    """

    centre: tuple[int, int, int]
    rms_error: float
    mean_error: float
    neg_log_prob: float | None


def write_volume_page(path: Path, results: VolumeResults) -> None:
    """Write the page of a volume: three planes, errors on top of the scan, the most unusual regions.

    Args:
        path: of the page.
        results: what it shows.

    Raises:
        ImportError: without matplotlib or pandas, naming the extra.
        RunFolderError: if it cannot be written.
    """
    need_extra()
    shown = _in_ras(results)
    voxel_size = np.sqrt(np.square(shown.affine[:3, :3]).sum(0))
    painter = _Painter(shown, voxel_size)
    middle = _middle(shown.scan > painter.low + VISIBLE * (painter.high - painter.low))
    limit = f"{painter.limit:.4g}"
    planes = Section(
        "Three planes",
        "Left on the pictures is left of the body, in axial and coronal planes. Errors are reconstruction minus scan, "
        "in the units of the scan.",
        [
            tiles(_volume_facts(shown, voxel_size)),
            colour_scale(f"−{limit}", limit, "Errors: red is too bright, blue too dark", True),
            *(image_row(f"{PLANES[axis]} plane", painter.row(axis, middle), "three") for axis in range(3)),
        ],
    )
    found = unusual_regions(shown.error, shown.neg_log_prob, voxel_size)
    to_voxel = np.linalg.inv(results.affine) @ shown.affine
    heads = ("region", "R, A, S in mm", "voxel of the file", "root mean square error", "mean error", LOG_PROB)
    rows = [(i, *_region_cells(region, shown.affine, to_voxel)) for i, region in enumerate(found, 1)]
    plane = CORONAL if results.slice_axis is None else results.slice_axis
    crops = [
        image_row(f"region {i}, {PLANES[plane]} plane", painter.row(plane, region.centre, CROP_MM), "three")
        for i, region in enumerate(found, 1)
    ]
    regions = Section(
        "The most unusual regions",
        f"Cubes of {REGION_MM:g} mm with the largest mean squared error; under one variance they are the least likely "
        "ones. Noise, sharp edges and whatever the model has not seen are among them: a large error is no finding."
        if found
        else "There are no errors.",
        [table(heads, rows), grid("examples", crops)] if found else (),
    )
    subtitle = "A scan, its reconstruction by a variational autoencoder, and where they differ"
    write_page(path, results.name, subtitle, results.name, [planes, regions])


def unusual_regions(
    error: Volume, neg_log_prob: Volume | None, voxel_size: Sequence[float] | npt.NDArray[np.float64]
) -> list[Region]:
    """The cubes with the largest mean squared error, apart from each other; under one variance the least likely ones.

    Args:
        error: ``(X, Y, Z)``; NaN counts as 0.
        neg_log_prob: likewise.
        voxel_size: in mm.
    """
    sides = [max(1, min(n, round(REGION_MM / size))) for n, size in zip(error.shape, voxel_size, strict=True)]
    steps = [max(1, side // 2) for side in sides]

    def means(volume: Volume) -> npt.NDArray[np.float32]:
        tensor = torch.from_numpy(np.nan_to_num(volume, nan=0.0, posinf=0.0, neginf=0.0))[None, None]
        return avg_pool3d(tensor, sides, steps)[0, 0].numpy()

    squares = means(np.square(error))
    signed = means(error)
    surprise = None if neg_log_prob is None else means(neg_log_prob)
    left = squares.copy()
    found: list[Region] = []
    while len(found) < REGIONS and left.max() > 0:
        place = np.unravel_index(int(left.argmax()), left.shape)
        x, y, z = (int(i) * step + side // 2 for i, step, side in zip(place, steps, sides, strict=True))
        likely = None if surprise is None else float(surprise[place])
        found.append(Region((x, y, z), float(np.sqrt(squares[place])), float(signed[place]), likely))
        left[tuple(slice(max(0, int(i) - 2), int(i) + 3) for i in place)] = 0  # cubes that overlap it
    return found


class _Painter:
    """Cuts planes out of volumes in RAS order, in one scale of greys and one of colours."""

    def __init__(self, shown: VolumeResults, voxel_size: npt.NDArray[np.float64]) -> None:
        self.shown, self.voxel_size = shown, voxel_size
        self.low, self.high = (float(v) for v in np.nanpercentile(_thinned(shown.scan), GREY_PERCENTILES))
        magnitude = np.abs(_thinned(shown.error))
        self.limit = max(float(np.nanpercentile(magnitude, ERROR_PERCENTILE)), float(np.finfo(np.float32).tiny))

    def row(self, axis: int, centre: Sequence[int], reach: float | None = None) -> list[tuple[str, Pixels]]:
        """Scan, reconstruction and error of the plane across an axis through a voxel, to ``reach`` mm from it."""
        cut: list[Any] = [slice(None)] * 3
        for i in range(3):
            if i == axis:
                cut[i] = centre[i]
            elif reach is not None:
                half = max(1, round(reach / self.voxel_size[i]))
                cut[i] = slice(max(0, centre[i] - half), centre[i] + half + 1)
        across, up = (self.voxel_size[i] for i in range(3) if i != axis)

        def plane(volume: Volume) -> Volume:
            return np.rot90(np.nan_to_num(volume[tuple(cut)]))  # anterior or superior on top

        def grey(volume: Volume) -> Pixels:
            scaled = (plane(volume) - self.low) / max(self.high - self.low, np.finfo(np.float32).tiny)
            return np.asarray(scaled.clip(0, 1) * 255).round().astype(np.uint8)

        relative = (plane(self.shown.error).astype(float) / self.limit).clip(-1, 1)
        opacity = LARGEST_OPACITY * np.abs(relative)[..., None]
        scan = grey(self.shown.scan)
        overlay = (1 - opacity) * scan[..., None] + opacity * colours_of((relative + 1) / 2, True)
        images = {
            "scan": scan,
            "reconstruction": grey(self.shown.reconstruction),
            "error on the scan": overlay.round().astype(np.uint8),
        }
        return [(name, square_pixels(pixels, across, up)) for name, pixels in images.items()]


def _in_ras(results: VolumeResults) -> VolumeResults:
    """The volumes in RAS order, as views, for volumes are large."""
    orientation = nib.io_orientation(results.affine)
    turned = [
        np.asarray(nib.apply_orientation(volume, orientation))
        for volume in (results.scan, results.reconstruction, results.error, results.neg_log_prob)
        if volume is not None
    ]
    affine = results.affine @ nib.orientations.inv_ornt_aff(orientation, results.scan.shape)
    scan, reconstruction, error, *surprise = turned
    likely = surprise[0] if surprise else None
    return VolumeResults(results.name, affine, scan, reconstruction, error, likely, results.slice_axis)


def _thinned(volume: Volume) -> Volume:
    """Every so many voxels along each axis, enough for a percentile."""
    step = max(1, round((volume.size / ENOUGH) ** (1 / 3)))
    return volume[::step, ::step, ::step]


def _middle(inside: npt.NDArray[np.bool_]) -> list[int]:
    """The centre of mass of a mask, of the whole volume where it is empty."""
    mask = inside if inside.any() else np.ones_like(inside)
    centre = []
    for axis in range(3):
        profile = mask.sum(tuple(i for i in range(3) if i != axis))
        centre.append(round(float((profile * np.arange(len(profile))).sum() / profile.sum())))
    return centre


def _volume_facts(shown: VolumeResults, voxel_size: npt.NDArray[np.float64]) -> list[tuple[str, str]]:
    error = shown.error
    known = [
        ("voxels, RAS", "×".join(str(n) for n in shown.scan.shape)),
        ("voxel size, RAS", "×".join(f"{size:.3g}" for size in voxel_size) + " mm"),
        ("patches", "cubes" if shown.slice_axis is None else f"of {PLANES[shown.slice_axis]} slices"),
        ("root mean square error", f"{float(np.sqrt(np.nanmean(np.square(error), dtype=np.float64))):.4g}"),
        ("mean error", f"{float(np.nanmean(error, dtype=np.float64)):.4g}"),
    ]
    if shown.neg_log_prob is not None:
        mean = float(np.nanmean(shown.neg_log_prob, dtype=np.float64))
        known.append(("mean −log p", f"{mean:.4g} nats per pixel"))
    return known


def _region_cells(region: Region, affine: npt.NDArray[np.float64], to_voxel: npt.NDArray[np.float64]) -> list[str]:
    """Place in mm, voxel of the file, errors, −log p."""
    place = np.array([*region.centre, 1.0])
    numbers = (region.rms_error, region.mean_error, region.neg_log_prob)
    return [
        ", ".join(f"{value:.1f}" for value in (affine @ place)[:3]),
        ", ".join(str(int(value)) for value in np.rint((to_voxel @ place)[:3])),
        *("–" if value is None else f"{value:.4g}" for value in numbers),
    ]


def write_reconstructions(output_dir: str | Path) -> Path:
    """Write ``report.html`` of all that has been reconstructed in a folder.

    Args:
        output_dir: the folder of the files' folders.

    Returns:
        The page.

    Raises:
        RunFolderError: if another file has its name, or it cannot be written.
        ImportError: without matplotlib or pandas, naming the extra.
    """
    need_extra()
    folder = Path(output_dir).expanduser()
    refuse_other_file(folder / REPORT)
    records = sorted(folder.glob(f"*/{RECONSTRUCTION_NPZ}"))
    most = max(1, MOST_PICTURES // max(1, len(records)))
    sections = [_reconstruction(path, most) for path in records]
    if not records:
        sections.append(Section("Reconstructions", "Nothing has been reconstructed here yet."))
    return write_page(folder / REPORT, "Reconstructions", f"{len(records)} file(s)", folder, sections)


def _reconstruction(path: Path, most: int) -> Section:
    """A reconstructed file, or why it cannot be shown."""
    try:
        return Section(path.parent.name, "", _reconstructed(path, most))
    except RunFolderError as error:
        return Section(path.parent.name, str(error))


def _reconstructed(path: Path, most: int) -> list[Markup]:
    remedy = f"reconstruct {path.parent.name} again, into another output_dir"
    record = Record.read(path, ("zero_filled", "reconstruction", "shown"), ABOUT, remedy)
    rows = _rows(path.with_name(METRICS_CSV), ("slice", "method", *MEASURES), remedy)
    steps = _rows(path.with_name(CONVERGENCE_CSV), ("slice", "step", *CONVERGENCE), remedy)
    settings = read_object(path.with_name("settings.json"), remedy)
    chosen = spread(range(len(record.arrays["shown"])), most)
    arrays = {name: array[chosen] for name, array in record.arrays.items()}
    about = record.about
    white = float(np.percentile(arrays.get("reference", arrays["reconstruction"]), WHITE_PERCENTILE)) or about["white"]
    words = (
        f"{len(chosen)} of the {about['reconstructed']} reconstructed slices of {about['slices']}. Magnitudes from 0, "
        f"black, to {white:.4g}, white."
    )
    body = [tiles(_tiles(about, rows)), part("Slices", words, *_slices(arrays, white, about["quarter_turns"], rows))]
    if rows is not None:
        each = rows[rows["slice"] != "mean"]
        each = each.iloc[each["slice"].astype(int).argsort(kind="stable")]
        words = (
            "Of magnitudes. The range of PSNR and SSIM is the largest magnitude of the volume; SSIM has an 11×11 "
            "Gaussian window, σ = 1.5."
        )
        shown = fold("Each slice", _measure_table(each))
        body.append(part("Measures", words, _measure_table(rows[rows["slice"] == "mean"]), shown))
    if steps is not None:
        body.append(part("Convergence", "", grid("charts", _convergence(steps))))
    differ = ", of the first slice; other slices have others" if about["lines_differ"] else ""
    caption = f"Sampled lines, white{differ}; {about['centre_lines']} neighbours around the centre."
    lines = np.repeat(np.array(about["lines"], np.uint8)[None] * 255, MASK_ROWS, 0)
    body.append(part("Scan and settings", "", grid("strips", [picture(lines, caption)]), *_settings(about, settings)))
    return body


def _rows(path: Path, columns: Sequence[str], remedy: str) -> DataFrame | None:
    """A table of texts; None where there is no file or no row."""
    import pandas as pd

    if not path.is_file():
        return None
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read as a table ({error}); {remedy}.") from error
    missing = [name for name in columns if name not in rows.columns]
    if missing:
        raise RunFolderError(f"{path} has no column {missing[0]}; {remedy}.")
    return rows if len(rows) else None


def _tiles(about: Mapping[str, Any], rows: DataFrame | None) -> list[tuple[str, str]]:
    sampled, lines = sum(about["lines"]), len(about["lines"])
    shown = [
        ("Acceleration", f"{lines / sampled:.2f}, {sampled} of {lines} lines"),
        ("Coils", str(about["coils"])),
        ("Noise", f"{about['noise']:.3g} of white"),
        ("Time", f"{about['seconds']:.2g} s a slice"),
    ]
    means = None if rows is None else rows[rows["slice"] == "mean"].set_index("method")
    if means is not None and {"zero_filled", "reconstruction"} <= set(means.index):
        for name in ("psnr", "ssim"):
            before, after = (float(means[name][method]) for method in ("zero_filled", "reconstruction"))
            shown.append((f"{LABELS[name]}, zero-filled → reconstruction", f"{before:.4g} → {after:.4g}"))
    return shown


def _slices(
    arrays: Mapping[str, npt.NDArray[np.float64]], white: float, turns: int, rows: DataFrame | None
) -> list[Markup]:
    """Scales of colours, and a row of images of each slice."""
    shown = {TITLES[name]: grey_pixels(arrays[name], white, turns) for name in TITLES if name in arrays}
    maps = {}
    if "error" in arrays:
        meaning = f"Error, where white is 1: {SIGNED_MEANING}"
        maps["error"] = coloured(arrays["error"] / white, True, turns, meaning, 0.01)
    if "std" in arrays:
        meaning = "Uncertainty, where white is 1: standard deviation of the magnitude over draws from the posterior"
        maps["uncertainty"] = coloured(arrays["std"] / white, False, turns, meaning, 0.01)
    shown |= {name: found.maps for name, found in maps.items()}
    found = (
        {}
        if rows is None
        else {
            row.slice: f": {float(row.psnr):.2f} dB, SSIM {float(row.ssim):.3f}"
            for row in rows[rows["method"] == "reconstruction"].itertuples()
        }
    )
    texts = [f"slice {int(index)}{found.get(str(int(index)), '')}" for index in arrays["shown"]]
    images = [image_row(text, [(name, x[i]) for name, x in shown.items()], "wide") for i, text in enumerate(texts)]
    return [*(found.scale for found in maps.values()), grid("examples", images)]


def _measure_table(rows: DataFrame) -> Markup:
    cells = [
        (row["slice"], TITLES.get(row["method"], row["method"]), *(number_text(float(row[name])) for name in MEASURES))
        for _, row in rows.iterrows()
    ]
    return table(("slice", "image", *(LABELS[name] for name in MEASURES)), cells)


def _convergence(rows: DataFrame) -> list[Markup]:
    """Median, lowest and highest of the slices over the steps."""
    import pandas as pd

    numbers = rows.apply(pd.to_numeric, errors="coerce")
    slices = numbers["slice"].nunique()
    charts = []
    for name in CONVERGENCE:
        known = numbers[["step", name]].dropna()
        if name == "residual":  # of the zero-filled image of one coil there is none
            known = known[known["step"] > 0]
        if not len(known):
            continue
        steps = known.groupby("step")[name]
        title, label = CURVES[name]
        curves = []
        for percentile, (kind, colour, line) in list(SHARES.items())[: None if slices > 1 else 1]:
            y = steps.quantile(percentile / 100)
            y = y if name == "psnr" else np.log10(y.clip(lower=np.finfo(float).tiny))
            curves.append(Curve(kind, y.to_dict(), colour, line))
        last = float(steps.median().iloc[-1])
        reached = f"{last:.2f} dB" if name == "psnr" else f"{last:.3g}"
        over, median = (f", over {slices} slices", " in the median") if slices > 1 else ("", "")
        caption = f"{title}{over}. Step {known['step'].max():g}: {reached}{median}."
        charts.append(line_chart(caption, STEP, label, curves))
    return charts


def _settings(about: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Markup]:
    """What is known of the scan, and the settings by what they are about."""
    method = dict(settings.get("method", {}))
    prior, sigmas = method.pop("prior", {}), method.pop("sigmas", None)
    if sigmas:
        method["σ"] = f"{sigmas[0]:g} to {sigmas[-1]:g}, geometric, {len(sigmas)} steps"
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
    groups = {"Method": method, "Prior": prior, "As given": settings.get("scan", {})}
    shown = [
        part(title, "", facts((name, value_text(value)) for name, value in found.items()))
        for title, found in groups.items()
        if found
    ]
    return [facts(scan.items()), grid("settings", shown)]


def write_preparation_page(folder: Path, failed: Sequence[tuple[str, str]]) -> Path:
    """Write ``preparation.html``, three planes of each scan that was prepared in a folder, with its mask's outline.

    Args:
        folder: of the results.
        failed: name of each scan that could not be prepared, and why.

    Returns:
        The page.

    Raises:
        RunFolderError: if it cannot be written, or a JSON in the folder is damaged.
        ImportError: without matplotlib or pandas, naming the extra.
    """
    rows, pictures = [], []
    for path in sorted(folder.glob("sub-*/**/*_desc-preproc_*.json")):
        drawn = path.with_name(path.name.replace("_desc-preproc_", "_desc-brain_")).with_suffix(".png")
        if not drawn.is_file():  # another program's
            continue
        about = read_object(path)
        settings = about.get("settings", {})
        spacing, mask = settings.get("spacing"), settings.get("mask")
        size = "the scan's" if spacing is None else "×".join(f"{size:g}" for size in spacing)
        rows.append((path.stem, mask or "by the template, approximate", about.get("brain_ml", "–"), size))
        with Image.open(drawn) as image:
            pixels = np.asarray(image.convert("RGB"))
        caption = f"{', '.join(PLANES)} plane of {path.stem}, outline of its brain mask"
        pictures.append(
            part(path.stem + ("" if mask else ": brain mask by the template"), "", picture(pixels, caption))
        )
    scans = Section(
        "Scans",
        "Sagittal, coronal and axial plane through the middle of each brain mask, whose outline is drawn; what lies "
        "outside of it is 0 in the prepared file. Left on coronal and axial pictures is left of the body. A mask by "
        "the template is an affine registration, which cannot follow each brain's shape: look at every one.",
        [table(("file", "brain mask", "brain (ml)", "voxel size (mm)"), rows), *pictures]
        if rows
        else [paragraph("Nothing has been prepared here yet.")],
    )
    bad = [table(("scan", "why"), failed)] if failed else []
    failures = Section("Failed", "" if failed else "No scan failed in the last call.", bad)
    subtitle = f"{len(rows)} prepared, {len(failed)} failed"
    return write_page(folder / PREPARATION, "Prepared scans", subtitle, folder.name, [scans, failures])


def mask_picture(
    head: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8], affine: npt.NDArray[np.float64], warning: str = ""
) -> Pixels:
    """Sagittal, coronal and axial plane through the middle of a mask, with its outline.

    Args:
        head: ``(X, Y, Z)``, axes in RAS order; 0 is black.
        mask: likewise, not 0 in the brain, which there has to be.
        affine: from voxels to RAS millimetres, ``(4, 4)``.
        warning: is written above the planes.

    Returns:
        ``(height, width, 3)``; left is left of the body.
    """
    sizes = np.sqrt(np.square(affine[:3, :3]).sum(0))
    brain = mask > 0
    white = max(float(np.percentile(head[brain], BRAIN_PERCENTILE)), float(np.finfo(np.float32).tiny))
    planes = []
    for axis, middle in enumerate(_middle(brain)):
        across, up = (float(sizes[i]) for i in range(3) if i != axis)
        grey = (np.rot90(np.take(head, middle, axis)) / white * 255).clip(0, 255).round().astype(np.uint8)
        grey = square_pixels(grey, across, up)
        inside = square_pixels(np.rot90(np.take(mask, middle, axis)), across, up) > 0
        scale = max(1, round(SMALLEST_PLANE / max(grey.shape)))
        outlined = np.stack([grey.repeat(scale, 0).repeat(scale, 1)] * 3, -1)
        outlined[find_boundaries(inside.repeat(scale, 0).repeat(scale, 1), mode="inner")] = OUTLINE
        planes.append(outlined)
    top = LABEL_HEIGHT if warning else 0
    width, height = sum(plane.shape[1] + GAP for plane in planes) - GAP, max(plane.shape[0] for plane in planes)
    canvas = Image.new("RGB", (width, top + height))
    ImageDraw.Draw(canvas).text((GAP, 3), warning, fill=OUTLINE, font=ImageFont.load_default(size=14))
    x = 0
    for plane in planes:
        canvas.paste(Image.fromarray(plane), (x, top + (height - plane.shape[0]) // 2))
        x += plane.shape[1] + GAP
    return np.asarray(canvas)
