"""The checks of a run: which were made, and what they found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from monai_blurvae.report import checks
from monai_blurvae.report.checks import Finding
from monai_blurvae.report.content import resume_command
from monai_blurvae.report.run_record import RunRecord

PSNR, KERNEL_WIDTH = "validation/psnr", "train/kernel_width"


class Check(NamedTuple):
    """A check that was made, or could not be for lack of data.

    Attributes:
        name: what was looked for.
        made: whether there was something to look at.
        finding: what was found, or None.
    """

    name: str
    made: bool
    finding: Finding | None = None


def check_run(run: RunRecord) -> list[Check]:
    """All checks, the serious findings first.

    Args:
        run: the run.
    """
    made = (state_checks, _yardstick, _training, _kernel, _evaluation, data_checks)
    return sorted_checks(check for checks_of in made for check in checks_of(run))


def sorted_checks(made: Iterable[Check]) -> list[Check]:
    """The serious findings first."""
    return sorted(made, key=lambda check: check.finding is None or not check.finding.serious)


def state_checks(run: RunRecord) -> Iterator[Check]:
    """Of the files of a run and its curves."""
    finished = run.summary is not None
    max_epochs = run.setting("max_epochs")
    command = resume_command(run.path)
    yield Check("files that cannot be read", True, checks.unreadable_files(run.problems))
    yield Check("an unfinished run", True, checks.unfinished(finished, run.history.epochs, max_epochs, command))
    yield Check("terms that are not finite", bool(run.history.scalars), checks.not_finite(run.history.scalars))


def _yardstick(run: RunRecord) -> Iterator[Check]:
    made = run.yardstick is not None and not run.yardstick["problem"]
    finding = checks.behind_linear(run.yardstick) if made and run.yardstick is not None else None
    yield Check("a network that is behind a linear model", made, finding)


def _training(run: RunRecord) -> Iterator[Check]:
    psnr = run.history.scalar(PSNR)
    over = run.summary is not None  # an unfinished training has not converged, which needs no saying twice
    yield Check(
        "a training that has not converged",
        over and checks.trend(psnr) is not None,
        checks.not_converged(psnr) if over else None,
    )
    yield Check("overfitting", len(psnr) >= checks.FEWEST_COMPARED, checks.overfitting(psnr))


def _kernel(run: RunRecord) -> Iterator[Check]:
    widths = list(run.history.scalar(KERNEL_WIDTH).values())
    size = run.setting("kernel_size")
    trained = run.history.trains_kernel
    known = trained and isinstance(size, int) and len(widths) > 1
    wide = checks.kernel_not_narrowed(widths[0], widths[-1], size, run.spatial_dims) if known else None
    yield Check("a kernel that did not narrow", known, wide)
    # a kernel that is still flat reaches the edge too, for the same reason
    seen = trained and run.evaluation is not None and wide is None
    edge = checks.kernel_hits_window(run.evaluation.mean_kernel) if seen and run.evaluation is not None else None
    yield Check("a kernel that hits its window", seen, edge)


def _evaluation(run: RunRecord) -> Iterator[Check]:
    tests = None if run.datalist is None else len(run.datalist.get("test", []))
    evaluated = run.evaluation is not None
    yield Check("missing test images", tests is not None, checks.no_test_images(tests) if tests is not None else None)
    yield Check("a missing evaluation", True, checks.not_evaluated(run.summary is not None, evaluated, tests))
    if run.evaluation is None:
        yield Check("posterior collapse", False)
        yield Check("another voxel size", False)
        return
    about = run.evaluation.about
    collapse = checks.posterior_collapse(
        about["active_units"], about["latent_size"], about["metrics"]["kl"]["mean"], about["images"]
    )
    yield Check("posterior collapse", True, collapse)
    trained, here = about["training_voxel_size"], about["voxel_size"]
    yield Check("another voxel size", all(trained) and here is not None, checks.other_spacing(trained, here))


def data_checks(run: RunRecord) -> Iterator[Check]:
    """Of the data of a run."""
    yield Check("sample or synthetic data", True, checks.marked_data(run.remark))
    yield Check("files that were left out", run.summary is not None, checks.skipped_files(run.skipped))
