"""Trainings by torchrun, in which processes die on purpose."""

import os
import signal
import subprocess
import sys

from ignite.engine import Events
from torch.nn.modules.batchnorm import _BatchNorm

from tests.commands import environment


class FrozenNorms:
    """Batch norms by their estimates as they are, with which a batch can be divided."""

    def __init__(self, network):
        self.network = network

    def attach(self, engine):
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine):
        for module in self.network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
                module.train = lambda mode=True, frozen=module: frozen


class KilledOnce:
    """SIGKILL of the process with a rank in an iteration, unless torchrun has already started it again."""

    def __init__(self, rank, iteration):
        self.rank = rank
        self.iteration = iteration

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_STARTED(once=self.iteration), self)

    def __call__(self, engine):
        if engine.state.rank == self.rank and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)


def torchrun(*arguments, cwd=None, restarts=0, **variables):
    """MONAI's command in two processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, f"--max-restarts={restarts}", "-m", "monai.bundle", "run", *map(str, arguments)]
    env = environment(**variables)
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False)
