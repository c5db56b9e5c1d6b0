"""Losses of PyTorch, of MONAI and of one's own as the term."""

import monai.losses
import pytest
import torch

from monai_blurvae.losses import ELBOLoss, L2Loss, PlainTerm
from monai_blurvae.networks import VAEOutput


def example(channels=1):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(3, channels, 8, 8, generator=generator) * 2 - 1 for _ in range(2))
    z = torch.randn(3, 5, generator=generator)
    return VAEOutput(y.requires_grad_(), z, z, z), x


def value_and_gradient(term, output, x, factor=1.0):
    reconstruction = factor * ELBOLoss(term)(output, x).reconstruction
    return reconstruction, torch.autograd.grad(reconstruction, output.reconstruction)[0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_mean_squared_error_is_twice_l2(reduction, channels):
    output, x = example(channels)
    found = value_and_gradient(torch.nn.MSELoss(reduction=reduction), output, x)
    torch.testing.assert_close(found, value_and_gradient(L2Loss(), output, x, 2.0))


def test_monais_losses_are_terms():
    output, x = example()
    for size in (2, 3):
        loss = monai.losses.SSIMLoss(spatial_dims=2, data_range=2.0, win_size=2 * size + 1)
        each = torch.stack([loss(y[None], xi[None]) for y, xi in zip(output.reconstruction, x, strict=True)])
        torch.testing.assert_close(ELBOLoss(loss)(output, x).reconstruction, each.mean())


class Charbonnier(torch.nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.shape = shape

    def forward(self, input, target):
        values = ((input - target).square() + self.scale).sqrt()
        return {"none": values, "image": values.flatten(1).sum(1), "batch": values.mean(), "pixel": values[0]}[
            self.shape
        ]


def test_an_own_loss_is_a_term_with_its_parameters():
    output, x = example()
    objective = ELBOLoss(Charbonnier("none"))
    expected = ((output.reconstruction - x).square() + 1).sqrt().flatten(1).sum(1)
    torch.testing.assert_close(objective(output, x).reconstruction, expected.mean())
    torch.testing.assert_close(PlainTerm(Charbonnier("image"), "none")(output.reconstruction, x), expected)
    assert len(list(objective.parameters())) == 1
    assert not objective.uses_kernel


@pytest.mark.parametrize(("shape", "found"), [("batch", r"\(\)"), ("pixel", r"\(1, 8, 8\)")])
def test_a_value_without_the_batch_is_refused(shape, found):
    output, x = example()
    message = rf"Charbonnier returned a value of shape {found} for a batch of 3 images, where .* \(3,\) or \(3, ...\)"
    with pytest.raises(ValueError, match=message):
        ELBOLoss(Charbonnier(shape))(output, x)


@pytest.mark.parametrize("term", [None, "l2", torch.nn.MSELoss, torch.nn.functional.mse_loss])
def test_what_is_no_module_is_refused(term):
    with pytest.raises(ValueError, match=r"a term must be a torch\.nn\.Module"):
        ELBOLoss(term)
    with pytest.raises(ValueError, match=r"a term must be a torch\.nn\.Module"):
        ELBOLoss(L2Loss(), auxiliary=[[1.0, term]])
