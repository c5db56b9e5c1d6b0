"""Averages, annealing and early stopping beside closed forms."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from monai_blurvae.handlers import EarlyStoppingHandler, KLAnnealingHandler, WeightAveragingHandler
from monai_blurvae.losses import ELBOLoss, L2Loss


def engine_of(iteration):
    engine = Engine(lambda engine, batch: iteration(engine))
    engine.register_events(*IterationEvents)
    return engine


def test_the_average_is_the_sum_of_the_weights_with_falling_shares():
    """After weights w₁ … wₙ: dⁿ w₀ + (1 − d) Σ dⁿ⁻ⁱ wᵢ, updated before the iteration is completed."""
    network = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    weights = np.random.default_rng(0).normal(size=5)
    network.weight.data.fill_(weights[0])
    handler = WeightAveragingHandler(network, decay=0.7)

    def step(engine):
        network.weight.data.fill_(weights[engine.state.iteration])
        engine.fire_event(IterationEvents.MODEL_COMPLETED)

    engine = engine_of(step)
    handler.attach(engine)
    seen = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(handler.ema_model.weight.item()))
    engine.run([0] * 4, max_epochs=1)
    for n, found in enumerate(seen, 1):
        shares = [0.7**n, *(0.3 * 0.7 ** (n - i) for i in range(1, n + 1))]
        np.testing.assert_allclose(found, np.dot(shares, weights[: n + 1]), rtol=1e-12)
    with pytest.raises(ValueError, match="decay must be above 0 and below 1, but is 1"):
        WeightAveragingHandler(network, decay=1)


def test_beta_rises_along_a_line_and_stays():
    objective = ELBOLoss(L2Loss(), beta=0.5)
    seen = []
    engine = engine_of(lambda engine: seen.append(objective.beta))
    KLAnnealingHandler(objective, epochs=2).attach(engine)
    engine.run([0] * 3, max_epochs=3)
    np.testing.assert_allclose(seen, 0.5 * np.minimum(np.arange(1, 10) / 6, 1))
    assert objective.beta == 0.5
    with pytest.raises(ValueError, match="epochs must be at least 1, but is 0"):
        KLAnnealingHandler(objective, epochs=0)


def test_a_training_stops_as_long_after_its_best_epoch_as_it_may():
    validator = SimpleNamespace(state=SimpleNamespace(best_metric_epoch=-1))
    engine = engine_of(lambda engine: None)

    @engine.on(Events.EPOCH_COMPLETED)
    def validate(engine):
        if engine.state.epoch in (1, 2, 4):
            validator.state.best_metric_epoch = engine.state.epoch

    EarlyStoppingHandler(validator, patience=3).attach(engine)
    engine.run([0], max_epochs=20)
    assert engine.state.epoch == 7
    with pytest.raises(ValueError, match="patience must be at least 1, but is 0"):
        EarlyStoppingHandler(validator, patience=0)
