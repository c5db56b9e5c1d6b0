"""Tables and figures of a comparison."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from monai_blurvae.files import write_text
from monai_blurvae.handlers.evaluation import csv_text
from monai_blurvae.priors.reconstruction.measures import MEASURES
from prior_comparison.figures import write_convergence, write_reconstructions
from prior_comparison.methods import EPLL, NOT_COMPARED, TRIALS, TV_REAL, Method
from prior_comparison.results import Result
from prior_comparison.runner import CROSS, TEST, VALIDATION, Comparison
from prior_comparison.scenes import CENTRE_LINES, Setting
from prior_comparison.statistics import Interval, mean_with_interval

PAGE, SLICES, SUMMARY = "comparison.md", "slices.csv", "summary.csv"
BASELINES = {TV_REAL: "TV, real", EPLL: "EPLL"}
"""That the others are held against, and what the columns call them."""
TITLES = {TEST: "test subjects", CROSS: "other data"}

By = dict[str, list[Result]]
"""Results by the name of the method."""


def write_report(comparison: Comparison, folder: str | Path, remark: str = "") -> None:
    """Write ``comparison.md``, ``slices.csv`` and ``summary.csv``, and the figures where matplotlib is installed.

    Args:
        comparison: what is there of it is reported.
        folder: where to write.
        remark: what the page has to say of the data.

    Raises:
        RunFolderError: if it cannot be written.
    """
    folder = Path(folder)
    lines, rows, summary = _introduction(comparison, remark), [], []
    for data in comparison.reported:
        for setting in comparison.settings:
            by = _results(comparison, setting, data)
            if not by:
                continue
            lines += _table(comparison, setting, data, by)
            rows += [_row(data, setting, name, result) for name, results in by.items() for result in results]
            summary += [_summary_row(data, setting, name, by) for name in by]
            lines += _figures(comparison, setting, data, by, folder)
    if rows:
        write_text(folder / SLICES, csv_text(rows))
        write_text(folder / SUMMARY, csv_text(summary))
    write_text(folder / PAGE, "\n".join(lines) + "\n")


def gain_over(baseline: Sequence[Result], results: Sequence[Result], measure: str = "psnr") -> Interval:
    """The mean over subjects of the differences on the same slices, with its interval.

    Args:
        baseline: of the same slices as ``results``.
        results: of a method.
        measure: that is compared.
    """
    reference = {(result.subject, result.index): result.measures[measure] for result in baseline}
    differences = defaultdict(list)
    for result in results:
        differences[result.subject].append(result.measures[measure] - reference[result.subject, result.index])
    return mean_with_interval([fmean(values) for values in differences.values()])


def _results(comparison: Comparison, setting: Setting, data: str) -> By:
    found = {method.name: comparison.finished(setting, method, data) for method in comparison.methods}
    return {name: results for name, results in found.items() if results}


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


def _table(comparison: Comparison, setting: Setting, data: str, by: By) -> list[str]:
    against = [name for name in BASELINES if name in by]
    heads = ["method", "parameters", "PSNR (dB)", "SSIM", "RMSE %", "NMSE"]
    heads += [f"gain over {BASELINES[name]} (dB), least" for name in against] + ["CPU s a slice"]
    lines = [f"## {setting.title}: {TITLES[data]}", "", _line(heads), "|---" * len(heads) + "|"]
    lines += [_line(_cells(method, by, against)) for method in comparison.methods if method.name in by]
    return [*lines, ""]


def _cells(method: Method, by: By, against: Sequence[str]) -> list[str]:
    results = by[method.name]
    means = _means(results)
    gains = ["–" if name == method.name else _gain_text(gain_over(by[name], results)) for name in against]
    return [
        method.label,
        ", ".join(f"{name} {value:.3g}" for name, value in results[0].parameters.items()) or "–",
        f"{means['psnr']:.2f}",
        f"{means['ssim']:.3f}",
        f"{means['rmse_percent']:.2f}",
        f"{means['nmse']:.4f}",
        *gains,
        f"{fmean(result.seconds for result in results):.2f}",
    ]


def _gain_text(gain: Interval) -> str:
    interval = f" [{gain.low:+.2f}, {gain.high:+.2f}]" if gain.low == gain.low else ""
    return f"{gain.mean:+.2f}{interval}, {gain.least:+.2f}"


def _row(data: str, setting: Setting, method: str, result: Result) -> dict[str, Any]:
    return {
        "data": data,
        **vars(setting),
        "method": method,
        "subject": result.subject,
        "slice": result.index,
        **result.measures,
        "seconds": result.seconds,
    }


def _summary_row(data: str, setting: Setting, method: str, by: By) -> dict[str, Any]:
    row = {"data": data, **vars(setting), "method": method, "slices": len(by[method]), **_means(by[method])}
    for name in BASELINES:
        gain = gain_over(by[name], by[method]) if name in by else Interval(*[float("nan")] * 4)
        row |= {f"gain_over_{name}_{part}": value for part, value in gain._asdict().items()}
    parameters = "; ".join(f"{name}={value:g}" for name, value in by[method][0].parameters.items())
    return row | {"seconds": fmean(result.seconds for result in by[method]), "parameters": parameters}


def _means(results: Sequence[Result]) -> Mapping[str, float]:
    return {name: fmean(result.measures[name] for result in results) for name in MEASURES}


def _figures(comparison: Comparison, setting: Setting, data: str, by: By, folder: Path) -> list[str]:
    case = comparison.cases[data][0]
    shown = [method for method in comparison.methods if method.name in by]
    images = {
        method.label: pixels
        for method in shown
        if (pixels := comparison.results.image(setting, method, data, case)) is not None
    }
    curves = {method.label: by[method.name][0].psnr_of_steps for method in shown if by[method.name][0].psnr_of_steps}
    lines = []
    for kind, write, content in (
        ("reconstructions", write_reconstructions, (case.magnitude[0, 0].numpy(), images)),
        ("convergence", write_convergence, (curves,)),
    ):
        path = folder / f"{kind}_{data}_{setting.name}.png"
        title = f"{setting.title}, {case.subject}, slice {case.index}"
        if all(len(part) for part in content) and write(path, title, *content):
            lines += [f"![{kind} of {case.subject}, slice {case.index}]({path.name})", ""]
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
