"""Tables and figures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from monai_blurvae.files import replacing, write_text
from monai_blurvae.priors.reconstruction.splitting import MEASURES
from prior_comparison.comparison import CROSS, TEST, VALIDATION, Comparison
from prior_comparison.methods import EPLL, NOT_COMPARED, TRIALS, TV_REAL
from prior_comparison.scenes import CENTRE_LINES, Setting
from study.figures import new_figure
from study.frames import import_pandas

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

PAGE, SLICES, SUMMARY = "comparison.md", "slices.csv", "summary.csv"
BASELINES = {TV_REAL: "TV, real", EPLL: "EPLL"}
"""That the others are held against, and what the columns call them."""
TITLES = {TEST: "test subjects", CROSS: "other data"}
FORMATS = {"psnr": "{:.2f}", "ssim": "{:.3f}", "rmse_percent": "{:.2f}", "nmse": "{:.4f}", "seconds": "{:.2f}"}
RESAMPLES = 9999
INCHES = 1.8
"""Width of an image."""
ERROR_RANGE = 0.2
"""Of the error maps, where the 99th percentile of the volume is 1."""

Pixels = npt.NDArray[np.float32]


class Interval(NamedTuple):
    """A mean over subjects, its bootstrap interval (NaN for one subject), and the smallest value of a subject."""

    mean: float
    low: float
    high: float
    least: float


def write_report(comparison: Comparison, folder: str | Path, remark: str = "") -> None:
    """Write ``comparison.md``, ``slices.csv`` and ``summary.csv``, and the figures.

    Args:
        comparison: what is there of it is reported.
        folder: where to write.
        remark: what the page has to say of the data.

    Raises:
        RunFolderError: if it cannot be written.
        ImportError: without pandas or matplotlib, naming the extra.
    """
    folder, pandas = Path(folder), import_pandas()
    lines, slices, summaries = _introduction(comparison, remark), [], []
    for data in comparison.reported:
        for setting in comparison.settings:
            found = _slices(comparison, setting, data)
            if found.empty:
                continue
            slices.append(found.drop(columns=["label", "parameters"]))
            summary = _summary(found)
            summaries.append(summary.drop(columns="label"))
            lines += [f"## {setting.title}: {TITLES[data]}", "", _table(summary), ""]
            lines += _figures(comparison, setting, data, folder)
    for name, frames in ((SLICES, slices), (SUMMARY, summaries)):
        if frames:
            text = pandas.concat(frames).to_csv(index=False, lineterminator="\n", na_rep="nan", float_format="%.6g")
            write_text(folder / name, text)
    write_text(folder / PAGE, "\n".join(lines) + "\n")


def mean_with_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of one value for each subject, and the percentile bootstrap interval of 95 %, by SciPy.

    Args:
        values: of subjects, which are what is drawn anew.
        seed: of the draws.
    """
    from scipy.stats import bootstrap

    mean, least = float(np.mean(values)), float(np.min(values))
    if len(values) < 2:
        return Interval(mean, float("nan"), float("nan"), least)
    found = bootstrap(
        (np.asarray(values),), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
    )
    low, high = found.confidence_interval
    return Interval(mean, float(low), float(high), least)


def gain_over(baseline: DataFrame, found: DataFrame, measure: str = "psnr") -> Interval:
    """The mean over subjects of the differences on the same slices, with its interval.

    Args:
        baseline: of the same slices as ``found``, with ``subject``, ``slice`` and the measure.
        found: of a method.
        measure: that is compared.
    """
    both = found.merge(baseline, on=["subject", "slice"], suffixes=("", "_baseline"))
    differences = both[measure] - both[f"{measure}_baseline"]
    return mean_with_interval(differences.groupby(both["subject"]).mean().tolist())


def _slices(comparison: Comparison, setting: Setting, data: str) -> DataFrame:
    """A line for each slice of each method whose slices are all there."""
    return import_pandas().DataFrame(
        {
            "data": data,
            **vars(setting),
            "method": method.name,
            "subject": result.subject,
            "slice": result.index,
            **result.measures,
            "seconds": result.seconds,
            "label": method.label,
            "parameters": "; ".join(f"{name}={value:g}" for name, value in result.parameters.items()),
        }
        for method in comparison.methods
        for result in comparison.finished(setting, method, data)
    )


def _summary(slices: DataFrame) -> DataFrame:
    """A line for each method: means over the slices, gains over the baselines."""
    by = dict(list(slices.groupby("method", sort=False)))
    rows: list[dict[str, Any]] = []
    for found in by.values():
        first = found.iloc[0]
        row = {**first[: first.index.get_loc("subject")], "slices": len(found), **found[list(MEASURES)].mean()}
        for name in BASELINES:
            gain = gain_over(by[name], found) if name in by else Interval(*[float("nan")] * 4)
            row |= {f"gain_over_{name}_{part}": value for part, value in gain._asdict().items()}
        rows.append(row | {"seconds": found["seconds"].mean(), **first[["parameters", "label"]]})
    return import_pandas().DataFrame(rows)


