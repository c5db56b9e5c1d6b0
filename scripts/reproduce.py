"""Reproduce the paper's tables and figures: train every loss over a grid of β, measure, and write what was asked for.

What is trained or measured already is not done again, and what was cut off is resumed: after an interruption, or to
add seeds, losses or figures, run the command with the same --output once more. A training that fails leaves its reason
in its row and a log in OUTPUT/cells. Test subjects are measured once every training of the command has ended.

The paper's own figures stand beside ours. Tables 1, 2, 4 and 6 and Figures 2, 6 and 8 are of CelebA, Table 3 and
Figures 4 and 9 of HCP, Table 5 and Figure 5 of CIFAR-10, Figures 3 and 7 and the other half of Table 2 of CelebA-HQ;
--bundle takes other images for the same rows. A folder of results is of one set.

    python scripts/reproduce.py --table 3 --figure 4 --budget tiny --output outputs/study \
        --dataset_dir ~/t1 --image_pattern "*.nii.gz" --slice_axis 2
    python scripts/reproduce.py --table 5 --figure 5 --dataset_dir ~/cifar10 --output outputs/cifar10
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout

from monai_blurvae.errors import BlurVAEError
from monai_blurvae.files import default_cache_dir, make_folder
from study.options import StudyOptions
from study.plan import BETAS, BUDGETS, FIGURES, PLAIN_BETA, ROWS, SETS, TABLES
from study.study import Study

ROOT = Path(__file__).resolve().parents[1]


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--table", nargs="+", choices=list(TABLES), default=[], help="of the paper, or of what is ours; default: 3")
    add("--figure", nargs="+", choices=list(FIGURES), default=[], help="of the paper; alone, for β = 1")
    add("--rate-distortion", action="store_true", help="also draw rate against distortion for each table")
    add("--bundle", choices=list(SETS), help="the images; default: those of the first table or figure")
    add("--budget", choices=BUDGETS, default="tiny")
    add("--yes", action="store_true", help="start what the budget 'paper' has announced")
    add("--output", type=Path, required=True, help="folder of the study")
    add("--losses", type=_names, help="rows to train, with commas between; default: all of the tables and figures")
    add("--betas", type=_numbers, help=f"β of every row, with commas between; default: {','.join(map(str, BETAS))}")
    add("--seeds", type=_integers, default=(0,), help="with commas between")
    add("--patches", type=int, help="training patches of each cell, in place of the budget's")
    add("--settings", type=json.loads, default={}, help="settings of the bundle for every cell, as JSON")
    add("--overlays", nargs="+", default=[], help="config files for every cell, such as another network's")
    data = parser.add_argument_group("data, as in the bundle")
    data.add_argument("--dataset_dir", type=Path, help="default: that of HCP_DIR, CELEBA_DIR or CIFAR10_DIR")
    data.add_argument("--image_pattern")
    data.add_argument("--datalist", type=Path)
    data.add_argument("--slice_axis", type=int, choices=(0, 1, 2))
    data.add_argument("--cache_dir", type=Path, default=default_cache_dir())
    add("--weights_dir", type=Path, help="folder of pretrained features for LPIPS, MMD and FID")
    add("--importance_samples", type=int, default=16)
    add("--rate", type=float, help="validation KL in nats at which rows are compared, in later commands too")
    add("--validation_only", action="store_true", help="leave the test subjects alone and report on validation")
    add(
        "--jobs",
        type=int,
        help="trainings side by side, one thread each; default: one for each core, at most 4 on a GPU",
    )
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def make_options(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> StudyOptions:
    """The options, checked; errors end the program with a sentence."""
    tables = tuple(dict.fromkeys(arguments.table or ([] if arguments.figure else ["3"])))
    figures = tuple(dict.fromkeys(arguments.figure))
    shown = [*tables, *(FIGURES[name].table for name in figures)]
    rows = tuple(dict.fromkeys(row.name for table in shown for row in TABLES[table].rows))
    unknown = [name for name in arguments.losses or () if name not in ROWS]
    if unknown:
        parser.error(f"--losses names {unknown[0]!r}, but the rows are {', '.join(ROWS)}.")
    absent = [name for name in arguments.losses or () if name not in rows]
    if absent:
        parser.error(f"--losses names {absent[0]!r}, which is not in table {' or '.join(dict.fromkeys(shown))}.")
    sets = dict.fromkeys([*(TABLES[name].image_set for name in tables), *(FIGURES[name].image_set for name in figures)])
    if arguments.bundle is None and len(sets) > 1:
        parser.error(f"what is asked for is of {' and '.join(sets)}; name one of them as --bundle, or ask for each.")
    if arguments.betas is not None and not all(beta > 0 for beta in arguments.betas):
        parser.error("--betas has to be positive numbers.")
    if (arguments.jobs is not None and arguments.jobs < 1) or (arguments.rate is not None and arguments.rate <= 0):
        parser.error("--jobs and --rate have to be positive.")
    if arguments.patches is not None and arguments.patches < 1:
        parser.error(f"--patches is {arguments.patches}, but has to be positive.")
    if not isinstance(arguments.settings, dict):
        parser.error("--settings has to be a JSON object of the bundle's settings.")
    own = [name for name in ("beta", "seed") if name in arguments.settings]
    if own:
        option = {"beta": "--betas", "seed": "--seeds"}[own[0]]
        parser.error(f"--settings sets {own[0]!r}, which differs from cell to cell; use {option}.")
    budget = BUDGETS[arguments.budget]
    if arguments.patches is not None:
        budget = budget._replace(patches=arguments.patches)
    axis: dict[str, Any] = {} if arguments.slice_axis is None else {"slice_axis": arguments.slice_axis}
    return StudyOptions(
        root=ROOT,
        image_set=SETS[arguments.bundle or next(iter(sets))],
        budget=budget,
        output=arguments.output,
        tables=tables,
        figures=figures,
        rate_distortion=arguments.rate_distortion,
        rows=tuple(arguments.losses or rows),
        seeds=arguments.seeds,
        betas=arguments.betas or (BETAS if tables else (PLAIN_BETA,)),
        dataset_dir=_absolute(arguments.dataset_dir) if arguments.datalist is None else None,
        image_pattern=arguments.image_pattern,
        datalist=_absolute(arguments.datalist),
        cache_dir=Path(arguments.cache_dir).expanduser().resolve(),
        weights_dir=_absolute(arguments.weights_dir),
        settings={**axis, **arguments.settings},
        jobs=arguments.jobs or _default_jobs(arguments.device),
        device=arguments.device,
        importance_samples=arguments.importance_samples,
        rate=arguments.rate,
        validation_only=arguments.validation_only,
        slow_betas=None if arguments.betas else budget.slow_betas,
        overlays=tuple(_under_root(file) for file in arguments.overlays),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = make_parser()
    parsed = parser.parse_args(arguments)
    options = make_options(parsed, parser)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        lock = FileLock(make_folder(options.output) / ".lock", blocking=False)
        with lock:
            study = Study(options, say=_say)
            if parsed.budget == "paper" and not parsed.yes:
                study.announce()
                print("error: give --yes to start it.", file=sys.stderr)
                return 1
            study.run()
    except Timeout:
        print(f"error: another process is working on {options.output}; wait for it.", file=sys.stderr)
        return 1
    except (BlurVAEError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(line, flush=True)


def _default_jobs(device: str) -> int:
    """One for each core; a training alone leaves a GPU waiting for its host, and four share its memory."""
    cores = os.cpu_count() or 1
    return min(cores, 4) if device.startswith("cuda") else cores


def _absolute(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path).expanduser().resolve()


def _under_root(file: str) -> str:
    """A config of the repository by its place in there, so that a study can be moved with it; others as they are."""
    path = Path(file).expanduser().resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
