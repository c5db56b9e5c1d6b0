"""Prepare raw scans for a training.

    python scripts/prepare.py scans --input SCAN_OR_FOLDER_OR_GLOB --output_dir OUT

takes DICOM series, NIfTI and whatever else is read, and writes brains: axes in RAS order, N4 bias correction, 0 in
what is no brain, voxels of one size, named by BIDS, with a page that shows every mask. docs/preparation.md explains it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from monai_blurvae.errors import BlurVAEError
from monai_blurvae.preparation import FAILED, prepare_scans


def make_parser() -> argparse.ArgumentParser:
    """What to prepare, where to and how."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scans = parser.add_subparsers(dest="command", required=True).add_parser("scans", help="raw scans to brains")
    scans.add_argument(
        "--input", nargs="+", required=True, help="scans, DICOM folders, folders that hold them, or globs"
    )
    scans.add_argument("--output_dir", type=Path, required=True, help="folder of the results")
    scans.add_argument(
        "--mask_pattern",
        help="glob of the brain masks, relative to the input's folder, with {stem} or {subject}, for example "
        "'masks/{stem}_mask.nii.gz'; without it the MNI152 template is registered",
    )
    scans.add_argument("--spacing", nargs="+", type=float, help="size of the voxels in mm, one or three (R, A, S)")
    scans.add_argument("--subject_pattern", help="regular expression with a group around the person in a path")
    scans.add_argument("--jobs", type=int, default=1, help="number of processes (default: %(default)s)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line.

    Args:
        arguments: by default those of the process.

    Returns:
        0 if all scans are prepared, 1 if one or all failed.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    options = make_parser().parse_args(arguments)
    try:
        outcomes = prepare_scans(
            options.input,
            options.output_dir,
            options.mask_pattern,
            options.spacing,
            options.subject_pattern,
            options.jobs,
        )
    except BlurVAEError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    width = max(len(outcome.name) for outcome in outcomes)
    for outcome in outcomes:
        print(f"{outcome.state:<13}  {outcome.name:<{width}}  {outcome.detail}")
    failed = sum(outcome.state == FAILED for outcome in outcomes)
    print(f"{len(outcomes) - failed} of {len(outcomes)} scans are prepared, {failed} failed.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