def _table(summary: DataFrame) -> str:
    """The summary as Markdown."""
    shown = summary.assign(**{name: summary[name].map(form.format) for name, form in FORMATS.items()})
    shown["parameters"] = shown["parameters"].str.replace("=", " ").str.replace(";", ",").replace("", "–")
    heads = {"label": "method", "parameters": "parameters", "psnr": "PSNR (dB)", "ssim": "SSIM"}
    heads |= {"rmse_percent": "RMSE %", "nmse": "NMSE"}
    for name in BASELINES:
        if (summary["method"] == name).any():
            shown[name] = ["–" if row["method"] == name else _gain(row, name) for row in summary.to_dict("records")]
            heads[name] = f"gain over {BASELINES[name]} (dB), least"
    heads["seconds"] = "CPU s a slice"
    text: str = shown[list(heads)].rename(columns=heads).to_markdown(index=False, disable_numparse=True)
    return text


def _gain(row: Mapping[str, Any], name: str) -> str:
    mean, low, high, least = (row[f"gain_over_{name}_{part}"] for part in Interval._fields)
    return f"{mean:+.2f}{f' [{low:+.2f}, {high:+.2f}]' if low == low else ''}, {least:+.2f}"


def _introduction(comparison: Comparison, remark: str) -> list[str]:
    counts = [
        f"{len(cases)} slice(s) of {len({case.subject for case in cases})} subject(s) of the {data} set"
        for data, cases in comparison.cases.items()
    ]
    return [
        f"# Priors in MR reconstruction{f' – {remark}' if remark else ''}",
        "",
        f"{'; '.join(counts)}. One-dimensional masks of Gaussian density with {CENTRE_LINES} centre lines, a random "
        "phase, and noise of which the 99th percentile of the magnitude is 1; the same scans for all methods (seed "
        f"{comparison.seed}). Parameters are those with the highest PSNR of {TRIALS} trials on the {VALIDATION} set, "
        "at each setting. PSNR and SSIM with the largest magnitude of the volume as range. Gains are means over "
        "subjects of the differences on the same slices, with the 95 % bootstrap interval over subjects, and the least "
        "of a subject.",
        "",
        *(f"- Not compared: {what}; {why}." for what, why in NOT_COMPARED.items()),
        "",
    ]


def _figures(comparison: Comparison, setting: Setting, data: str, folder: Path) -> list[str]:
    """Draw the first slice and PSNR over the steps; the lines that show them."""
    case = comparison.cases[data][0]
    title = f"{setting.title}, {case.subject}, slice {case.index}"
    images: dict[str, Pixels] = {}
    curves: dict[str, list[float]] = {}
    for method in comparison.methods:
        path = comparison.path(setting, method, data, case).with_suffix(".npy")
        results = comparison.finished(setting, method, data)
        if results and path.is_file():
            images[method.label] = np.load(path, allow_pickle=False)
        if results and results[0].psnr_of_steps:
            curves[method.label] = results[0].psnr_of_steps
    lines = []
    for kind, figure in (
        ("reconstructions", draw_reconstructions(title, case.magnitude[0, 0].numpy(), images) if images else None),
        ("convergence", draw_convergence(title, curves) if curves else None),
    ):
        if figure is not None:
            path = folder / f"{kind}_{data}_{setting.name}.png"
            with replacing(path) as temporary:
                figure.savefig(temporary, format="png", dpi=120)
            lines += [f"![{kind} of {case.subject}, slice {case.index}]({path.name})", ""]
    return lines


def draw_reconstructions(title: str, reference: Pixels, images: Mapping[str, Pixels]) -> Figure:
    """A row of magnitudes ``(H, W)``, the fully sampled one first, over a row of absolute errors."""
    figure = new_figure((INCHES * (len(images) + 1), 2 * INCHES + 0.6))
    axes = figure.subplots(2, len(images) + 1)
    for column, (label, pixels) in enumerate({"fully sampled": reference, **images}.items()):
        axes[0, column].imshow(np.rot90(pixels), cmap="gray", vmin=0, vmax=float(reference.max()))
        axes[0, column].set_title(label, fontsize=8)
        error = np.abs(pixels - reference)
        drawn = axes[1, column].imshow(np.rot90(error), cmap="inferno", vmin=0, vmax=ERROR_RANGE)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.colorbar(drawn, ax=axes[1, -1], label="|error|", fraction=0.046)
    figure.suptitle(title, fontsize=9)
    return figure


def draw_convergence(title: str, curves: Mapping[str, Sequence[float]]) -> Figure:
    """PSNR over the steps of each method that has some."""
    figure = new_figure((6, 3.6))
    axis = figure.subplots()
    for label, curve in curves.items():
        axis.plot(range(1, len(curve) + 1), curve, label=label)
    axis.set_xlabel("step of the splitting, or block of DDP")
    axis.set_ylabel("PSNR (dB)")
    axis.set_title(title, fontsize=9)
    axis.legend(fontsize=8)
    return figure
