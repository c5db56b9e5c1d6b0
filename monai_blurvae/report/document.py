"""``report.html``: one file that needs nothing else."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from monai_blurvae import __version__
from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import make_folder, write_text
from monai_blurvae.handlers.evaluation import SPECTRUM_SAMPLES
from monai_blurvae.report import content, figures
from monai_blurvae.report.charts import need_matplotlib
from monai_blurvae.report.findings import check_run
from monai_blurvae.report.run_record import RunRecord, read_run
from monai_blurvae.run_files import REPORT

GENERATOR = "monai_blurvae"
"""By this name in its head a report is told from another file."""


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
    _refuse_other_file(path)
    html = render(read_run(run_dir, evaluation_dir))
    make_folder(path.parent)
    write_text(path, html)
    return path


def _refuse_other_file(path: Path) -> None:
    if not path.exists():
        return
    if path.is_file():
        with path.open("rb") as handle:
            if f'name="generator" content="{GENERATOR}'.encode() in handle.read(4096):
                return
    raise RunFolderError(f"{path} is there and is no report; choose another file.")


def render(run: RunRecord) -> str:
    """The document.

    Args:
        run: what it is made from.

    Raises:
        ImportError: without matplotlib, naming the extra.
    """
    folder = files("monai_blurvae.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["options"] = _with_options
    template = environment.from_string((folder / "report.html.jinja").read_text(encoding="utf-8"))
    style = (folder / "style.css").read_text(encoding="utf-8")
    return template.render(style=Markup(style), **_everything(run)) + "\n"


def _with_options(text: str) -> Markup:
    """Text in which the options of a command line, ``--name``, stand out and are not torn."""
    return Markup(re.sub(r"(?<![\w-])(--\w+)", r'<code class="option">\1</code>', str(escape(text))))


def _everything(run: RunRecord) -> dict[str, Any]:
    """What the template shows, by the names that it has there."""
    return {
        "generator": f"{GENERATOR} {__version__}",
        "run": run,
        "name": run.path.resolve().name,
        "subtitle": content.subtitle(run),
        "tiles": content.tiles(run),
        "checks": check_run(run),
        "setting_groups": content.setting_groups(run.settings),
        "splits": None if run.datalist is None else content.splits(run.datalist),
        "data_facts": content.data_facts(run),
        "training_charts": figures.training_charts(run.history),
        "stages": figures.picture_stages(run.history),
        "repeat_command": content.repeat_command(run.path),
        "same_split_option": content.same_split_option(run.path),
        **_kernels(run),
        **_evaluation(run),
    }


def _kernels(run: RunRecord) -> dict[str, Any]:
    trained = run.history.trains_kernel
    return {
        "kernel_chart": figures.kernel_chart(run.history, run.setting("kernel_size")) if trained else None,
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
