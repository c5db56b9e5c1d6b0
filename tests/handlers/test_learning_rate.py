import pytest
import torch
from ignite.engine import Engine

from monai_blurvae.handlers import CosineLearningRateHandler


def optimizer_of(*rates):
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates])


def rates_of_a_run(handler, epochs, length, state=None):
    """The learning rates of each iteration, of every group."""
    seen = []
    engine = Engine(lambda _, __: seen.append([group["lr"] for group in handler.optimizer.param_groups]))
    handler.attach(engine)
    if state is not None:
        engine.load_state_dict(state)
    engine.run(range(length), max_epochs=epochs, epoch_length=length)
    return seen


def test_without_a_warmup_it_is_torchs_cosine():
    expected = []
    optimizer = optimizer_of(0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=24, eta_min=0.05)  # two steps an iteration
    for step in range(24):
        optimizer.step()
        if step % 2:
            expected.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    found = rates_of_a_run(CosineLearningRateHandler(optimizer_of(0.5), final=0.1), 3, 4)
    assert [rate for (rate,) in found] == pytest.approx(expected)


def test_the_warmup_is_linear_and_groups_keep_their_scale():
    handler = CosineLearningRateHandler(optimizer_of(1.0, 0.01), warmup=0.5)
    found = rates_of_a_run(handler, 5, 2)
    assert [first for first, _ in found[:5]] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    assert all(second == pytest.approx(0.01 * first) for first, second in found)
    assert found[5][0] > found[6][0] > found[9][0] > 0


def test_a_resumed_run_goes_on_along_the_curve():
    whole = rates_of_a_run(CosineLearningRateHandler(optimizer_of(1.0), warmup=0.1), 4, 5)
    state = {"epoch_length": 5, "max_epochs": 4, "iteration": 10}
    again = rates_of_a_run(CosineLearningRateHandler(optimizer_of(1.0), warmup=0.1), 4, 5, state)
    assert again == whole[10:]


def test_beyond_the_end_it_stays():
    handler = CosineLearningRateHandler(optimizer_of(1.0), final=0.25)
    assert handler.factor(1.0) == handler.factor(1.5) == pytest.approx(0.25)
    assert CosineLearningRateHandler(optimizer_of(1.0), final=1).factor(0.7) == 1


@pytest.mark.parametrize("arguments", [{"warmup": 1}, {"warmup": -0.1}, {"final": 1.1}])
def test_bad_shares(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        CosineLearningRateHandler(optimizer_of(1.0), **arguments)


def test_rounds_share_one_curve_where_their_number_is_known():
    """As MonaiAlgo has them: each raises max_epochs by one, and runs the same engine on."""
    handler, seen = CosineLearningRateHandler(optimizer_of(1.0), warmup=0.25, epochs=3), []
    engine = Engine(lambda _, __: seen.append(handler.optimizer.param_groups[0]["lr"]))
    handler.attach(engine)
    for epoch in range(3):
        engine.run(range(4), max_epochs=epoch + 1)
    at_once = rates_of_a_run(CosineLearningRateHandler(optimizer_of(1.0), warmup=0.25), 3, 4)
    assert seen == pytest.approx([rate for (rate,) in at_once])
