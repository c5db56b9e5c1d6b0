"""The report at the end of a training, an evaluation or reconstructions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from monai_blurvae.distributed import is_main_process
from monai_blurvae.errors import RunFolderError
from monai_blurvae.report import write_reconstructions, write_report

logger = logging.getLogger(__name__)


def report_run(run_dir: str | Path, evaluation_dir: str | Path | None = None) -> None:
    """Write the report of a run; what keeps it from being written is logged, since the run itself has ended well.

    Of several processes the first writes it.

    Args:
        run_dir: the run's folder.
        evaluation_dir: of an evaluation that the report shows in place of the training's test.
    """
    if is_main_process():
        _write(lambda: write_report(run_dir, evaluation_dir))


def report_reconstructions(output_dir: str | Path) -> None:
    """Write the page of reconstructions, likewise.

    Args:
        output_dir: the folder of all files' folders.
    """
    _write(lambda: write_reconstructions(output_dir))


def _write(report: Callable[[], Path]) -> None:
    try:
        logger.info(f"Report in {report()}.")
    except (ImportError, RunFolderError) as error:
        logger.warning(f"No report: {error}")
    except Exception:  # a training of days must not count as failed for a chart
        logger.exception("No report, by a fault of the report and not of the run:")
