import pytest
import torch

from monai_blurvae.functional import (
    epsilon_half_log_det,
    gaussian_kernel,
    half_log_det,
    kernel_otf,
    kl_standard_normal,
    wiener_weight,
)
from monai_blurvae.losses import ELBOLoss, L2Loss, SigmaVAELoss, WienerLoss
from monai_blurvae.networks import VAEOutput
from tests.dense import random_kernel


def example(channels=1):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(3, channels, 8, 8, generator=generator) * 2 - 1 for _ in range(2))
    mu, log_var = (torch.randn(3, 5, generator=generator) for _ in range(2))
    kernel = torch.stack([random_kernel((3, 3), i) for i in range(3)])[:, None].float()
    return VAEOutput(y, mu, log_var, mu), x, kernel


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("determinant", ["omit", "epsilon", "exact"])
def test_the_objective_is_the_sum_of_its_parts(determinant, channels):
    output, x, kernel = example(channels)
    term = WienerLoss(c=0.1, detach_weight=determinant == "omit")
    terms = ELBOLoss(term, determinant, epsilon=0.3, beta=2.5)(output, x, kernel)
    kl = kl_standard_normal(output.mu, output.log_var).mean()
    otf = kernel_otf(kernel, (8, 8))
    log_dets = {
        "omit": torch.zeros(3),
        "epsilon": epsilon_half_log_det(otf, (8, 8), 0.3, channels),
        "exact": half_log_det(wiener_weight(otf, 0.1), (8, 8), channels),
    }
    log_det = log_dets[determinant].mean()
    torch.testing.assert_close(terms.kl, kl)
    torch.testing.assert_close(terms.half_log_det, log_det)
    torch.testing.assert_close(terms.reconstruction, WienerLoss(c=0.1)(output.reconstruction, x, kernel))
    torch.testing.assert_close(terms.loss, terms.reconstruction + log_det + 2.5 * kl)


@pytest.mark.parametrize("channels", [1, 3])
def test_exact_objective_with_unit_beta_is_the_negative_elbo_but_for_its_constant(channels):
    output, x, kernel = example(channels)
    loss = ELBOLoss(WienerLoss(detach_weight=False), "exact")(output, x, kernel).loss
    log_prob = WienerLoss().log_prob(output.reconstruction, x, kernel).mean()
    kl = kl_standard_normal(output.mu, output.log_var).mean()
    constant = 0.5 * 64 * channels * torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(loss, -(log_prob - kl) - constant, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_warm_up_is_l2_to_the_digit(channels):
    output, x, kernel = example(channels)
    objective = ELBOLoss(WienerLoss(), warmup_epochs=2)
    plain = ELBOLoss(L2Loss())(output, x)
    for epoch in (1, 2):
        assert torch.equal(objective(output, x, kernel, epoch=epoch).loss, plain.loss)
    assert not torch.equal(objective(output, x, kernel, epoch=3).loss, plain.loss)


@pytest.mark.parametrize("channels", [1, 3])
def test_fixed_ignores_the_predicted_kernel(channels):
    output, x, kernel = example(channels)
    objective = ELBOLoss(WienerLoss(), "fixed", fixed_variance=2.0, kernel_size=5)
    gaussian = gaussian_kernel(5, 2.0).expand(3, 1, 5, 5)
    terms = objective(output, x, kernel)
    assert not objective.uses_kernel
    torch.testing.assert_close(terms.reconstruction, WienerLoss()(output.reconstruction, x, gaussian))
    weight = wiener_weight(kernel_otf(gaussian, (8, 8)), 0.025)
    torch.testing.assert_close(terms.half_log_det, half_log_det(weight, (8, 8), channels).mean())
    assert torch.equal(terms.loss, objective(output, x, None).loss)


def test_which_objectives_train_or_differentiate_the_kernel():
    assert not ELBOLoss(L2Loss()).uses_kernel
    assert ELBOLoss(WienerLoss()).uses_kernel
    assert not ELBOLoss(WienerLoss()).weight_needs_gradient
    assert ELBOLoss(WienerLoss(detach_weight=False)).weight_needs_gradient
    assert ELBOLoss(WienerLoss(detach_weight=False), "exact").weight_needs_gradient
    assert not ELBOLoss(SigmaVAELoss()).weight_needs_gradient
    assert not ELBOLoss(SigmaVAELoss(WienerLoss())).weight_needs_gradient
    assert ELBOLoss(SigmaVAELoss(WienerLoss(detach_weight=False))).weight_needs_gradient


@pytest.mark.parametrize("determinant", ["exact", "epsilon", "fixed"])
@pytest.mark.parametrize("term", [L2Loss(), SigmaVAELoss(), SigmaVAELoss(WienerLoss())])
def test_a_determinant_that_is_not_the_terms_is_refused(term, determinant):
    message = f"determinant is '{determinant}', but {type(term).__name__} has none to choose; set it to 'omit'"
    with pytest.raises(ValueError, match=message):
        ELBOLoss(term, determinant)


@pytest.mark.parametrize("determinant", ["exact", "epsilon"])
def test_a_determinant_with_a_detached_weight_is_refused(determinant):
    message = f"determinant is '{determinant}', but detach_weight of the term is true.*set detach_weight to false"
    with pytest.raises(ValueError, match=message):
        ELBOLoss(WienerLoss(), determinant)


def test_auxiliary_terms_come_as_json_gives_them():
    output, x, _ = example()
    plain = ELBOLoss(L2Loss())(output, x)
    terms = ELBOLoss(L2Loss(), auxiliary=[[0.5, torch.nn.L1Loss()], [2, L2Loss()]])(output, x)
    extra = 0.5 * (output.reconstruction - x).abs().flatten(1).sum(1).mean() + 2 * plain.reconstruction
    torch.testing.assert_close(terms.auxiliary, extra)
    torch.testing.assert_close(terms.loss, plain.loss + extra)
    with pytest.raises(ValueError, match=r"auxiliary must be pairs \[weight, term\], but is \[1"):
        ELBOLoss(L2Loss(), auxiliary=[1.0, L2Loss()])
    with pytest.raises(ValueError, match="an auxiliary term must not use the kernel"):
        ELBOLoss(L2Loss(), auxiliary=[[1.0, WienerLoss()]])


def test_a_batch_is_taken_into_the_estimates_once():
    output, x, _ = example()
    objective = ELBOLoss(SigmaVAELoss(decay=0.75))
    objective(output, x)
    assert objective.term.total_weight == 0.25


def test_bad_arguments():
    with pytest.raises(ValueError, match="determinant must be one of"):
        ELBOLoss(L2Loss(), "large")
    with pytest.raises(ValueError, match="beta"):
        ELBOLoss(L2Loss(), beta=-1)
    output, x, _ = example()
    with pytest.raises(ValueError, match="kernel"):
        ELBOLoss(WienerLoss())(output, x)
