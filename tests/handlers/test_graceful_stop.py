"""Of several processes the first writes the checkpoint, and the others outlive the signal until it ends."""

import os
import signal
from types import SimpleNamespace

import pytest
from ignite.engine import Engine, Events

from monai_blurvae.handlers import checkpoint as module


def raise_again(engine, error):
    """As the trainer does, where Ignite would drop an error that a handler has heard of."""
    raise error


@pytest.mark.parametrize("first", [True, False])
def test_the_others_end_with_the_first(monkeypatch, first):
    monkeypatch.setattr(module, "is_main_process", lambda: first)
    saved = []
    checkpoint = SimpleNamespace(save=lambda engine: saved.append(engine.state.iteration))

    def exchange(engine, batch):
        if engine.state.iteration == 3:
            raise RuntimeError("Connection closed by peer")  # the first process has ended

    engine = Engine(exchange)
    module.GracefulStopHandler(checkpoint).attach(engine)
    engine.add_event_handler(Events.EXCEPTION_RAISED, raise_again)
    engine.add_event_handler(Events.ITERATION_STARTED(once=2), lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        engine.run(range(5), max_epochs=1)
    assert stop.value.code == 128 + signal.SIGTERM
    assert (saved, engine.state.iteration) == (([2], 2) if first else ([], 3))
