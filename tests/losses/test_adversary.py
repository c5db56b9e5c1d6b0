import copy

import pytest
import torch

from monai_blurvae.losses import Adversary


def images(seed, batch=3, channels=1):
    return torch.rand(batch, channels, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3])
def test_the_terms_are_least_squares_on_the_last_map(channels):
    torch.manual_seed(0)
    adversary = Adversary(0.5, in_channels=channels, channels=4)
    adversary.discriminator.eval()
    x, y = images(0, channels=channels), images(1, channels=channels)
    real, fake = adversary.discriminator(x)[-1], adversary.discriminator(y)[-1]
    expected = 0.5 * 256 * channels * (fake - 1).square().mean()
    torch.testing.assert_close(adversary.generator_term(y), expected)
    expected = 0.5 * (fake.square().mean() + (real - 1).square().mean())
    torch.testing.assert_close(adversary.discriminator_loss(y, x), expected)


def test_only_the_generator_term_reaches_the_reconstruction():
    adversary = Adversary(1.0, channels=4)
    y = images(1).requires_grad_()
    adversary.discriminator_loss(y, images(0)).backward()
    assert y.grad is None
    adversary.generator_term(y).backward()
    assert y.grad is not None
    assert bool(y.grad.abs().sum() > 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_judged_by_itself(channels):
    torch.manual_seed(0)
    adversary = Adversary(1.0, in_channels=channels, channels=4)
    y = images(1, channels=channels)
    alone = torch.stack([adversary.generator_term(image[None]) for image in y])
    torch.testing.assert_close(adversary.generator_term(y), alone.mean())
    assert alone.std() > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients(channels):
    torch.manual_seed(0)
    adversary = Adversary(1.0, in_channels=channels, channels=2, layers=1)
    adversary.discriminator.double()
    y = images(1, batch=2, channels=channels)[..., :10, :10].double()
    assert torch.autograd.gradcheck(adversary.generator_term, y.requires_grad_())


def test_it_learns_to_tell_the_two_apart():
    torch.manual_seed(0)
    adversary = Adversary(1.0, channels=4, lr=1e-2)
    x, y = images(0, batch=8), images(1, batch=8) * 0.2
    for _ in range(40):
        loss = adversary.discriminator_loss(y, x)
        adversary.optimizer.zero_grad()
        loss.backward()
        adversary.optimizer.step()
    assert loss < 0.05  # 0.25 is what knowing nothing costs, an answer of ½ everywhere


def test_its_state_comes_back_whole():
    first, second = Adversary(1.0, channels=4), Adversary(1.0, channels=4)
    first.discriminator_loss(images(1), images(0)).backward()
    first.optimizer.step()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for a in (first, second):
        a.optimizer.zero_grad()
        a.discriminator_loss(images(1), images(0)).backward()
        a.optimizer.step()
    for a, b in zip(first.discriminator.parameters(), second.discriminator.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_weight_is_positive():
    with pytest.raises(ValueError, match="positive"):
        Adversary(-1.0)
