"""Commands in processes of their own, forked from one that has imported MONAI, which takes seconds."""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache

from tests.volumes import ROOT

EXTRAS = {
    "perceptual": ("torchvision", "torchmetrics", "lpips"),
    "fid": ("torch_fidelity",),
    "study": ("pandas", "matplotlib", "tabulate"),
    "sample": ("nilearn", "sklearn"),
    "tracking": ("mlflow", "pyarrow"),
    "recon": ("deepinv", "h5py", "sigpy"),
    "development": ("IPython",),
}
"""The packages of each extra, those that come along with them included."""

BUNDLE = ("-m", "monai.bundle")
RUN = (*BUNDLE, "run")


def environment(*extras, **more):
    """Of a process that finds this package and, beside what it needs, the packages of some extras only.

    MONAI imports whatever it finds, and is twice as fast to import as a user has it who installed no extras.

    Args:
        extras: keys of :data:`EXTRAS`; ``"all"`` to hide nothing.
        more: further variables.
    """
    hidden = [] if "all" in extras else [name for extra in EXTRAS.keys() - extras for name in EXTRAS[extra]]
    path = os.pathsep.join((str(ROOT / "tests/without_extras"), str(ROOT)))
    given = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "BLURVAE_TESTS_HIDE": " ".join(sorted(hidden))}
    return {**os.environ, **given, **{name: str(value) for name, value in more.items()}}


def options(**settings):
    """The settings as they are typed."""
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]


@cache
def _server(hidden):
    """The socket of the process that commands are forked from that do not find the hidden packages."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line = [sys.executable, str(ROOT / "tests/forkserver.py"), str(theirs.fileno())]
    env = environment(BLURVAE_TESTS_HIDE=hidden)
    server = subprocess.Popen(line, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    atexit.register(lambda: (ours.close(), server.wait()))
    return ours


class Forked:
    """A started command, to be waited for and sent signals as :class:`subprocess.Popen`."""

    def __init__(self, arguments, cwd, env, stdout, stderr, new_session=False):
        read, write = os.pipe()
        message = {"arguments": arguments, "cwd": str(cwd), "env": env, "new_session": new_session}
        descriptors = [stdout.fileno(), stderr.fileno(), write]
        socket.send_fds(_server(env["BLURVAE_TESTS_HIDE"]), [json.dumps(message).encode()], descriptors)
        os.close(write)
        self._status = os.fdopen(read)
        self.pid = int(self._status.readline())
        self.returncode = None

    def poll(self):
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def wait(self, timeout=600):
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            select.select([self._status], [], [], max(0, deadline - time.monotonic()))
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self.returncode


def command(*arguments, cwd=ROOT, extras=(), path=(), timeout=600, imports=False, **variables):
    """What ``python`` with these arguments does, as :func:`subprocess.run` gives it.

    Args:
        arguments: ``"-m"`` and a module, ``"-c"`` and code, or a script, and what follows.
        cwd: where it begins.
        extras: as :func:`environment` takes them.
        path: folders to find more modules in.
        timeout: in seconds.
        imports: a new process, as a user's, that imports everything by itself.
        variables: of its environment.
    """
    line, env = [str(argument) for argument in arguments], environment(*extras, **variables)
    env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], *path])
    if imports:
        line = [sys.executable, *line]
        return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        code = Forked(line, cwd, env, stdout, stderr).wait(timeout)
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(line, code, stdout.read(), stderr.read())
