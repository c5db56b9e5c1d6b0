"""A process that has imported what commands need, and forks one for each message: ``python forkserver.py SOCKET_FD``.

A message is JSON of ``arguments``, ``cwd``, ``env`` and ``new_session``, with three descriptors: stdout, stderr and the
pipe that takes the command's pid and, once it has ended, its exit code as :class:`subprocess.Popen` gives it.
"""

import atexit
import builtins
import contextlib
import importlib
import importlib.util
import json
import os
import runpy
import signal
import socket
import sys
import threading
from pathlib import Path

IMPORTED = (
    "torch.utils.data",
    "torch.utils.tensorboard",
    "torchvision",
    "matplotlib.pyplot",
    "pandas",
    "ignite.handlers",
    "monai.bundle",
    "monai.engines",
    "monai.handlers",
    "monai_blurvae.bundle",
    "monai_blurvae.report",
)


def main(requests):
    """Serve until the tests end, and return in each command's process: its arguments."""
    path = sys.path[1:]
    for name in IMPORTED:
        with contextlib.suppress(ImportError):  # of an extra that is hidden
            importlib.import_module(name)
    for name in os.environ["PYTHONPATH"].split(os.pathsep):
        path.remove(name)
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    if threads := [name for name in names[1:] if name != "jemalloc_bg_thd"]:  # that of pyarrow is begun again
        sys.exit(f"threads would be lost in a fork: {threads}")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that what watches a command is no zombie
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 2**18, 3)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
    requests.close()
    stdout, stderr, status = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job inherits as ignored
    if pid := os.fork():
        os.close(stdout)
        os.close(stderr)
        os.write(status, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
        os._exit(0)
    message = json.loads(message)
    if message["new_session"]:
        os.setsid()
    os.write(status, f"{os.getpid()}\n".encode())
    os.close(status)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    os.chdir(message["cwd"])
    os.environ.clear()
    os.environ.update(message["env"])
    sys.path[:] = [*message["env"].get("PYTHONPATH", "").split(os.pathsep), *path]
    sys.modules["numpy"].random.seed()  # the other generators have a new state, or always the same
    return message["arguments"]


def as_python(first, *arguments):
    """Run ``-m module``, ``-c code`` or a script with arguments, as ``python`` would."""
    if first == "-m":
        module, *arguments = arguments
        sys.path.insert(0, str(Path.cwd()))
        name = f"{module}.__main__" if importlib.util.find_spec(module).submodule_search_locations else module
        sys.argv = [importlib.util.find_spec(name).origin, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    elif first == "-c":
        code, *arguments = arguments
        sys.path.insert(0, "")
        sys.argv = ["-c", *arguments]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__", "__builtins__": builtins})
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(first)))  # noqa: PTH100,PTH120 - as python does it
        sys.argv = [first, *arguments]
        runpy.run_path(first, run_name="__main__")


def ended(function, *arguments):
    """The exit code of a function that python ends with."""
    try:
        function(*arguments)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 255
        print(error.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    else:
        return 0
    return 1


if __name__ == "__main__":
    code = ended(as_python, *main(socket.socket(fileno=int(sys.argv[1]))))
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # taking all modules apart would take seconds, since each object is copied first
