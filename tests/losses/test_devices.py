"""Every objective on another device: the meta device, where any computer may test it.

An operation of tensors on two devices fails there, and so does whatever reads a value, for which the host would have to
wait in each iteration.
"""

import pytest
import torch

from monai_blurvae.losses import ELBOLoss, KernelLoss, SpectrumLoss, WienerLoss
from monai_blurvae.networks import VAEOutput
from tests.losses.terms import VARIANTS

WEIGHTED = {
    "flat": lambda: ELBOLoss(WienerLoss(weighting="flat", detach_weight=False)),
    "fixed": lambda: ELBOLoss(WienerLoss(), "fixed"),
    "epsilon": lambda: ELBOLoss(WienerLoss(detach_weight=False), "epsilon"),
    "exact": lambda: ELBOLoss(WienerLoss(detach_weight=False), "exact"),
}


def on_meta(*shape):
    return torch.zeros(shape, device="meta", requires_grad=True)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*VARIANTS, *WEIGHTED])
def test_objective(name, channels, random_weights_dir):
    if name in WEIGHTED:
        objective = WEIGHTED[name]()
    else:
        objective = ELBOLoss(VARIANTS[name](channels, random_weights_dir), auxiliary=[(0.1, SpectrumLoss())])
    objective.to("meta")
    y, z = on_meta(2, channels, 16, 16), on_meta(2, 3)
    loss = objective(VAEOutput(y, z, z, z), on_meta(2, channels, 16, 16).detach(), on_meta(2, 1, 5, 5)).loss
    loss.backward()
    assert {tensor.device.type for tensor in (loss, y.grad, z.grad)} == {"meta"}


@pytest.mark.parametrize("channels", [1, 3])
def test_kernel_loss(channels):
    kernel = on_meta(2, 1, 5, 5)
    KernelLoss().to("meta")(on_meta(2, channels, 16, 16), on_meta(2, channels, 16, 16), kernel).backward()
    assert kernel.grad.device.type == "meta"
