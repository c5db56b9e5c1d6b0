"""Export a finished run or a packed bundle, as files that need neither MONAI nor this package, with a model card.

    python scripts/export.py outputs/hcp/0001

writes ``model.ts`` (TorchScript), ``model.pt2`` (``torch.export``), ``model.onnx`` and ``model_card.md`` into the run's
new folder ``export``; of a zip, into one beside it. All reconstruct; TorchScript has ``encode``, ``decode``,
``sample``, ``kernel`` and ``log_prob``, too, under the density that was packed, or is fitted on the run's validation
images. No path of this machine and no subject's name goes into them.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from monai_blurvae.errors import user_error
from monai_blurvae.trained.exports import FORMATS, write_exports


def make_parser() -> argparse.ArgumentParser:
    """The run, where to and what."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="folder of a finished run, packed bundle or its zip")
    parser.add_argument("--output", type=Path, help="new folder; by default export in the run's, or beside the zip")
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line.

    Args:
        arguments: by default those of the process.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    options = make_parser().parse_args(arguments)
    beside = options.run_dir if options.run_dir.is_dir() else options.run_dir.parent
    try:
        print(write_exports(options.run_dir, options.output or beside / "export", options.formats))
    except Exception as error:  # what MONAI wraps in errors of its own has a cause that is a sentence
        known = user_error(error)
        if known is None:
            raise
        print(f"error: {known}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
