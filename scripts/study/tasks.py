"""Commands side by side, each with a log file, of which one that crashes takes no other along."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

SCRIPTS = Path(__file__).resolve().parents[1]
"""Where the commands find this package, which is not installed."""

POLL_SECONDS = 0.2
STOP_SECONDS = 120.0
"""How long a stopped training may take to write its checkpoint, which it does after the iteration or validation."""

REASON_LENGTH = 160
TAIL_BYTES = 20_000


class Task(NamedTuple):
    """A command.

    Attributes:
        name: of the task.
        command: program and arguments.
        log: file that its output is added to.
    """

    name: str
    command: list[str]
    log: Path


def run_tasks(tasks: Iterable[Task], jobs: int, ended: Callable[[Task, str | None], None], folder: Path) -> None:
    """Run commands, ``jobs`` at a time and with one thread each.

    When this process is interrupted the running ones get SIGTERM, and are waited for.

    Args:
        tasks: in the order in which they start.
        jobs: how many run side by side.
        ended: called as a task ends, with the reason in a few words if it failed, else None.
        folder: the commands' working directory.
    """
    waiting, running = deque(tasks), dict[subprocess.Popen[bytes], Task]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.popleft()
                running[_start(task, folder)] = task
            done = [process for process in running if process.poll() is not None]
            for process in done:
                task = running.pop(process)
                ended(task, failure(process.returncode, task.log))
            if not done:
                time.sleep(POLL_SECONDS)
    finally:
        _stop(list(running))


def failure(code: int, log: Path) -> str | None:
    """Why a command failed, in a few words from its exit status and the end of its log; None if it did not."""
    if code == 0:
        return None
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    lines = [line.strip() for line in _tail(log) if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    said = errors[-1:] or [line for line in lines[-1:] if not line.startswith("$ ")]
    return _shortened(said[0]) if said else f"ended with exit status {code}"


def _start(task: Task, folder: Path) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, (str(SCRIPTS), os.environ.get("PYTHONPATH"))))
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment = {**os.environ, **one_thread, "PYTHONUNBUFFERED": "1", "PYTHONPATH": path}
    with task.log.open("ab") as log:
        log.write(("$ " + " ".join(task.command) + "\n").encode())
        log.flush()
        # A session of its own, so that Ctrl-C reaches this process alone, which then stops its children once.
        return subprocess.Popen(
            task.command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    try:
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in processes:
            process.wait(max(0.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        for process in processes:
            process.kill()


def _tail(log: Path) -> list[str]:
    """The last lines of a log, from the last command in it on."""
    with log.open("rb") as handle:
        handle.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = handle.read().decode("utf-8", "replace").replace("\r", "\n").splitlines()
    commands = [i for i, line in enumerate(lines) if line.startswith("$ ")]
    return lines[commands[-1] :] if commands else lines


def _shortened(text: str) -> str:
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1].rstrip() + "…"
