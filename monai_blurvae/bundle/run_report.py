"""The report at the end of a training or evaluation."""

from __future__ import annotations

import logging
from pathlib import Path

from monai_blurvae.errors import RunFolderError
from monai_blurvae.report import write_report

logger = logging.getLogger(__name__)


def report_run(run_dir: str | Path, evaluation_dir: str | Path | None = None) -> None:
    """Write the report of a run; what keeps it from being written is logged, since the run itself has ended well.

    Args:
        run_dir: the run's folder.
        evaluation_dir: of an evaluation that the report shows in place of the training's test.
    """
    try:
        logger.info(f"Report in {write_report(run_dir, evaluation_dir)}.")
    except (ImportError, RunFolderError) as error:
        logger.warning(f"No report: {error}")
    except Exception:  # a training of days must not count as failed for a chart
        logger.exception("No report, by a fault of the report and not of the run:")
