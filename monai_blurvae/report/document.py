"""``report.html``: one file that needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai_blurvae.handlers.evaluation import SPECTRUM_SAMPLES
from monai_blurvae.report import content, figures, prior
from monai_blurvae.report.charts import need_matplotlib
from monai_blurvae.report.findings import check_run
from monai_blurvae.report.page import refuse_other_file, render_page, write_page
from monai_blurvae.report.run_record import RunRecord, read_run
from monai_blurvae.run_files import REPORT

SECTIONS = [
    ("findings", "Warnings"),
    ("results", "Results"),
    ("training", "Training"),
    ("kernel", "Kernel"),
    ("examples", "Examples"),
    ("spectra", "Spectra"),
    ("latent", "Latent"),
    ("data", "Data"),
    ("settings", "Settings"),
    ("reproduce", "Reproduce"),
]
"""Id and label of the parts."""
PRIOR_SECTIONS = [
    ("findings", "Warnings"),
    ("results", "Results"),
    ("training", "Training"),
    ("examples", "Denoising"),
    ("patches", "Patches"),
    ("data", "Data"),
    ("settings", "Settings"),
    ("reproduce", "Reproduce"),
]
"""Likewise, of a learned prior."""


def write_report(
    run_dir: str | Path, evaluation_dir: str | Path | None = None, output: str | Path | None = None
) -> Path:
    """Write the report of a run, finished or not, from what is in its folder.

    Args:
        run_dir: the run's folder.
        evaluation_dir: of an evaluation that is shown in place of the test at the end of the training.
        output: the file; by default ``report.html`` in ``evaluation_dir``, or without one in ``run_dir``. A report that
            is there is replaced, any other file is not.

    Returns:
        The file.

    Raises:
        RunFolderError: if ``run_dir`` is no run, the evaluation is not there, ``output`` is another file than a report,
            or nothing can be written.
        ImportError: without matplotlib, naming the extra.
    """
    need_matplotlib()
    path = Path(output).expanduser() if output is not None else Path(evaluation_dir or run_dir).expanduser() / REPORT
    refuse_other_file(path)
    return write_page(path, render(read_run(run_dir, evaluation_dir)))


def render(run: RunRecord) -> str:
    """The document.

    Args:
        run: what it is made from.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    title = f"Run {run.path.resolve().name}"
    if run.is_prior:
        return render_page("prior.html.jinja", title, PRIOR_SECTIONS, run.path, **_common(run), **prior.shown(run))
    return render_page("report.html.jinja", title, SECTIONS, run.path, **_everything(run))


def _everything(run: RunRecord) -> dict[str, Any]:
    """What the template shows, by the names that it has there."""
    return {
        **_common(run),
        "tiles": content.tiles(run),
        "checks": check_run(run),
        "training_charts": figures.training_charts(run.history),
        "stages": figures.picture_stages(run.history),
        **_kernels(run),
        **_evaluation(run),
    }


def _common(run: RunRecord) -> dict[str, Any]:
    """What is told of every run."""
    return {
        "run": run,
        "subtitle": content.subtitle(run),
        "setting_groups": content.setting_groups(run.settings),
        "splits": None if run.datalist is None else content.splits(run.datalist),
        "data_facts": content.data_facts(run),
        "repeat_command": content.repeat_command(run.path),
        "same_split_option": content.same_split_option(run.path),
    }


def _kernels(run: RunRecord) -> dict[str, Any]:
    trained = run.history.trains_kernel
    size = run.setting("kernel_size")
    return {
        "kernel_chart": figures.kernel_chart(run.history, size, run.spatial_dims) if trained else None,
        "kernel_stages": figures.kernel_stages(run.history) if trained else [],
        "mean_kernel": figures.mean_kernel(run.evaluation) if trained and run.evaluation else None,
    }


def _evaluation(run: RunRecord) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "measures": None if run.measures is None else content.measures_of(run.measures),
        "yardstick": None if run.yardstick is None else content.yardstick_of(run.yardstick),
        "extreme_tables": content.extreme_tables(run.rows),
        "psnr_chart": figures.psnr_chart(run.rows),
        "examples": None,
        "drawn": None,
    }
    record = run.evaluation
    if record is None:
        return shown
    return shown | {
        "metric_table": content.metric_table(record.about),
        "examples": figures.examples(record, run.history.trains_kernel),
        "samples": figures.samples(record),
        "drawn": figures.drawn(record),
        "not_drawn": record.about["draws"]["missing"],
        "spectrum_charts": figures.spectrum_charts(record),
        "spectrum_samples": SPECTRUM_SAMPLES,
        "frequency_text": figures.frequency_text(record.about),
        "latent_chart": figures.latent_chart(record),
    }
