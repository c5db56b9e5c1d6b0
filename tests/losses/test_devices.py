"""Every objective on another device: the meta device, where any computer may test it.

An operation of tensors on two devices fails there, and so does whatever reads a value, for which the host would have to
wait in each iteration.
"""

import pytest
import torch

from monai_blurvae.losses import LOSS_NAMES, ELBOLoss, KernelLoss, make_auxiliary_terms, make_reconstruction_term
from monai_blurvae.networks import VAEOutput

VARIANTS = [
    *((name, {}) for name in LOSS_NAMES),
    ("robust", {"robust_representation": "dct"}),
    ("sigma_vae", {"whitening": True}),
    ("spectral_gaussian", {"whitening": True, "tempering": 0.5}),
    ("wiener", {"weighting": "flat", "detach_weight": False}),
    *(("wiener", {"determinant": determinant}) for determinant in ("epsilon", "exact", "fixed")),
]


def on_meta(*shape):
    return torch.zeros(shape, device="meta", requires_grad=True)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "settings"), VARIANTS, ids=[" ".join([n, *map(str, s.values())]) for n, s in VARIANTS]
)
def test_objective(name, settings, channels, random_weights_dir):
    arguments = {"image_size": (16, 16), "channels": channels, "weights_dir": random_weights_dir}
    term = make_reconstruction_term(name, **arguments, **settings)
    objective = ELBOLoss(term, settings.get("determinant", "omit"), auxiliary=make_auxiliary_terms(0.1)).to("meta")
    y, z = on_meta(2, channels, 16, 16), on_meta(2, 3)
    loss = objective(VAEOutput(y, z, z, z), on_meta(2, channels, 16, 16).detach(), on_meta(2, 1, 5, 5)).loss
    loss.backward()
    assert {tensor.device.type for tensor in (loss, y.grad, z.grad)} == {"meta"}


@pytest.mark.parametrize("channels", [1, 3])
def test_kernel_loss(channels):
    kernel = on_meta(2, 1, 5, 5)
    KernelLoss(window=True).to("meta")(on_meta(2, channels, 16, 16), on_meta(2, channels, 16, 16), kernel).backward()
    assert kernel.grad.device.type == "meta"
