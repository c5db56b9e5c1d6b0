"""Micro-batches are the whole batch, where no norm is over it."""

import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch.nn.modules.batchnorm import _BatchNorm

from monai_blurvae.engines import BlurVAEKeys, BlurVAETrainer
from monai_blurvae.losses import Adversary, ELBOLoss, L2Loss, PatchELBO, SigmaVAELoss, WienerLoss
from monai_blurvae.networks import PatchVAE
from tests.engines.test_trainer import batches, make_trainer
from tests.parallel import FrozenNorms

OBJECTIVES = {
    "wiener": lambda: ELBOLoss(WienerLoss()),
    "through the weight": lambda: ELBOLoss(WienerLoss(detach_weight=False), "exact", warmup_epochs=1),
    "running estimates": lambda: ELBOLoss(SigmaVAELoss(WienerLoss())),
}
TERMS = (CommonKeys.LOSS, BlurVAEKeys.KERNEL_LOSS, BlurVAEKeys.DISCRIMINATOR_LOSS)


def in_float64(images, network, noise):
    return network(images.double(), noise.double())


def trained(objective, accumulation, channels, **arguments):
    """Terms of each iteration and all weights after three batches, of six and of five images, in float64."""
    data = batches(channels=channels)
    data[2]["image"] = data[2]["image"][:5]
    trainer = make_trainer(
        objective.double(), data, 2, channels=channels, inferer=in_float64, accumulation=accumulation, **arguments
    )
    trainer.network.double()
    FrozenNorms(trainer.network).attach(trainer)
    terms = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: terms.append([e.state.output[key] for key in TERMS if key in e.state.output]),
    )
    trainer.run()
    return terms, trainer.network.state_dict(), objective.state_dict()


@pytest.mark.parametrize("accumulation", [2, 4, 9])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_micro_batches_are_the_batch_in_float64(name, accumulation):
    """The same noise, the same order of the steps, means over all images; 4 divides neither batch, 9 exceeds both."""
    found, whole = (trained(OBJECTIVES[name](), parts, channels=1) for parts in (accumulation, 1))
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-11)


def test_micro_batches_are_the_batch_to_an_adversary():
    results = []
    for accumulation in (1, 4):
        torch.manual_seed(1)
        adversary = Adversary(0.5, in_channels=3, channels=4, layers=1)
        adversary.discriminator.double().register_forward_pre_hook(lambda module, given: (given[0].double(),))
        terms, *states = trained(ELBOLoss(L2Loss()), accumulation, channels=3, adversary=adversary)
        assert len(terms[-1]) == 2
        results.append([terms, *states, adversary.discriminator.state_dict()])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-11)


def test_micro_batches_are_the_batch_to_a_model_of_patches():
    """Whose noise has several rows for an image."""
    weights = []
    for accumulation in (1, 4):
        torch.manual_seed(0)
        network = PatchVAE(latent_size=3, hidden_size=8).double()
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        arguments = {"inferer": in_float64, "accumulation": accumulation}
        BlurVAETrainer("cpu", 2, batches(), network, optimizer, None, PatchELBO(), **arguments).run()
        weights.append(network.state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-10, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_batch_norms_are_of_each_micro_batch_and_take_it_once(precision):
    """Though each goes through the network twice, in parts of 2, 2, 1 and 1 images."""
    trainer = make_trainer(ELBOLoss(WienerLoss()), batches(1), accumulation=4, precision=precision)
    seen = []
    trainer.network.encoder.register_forward_hook(lambda module, given, output: seen.append((len(given[0]), output[0])))
    estimates = []

    @trainer.on(IterationEvents.FORWARD_COMPLETED)
    def remember():
        estimates.append({name: value.clone() for name, value in trainer.network.named_buffers()})

    trainer.run()
    assert sorted(size for size, _ in seen[:4]) == sorted(size for size, _ in seen[4:]) == [1, 1, 2, 2]
    first = dict(seen[:4])
    assert any(torch.equal(mu, first[2]) for _, mu in seen[4:])
    after = dict(trainer.network.named_buffers())
    assert all(torch.equal(value, after[name]) for name, value in estimates[0].items())
    tracked = [module.num_batches_tracked for module in trainer.network.modules() if isinstance(module, _BatchNorm)]
    assert tracked
    assert set(map(int, tracked)) == {4}
