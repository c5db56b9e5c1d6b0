"""The course of a study: prepare, train, measure, report."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from monai_blurvae.errors import user_error
from monai_blurvae.files import remove_leftovers
from monai_blurvae.metrics.measures import EIGHT_BIT_DENSITY, FLOAT_DENSITY
from study.configs import RowConfigs
from study.estimate import Pace, measure_pace
from study.folder import StudyFolder, read_json
from study.frames import cells_frame, import_pandas
from study.linear import is_linear_measured, linear_cells
from study.measure import Instruments, is_measured
from study.options import StudyOptions
from study.plan import L2, LINEAR, ROWS, Cell, Row, make_cells
from study.prepare import prepare
from study.report import draw_figures, draw_rates, settle_rate, shown_rows, write_tables
from study.tables import Results, joined
from study.tasks import Task, run_tasks


class Study:
    """A study in its folder.

    Args:
        options: what is asked for.
        say: takes the lines that tell the user what happens.

    Raises:
        RunFolderError: if the folder cannot be used.
        BlurVAEError: for a config or data that cannot be used.
        ImportError: without pandas, naming the extra.
    """

    def __init__(self, options: StudyOptions, say: Callable[[str], None] = print) -> None:
        import_pandas()  # before hours of training
        self.options = options
        self.say = say
        self.folder = StudyFolder(options.output)
        remove_leftovers(self.folder.path / "measures")
        self.configs: RowConfigs = prepare(options, self.folder)
        self.instruments = Instruments(
            options.weights_dir, options.importance_samples, options.device, options.image_set.eight_bit
        )
        self._problems: dict[Cell, str] = {}
        self._idle = True

    def run(self) -> None:
        """Train and measure what is missing, and write tables and figures; a cell that fails raises nothing.

        Raises:
            ImportError: without matplotlib, when figures are wanted, after the tables.
        """
        self.train(self.plan())
        self.measure("validation")
        if not self.options.validation_only:
            self.measure("test")
        self.report()

    def plan(self) -> list[Cell]:
        """The cells of this command; rows with the same settings share theirs."""
        aliases = self.configs.aliases
        options = self.options
        rows = dict.fromkeys(ROWS[aliases[name]] for name in options.rows if name in aliases)
        return make_cells(rows, options.betas, options.seeds, options.slow_betas)

    def announce(self) -> None:
        """Say how many cells are left to train, for how many iterations, and how long that will take."""
        cells = [cell for cell in self.plan() if not self.folder.is_finished(cell)]
        total = 0.0
        for name in dict.fromkeys(cell.row for cell in cells):
            count = sum(cell.row == name for cell in cells)
            try:
                pace = self._pace(ROWS[name])
            except Exception as error:
                shown = user_error(error)
                if shown is None:
                    raise
                self.say(f"{ROWS[name].label}: {count} cells that cannot be trained: {shown}")
                continue
            seconds = pace.iterations * pace.seconds
            total += count * seconds
            each = f"{pace.iterations:,} iterations of {pace.seconds:.3g} s"
            self.say(f"{ROWS[name].label}: {count} cells of {each}, {duration(seconds)} each")
        jobs = self.options.jobs
        self.say(
            f"{len(cells)} cells are left to train: {duration(total)}, with {jobs} at a time {duration(total / jobs)}; "
            "validations and measures come on top."
        )

    def _pace(self, row: Row) -> Pace:
        config = self.configs.config(row, self.configs.overrides(row) | self._data() | self._weights(row))
        threads = None if self.options.device.startswith("cuda") else 1
        return measure_pace(config, self.folder.training_datalist, self.options.device, threads)

    def train(self, cells: Sequence[Cell]) -> None:
        """Train the cells that are not finished, side by side."""
        for cell in {*cells, *self.folder.finished()}:
            change = self._change(cell)
            if change is not None:
                place = self.folder.cell_dir(cell)
                self._problems[cell] = f"trained with other settings ({change}); remove {place} to train it anew"
        finished = sum(self.folder.is_finished(cell) for cell in cells)
        wanted = [cell for cell in cells if cell not in self._problems and not self.folder.is_finished(cell)]
        jobs = self.options.jobs
        self.say(f"{len(cells)} cells: {finished} finished before, {len(wanted)} to train, {jobs} at a time.")
        if not wanted:
            return
        self._idle = False
        for cell in wanted:
            self.folder.write_cell(cell, self.configs.settings[cell.row])
        tasks = [Task(cell.name, self.command(cell), self.folder.log(cell)) for cell in wanted]
        run_tasks(tasks, jobs, self._progress(wanted), self.options.root)

    def measure(self, split: str) -> None:
        """Measure every finished cell of the folder that was not measured as it is now."""
        if not read_json(self.folder.datalist)[split]:
            self.say(f"The data list names no {split} subjects, so that nothing is measured on them.")
            return
        known = [cell for cell in self.folder.finished() if self._is_current(cell)]
        cells = [cell for cell in known if not is_measured(self.folder, cell, split, self.instruments)]
        if cells:
            self._idle = False
            self.say(f"Measuring {len(cells)} cells on the {split} subjects.")
            chunks = [cells[i :: self.options.jobs] for i in range(min(self.options.jobs, len(cells)))]
            tasks = [self._measure_task(chunk, split, i) for i, chunk in enumerate(chunks)]
            run_tasks(tasks, self.options.jobs, self._measure_ended, self.options.root)
        self._measure_linear(known, split)
        for cell in known:
            path = self.folder.measure_file(cell, split)
            failed = read_json(path).get("failed") if path.is_file() else "see the logs in measures"
            if failed:
                self._problems[cell] = f"not measured on the {split} subjects: {failed}"

    def report(self) -> None:
        """Write the tables and figures from what is in the folder, also of earlier commands."""
        results = self._results()
        tables = {name: shown_rows(name, self.options.rows, results) for name in self.options.tables}
        wanted = [ROWS[name] for name in self.options.rows]
        rows = dict.fromkeys([*(row for table in tables.values() for row in table), *wanted])
        before = self.folder.rate
        rate = settle_rate(self.folder, tables, results, self.options.rate)
        if rate is not None:
            new = before is not None and before.nats != rate
            again = f"; tables of other commands are still at {before.nats:.4g}" if before and new else ""
            self.say(f"Rows are compared at a validation KL of {rate:.4g} nats{again}.")
        write_tables(self.folder, tables, results, rate, self.options.image_set.name)
        for row in rows:
            if results.problem(row):
                self.say(f"{row.name}: {results.problem(row)}")
        if self._idle:
            self.say("Nothing was left to train or to measure; tables and figures are written anew.")
        self.say(f"Results are in {self.folder.path}.")
        if self.options.rate_distortion:
            draw_rates(self.folder, tables, results, rate)
        draw_figures(self.folder, self.options.figures, results)

    def command(self, cell: Cell) -> list[str]:
        """The user's own command that trains a cell."""
        row = ROWS[cell.row]
        given: dict[str, Any] = {
            "config_file": self.configs.files(row),
            **self._data(),
            "datalist": self.folder.training_datalist,
            "run_dir": self.folder.cell_dir(cell),
            "resume": "auto",
            "beta": cell.beta,
            "seed": cell.seed,
            "num_workers": 0,
            "device": self.options.device,
            **self.configs.overrides(row),
            **self._weights(row),
        }
        return [sys.executable, "-m", "monai.bundle", "run", "training", *_arguments(given)]

    def _data(self) -> dict[str, str]:
        """Where the images of every cell are."""
        dataset_dir = read_json(self.folder.datalist)["dataset_dir"]
        return {"dataset_dir": dataset_dir, "cache_dir": str(self.options.cache_dir)}

    def _weights(self, row: Row) -> dict[str, str]:
        """Where a row whose loss needs pretrained features finds them."""
        weights_dir = self.options.weights_dir
        needed = weights_dir is not None and "weights_dir" in self.configs.config(row)
        return {"weights_dir": str(weights_dir)} if needed else {}

    def _change(self, cell: Cell) -> str | None:
        """In which setting a cell that was started differs from what it would be now."""
        before = self.folder.settings(cell)
        if before is None or cell.row not in self.configs.settings or not self.folder.is_started(cell):
            return None
        return self.configs.change(cell.row, before)

    def _is_current(self, cell: Cell) -> bool:
        return cell.row in self.configs.settings and self._change(cell) is None

    def _progress(self, cells: Sequence[Cell]) -> Callable[[Task, str | None], None]:
        """Notes how each training ended, and tells how long the others may take."""
        by_name = {cell.name: cell for cell in cells}
        started, done = time.monotonic(), 0

        def ended(task: Task, reason: str | None) -> None:
            nonlocal done
            done += 1
            cell = by_name[task.name]
            if reason is None and not self.folder.is_finished(cell):
                reason = "ended without a result"
            if reason is not None:
                self._problems[cell] = f"{reason} ({task.log.relative_to(self.folder.path)})"
                self.folder.write_cell(cell, self.configs.settings[cell.row], self._problems[cell])
            how = "finished" if reason is None else f"FAILED: {self._problems[cell]}"
            left = (time.monotonic() - started) / done * (len(cells) - done)
            self.say(f"cell {done}/{len(cells)} {cell.name} {how}; {duration(left)} of training left")

        return ended

    def _measure_task(self, cells: Iterable[Cell], split: str, index: int) -> Task:
        options = self.options
        given: dict[str, Any] = {
            "folder": self.folder.path,
            "split": split,
            "cache_dir": options.cache_dir,
            "importance_samples": options.importance_samples,
            "device": options.device,
            "eight_bit": json.dumps(options.image_set.eight_bit),
        }
        if options.weights_dir is not None:
            given["weights_dir"] = options.weights_dir
        names = [cell.name for cell in cells]
        command = [sys.executable, "-m", "study.measure", *_arguments(given), *names]
        return Task(f"{split} {index}", command, self.folder.path / "measures" / f"{split}.{index}.log")

    def _measure_linear(self, known: Sequence[Cell], split: str) -> None:
        """Measure the linear model, of the reference row's latent size where that row was trained."""
        cell = next(iter(sorted(known, key=lambda cell: cell.row != L2.name)), None)
        if cell is not None and not is_linear_measured(self.folder, cell, split):
            self._idle = False
            run_tasks([self._linear_task(cell, split)], 1, self._measure_ended, self.options.root)

    def _linear_task(self, cell: Cell, split: str) -> Task:
        task = self._measure_task([cell], split, 0)
        log = self.folder.path / "measures" / f"{split}.linear.log"
        return Task(f"{split} linear", [*task.command, "--linear"], log)

    def _measure_ended(self, task: Task, reason: str | None) -> None:
        if reason is not None:
            self.say(f"Measuring FAILED: {reason} ({task.log}); what is missing is measured by the next command.")

    def _results(self) -> Results:
        split = "validation" if self.options.validation_only else "test"
        subjects = "Validation subjects, NOT test subjects" if self.options.validation_only else "Test subjects"
        remark = read_json(self.folder.study)["remark"]
        cells = [
            {**cell._asdict(), "split": name, **measures}
            for name in dict.fromkeys(("validation", split))
            for cell, measures in self.folder.measured(name)
            if self._is_current(cell)
        ]
        for name in dict.fromkeys(("validation", split)):
            cells += linear_cells(self.folder, name)
        return Results(
            cells_frame(cells),
            split,
            ", ".join(filter(None, (subjects, remark))),
            self._problems_of_rows(split),
            self.configs.aliases,
            {**self.configs.likelihoods, LINEAR.name: True},
            EIGHT_BIT_DENSITY if self.options.image_set.eight_bit else FLOAT_DENSITY,
        )

    def _problems_of_rows(self, split: str) -> dict[str, str]:
        """What there is to say of each row: cells without a result, a shorter training, cells of another row.

        Also how many are behind the linear VAE: they are not trained.
        """
        reasons: dict[str, list[str]] = defaultdict(list)
        for cell, reason in {**self.folder.failures(), **self._problems}.items():
            reasons[cell.row].append(reason)
        share = self.options.budget.slow_share
        trained = {cell.row for cell in self.folder.finished()}
        behind = self._behind(split)
        shorter = {name for name, row in ROWS.items() if row.slow and name in trained and share != 1}
        own = {
            name: joined(
                f"trained for {share:.0%} of the others' epochs" if name in shorter else "",
                behind.get(name, ""),
                f"{len(found)} cell{'s' if len(found) > 1 else ''} without a result: {found[0]}" if found else "",
            )
            for name, found in ((name, reasons[name]) for name in ROWS)
        }
        shared = {
            name: joined(f"the same trainings as {ROWS[first].label}", own[first])
            for name, first in self.configs.aliases.items()
            if name != first
        }
        return {**own, **self.configs.problems, **shared}

    def _behind(self, split: str) -> dict[str, str]:
        """By row, how many of its cells are behind the linear VAE."""
        found: dict[str, list[bool]] = defaultdict(list)
        for cell in self.folder.finished():
            if self._is_current(cell) and "behind" in (yardstick := self.folder.yardstick(cell, split)):
                found[cell.row].append(yardstick["behind"])
        return {
            row: f"not trained: {sum(cells)} of {len(cells)} cells are behind the linear VAE"
            for row, cells in found.items()
            if any(cells)
        }


def _arguments(given: Mapping[str, Any]) -> list[str]:
    return [text for name, value in given.items() for text in (f"--{name}", str(value))]


def duration(seconds: float) -> str:
    """Seconds as hours and minutes, or as minutes and seconds below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
