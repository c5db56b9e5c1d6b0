"""The terms as losses of other people's loops."""

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.networks.nets import AutoEncoder

from tests.losses.terms import TERMS

PLAIN = [name for name in TERMS if name != "wiener"]
FITTED = ["sigma_vae", "spectral_gaussian"]


def images(channels=1):
    return torch.rand(4, channels, 16, 16, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8


@pytest.mark.parametrize(
    ("name", "channels"), [*((name, 1) for name in PLAIN), *((name, 3) for name in PLAIN if name != "vgg")]
)
def test_a_plain_loop_comes_nearer_to_the_image(name, channels, random_weights_dir):
    term = TERMS[name](channels, random_weights_dir)
    x = images(channels)
    y = torch.zeros_like(x, requires_grad=True)
    optimizer = torch.optim.Adam([y], 0.02)
    before = term(y, x).item()
    for _ in range(40):
        optimizer.zero_grad()
        term(y, x).backward()
        optimizer.step()
    assert term(y, x).item() < before
    if name in FITTED:
        assert bool((term.variance() != 1).all())  # the value before the first batch, with which the term is L2
    if name != "vgg":  # features of random weights need not lead to the image itself
        assert (y - x).square().mean() < 0.5 * x.square().mean()


@pytest.mark.parametrize("name", ["l1", "ssim", *FITTED])
def test_monais_trainer_takes_a_term_as_its_loss_function(name):
    torch.manual_seed(0)
    network = AutoEncoder(2, 1, 1, channels=(4,), strides=(2,))
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=30,
        train_data_loader=[{"image": images(), "label": images()}],
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), 1e-2),
        loss_function=TERMS[name](1, None),
        decollate=False,
    )
    losses = []

    @trainer.on(Events.ITERATION_COMPLETED)
    def remember(engine):
        losses.append(engine.state.output["loss"].item())

    trainer.run()
    assert losses[0] - losses[-1] > 0.1 * abs(losses[0])
    if name in FITTED:
        assert bool((trainer.loss_function.variance() != 1).all())
