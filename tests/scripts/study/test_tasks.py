import signal
import sys
import threading
import time

import pytest

from study import tasks
from study.tasks import Task, failure, run_tasks


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(tasks, "POLL_SECONDS", 0.01)


def python(tmp_path, name, code):
    return Task(name, [sys.executable, "-S", "-c", code], tmp_path / f"{name}.log")


def run(work, jobs, folder):
    ends = {}
    run_tasks(work, jobs, lambda task, reason: ends.__setitem__(task.name, reason), folder)
    return ends


def test_a_crash_takes_no_other_along(tmp_path):
    work = [
        python(tmp_path, "good", "print('fine')"),
        python(tmp_path, "bad", "import sys; print('error: no weights in w', file=sys.stderr); sys.exit(1)"),
        python(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
        python(tmp_path, "last", "open('last.txt', 'w').write('x')"),
    ]
    assert run(work, 2, tmp_path) == {
        "good": None,
        "bad": "no weights in w",
        "killed": "ended by SIGKILL, perhaps for want of memory",
        "last": None,
    }
    assert (tmp_path / "last.txt").read_text() == "x"
    assert "fine" in (tmp_path / "good.log").read_text()


def test_not_more_than_the_jobs_run_at_once(tmp_path):
    code = (
        "import os, time; open(f'on{os.getpid()}', 'w').close(); time.sleep(0.05);"
        "n = len([f for f in os.listdir() if f.startswith('on')]); os.remove(f'on{os.getpid()}'); assert n <= 2"
    )
    ends = run([python(tmp_path, str(i), code) for i in range(6)], 2, tmp_path)
    assert set(ends.values()) == {None}
    assert len(ends) == 6


def test_children_use_one_thread(tmp_path):
    assert run([python(tmp_path, "t", "import os; assert os.environ['OMP_NUM_THREADS'] == '1'")], 1, tmp_path) == {
        "t": None
    }


def test_an_interruption_stops_the_children_softly_and_starts_no_more(tmp_path):
    code = (
        "import signal, sys, time\n"
        "def stop(*_):\n    open('saved', 'w').close(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop); open('ready', 'w').close(); time.sleep(60)"
    )

    def interrupt():
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    work = [python(tmp_path, "long", code), python(tmp_path, "next", "open('next', 'w').close()")]
    # A shell without job control starts its background processes, these tests among them, with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(work, 1, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
        thread.join()
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "next").exists()


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("$ train\nerror: first\nerror: second\nepoch 3\n", "second"),
        ("$ train\nTraceback\n  x\nRuntimeError: shapes\n", "RuntimeError: shapes"),
        ("error: of the run before\n$ train again\n", "ended with exit status 1"),
        ("$ train\n" + "x" * 500, "x" * 159 + "…"),
        ("$ train\nbar 1\rbar 2\r", "bar 2"),
    ],
)
def test_reasons_are_few_words_of_the_last_run(tmp_path, log, reason):
    path = tmp_path / "log"
    path.write_text(log)
    assert failure(1, path) == reason
    assert failure(0, path) is None
