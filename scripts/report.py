"""Write the report of a run, ``report.html``: settings, data, curves, kernels, examples, spectra, tables, warnings.

A training and an evaluation write theirs by themselves; this writes it again, or for a run that is not finished.
"""

from __future__ import annotations

import argparse
import sys

from monai_blurvae.errors import BlurVAEError
from monai_blurvae.report import write_report


def make_parser() -> argparse.ArgumentParser:
    """The run, and what of it to show where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="folder of a training")
    parser.add_argument("--evaluation", help="folder of an evaluation, in place of the training's test")
    parser.add_argument("--output", help="file; by default report.html in the evaluation's or the run's folder")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line.

    Args:
        arguments: by default those of the process.
    """
    options = make_parser().parse_args(arguments)
    try:
        print(write_report(options.run, options.evaluation, options.output))
    except (BlurVAEError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
