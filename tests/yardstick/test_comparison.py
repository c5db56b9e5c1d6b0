import dataclasses
import math

import pytest
import torch

from monai_blurvae.functional import gaussian_kernel, kernel_otf, wiener_weight
from monai_blurvae.losses import ELBOLoss, L2Loss, LaplaceLoss, StructuralSimilarityLoss, WienerLoss
from monai_blurvae.metrics import fit_linear_vae, measure_linear_vae
from monai_blurvae.metrics.evaluated import Evaluated
from monai_blurvae.networks import BlurVAE
from monai_blurvae.yardstick import compare, measure_network, standard_of, verdict
from monai_blurvae.yardstick.comparison import FIXED_KERNEL, KEPT_WEIGHT, MEAN_KERNEL
from tests.metrics.test_linear import make_images

SIZE, LATENTS_EACH = 16, 6
KERNEL = gaussian_kernel(5, 1.0)
KERNEL_WEIGHT = wiener_weight(kernel_otf(KERNEL, (SIZE, SIZE)), 0.025)


@pytest.fixture(scope="module")
def training():
    return make_images(80, (1, SIZE, SIZE)).float()


@pytest.fixture(scope="module")
def images():
    return make_images(24, (1, SIZE, SIZE), seed=1).float()


class Linear:
    """A linear VAE in the place of a network, whose kernels are all alike."""

    def __init__(self, vae):
        self.vae, self.latent_size = vae, len(vae.eigenvalues)
        self.encode, self.decode = vae.encode, vae.decode

    def kernel(self, z):
        return KERNEL.expand(len(z), 1, 5, 5)


def fit_on(training):
    return lambda weight: fit_linear_vae(training, LATENTS_EACH, 1.0, weight)


def make_network():
    torch.manual_seed(0)
    return BlurVAE(image_size=SIZE, channels=(4, 8), latent_size=LATENTS_EACH, kernel_size=5).eval()


@pytest.mark.parametrize("weight", [None, KERNEL_WEIGHT])
def test_a_linear_network_has_the_figures_of_the_linear_vae(training, images, weight):
    vae = fit_linear_vae(training, LATENTS_EACH, 0.3, weight)
    found = measure_network(Evaluated.of(Linear(vae), images), 0.3, weight)
    for key, value in measure_linear_vae(vae, images).items():
        # by a few latents of each image, 192 in all
        assert found[key] == pytest.approx(value, rel=0.02 if key == "objective" else 1e-6), key


def test_the_yardstick_is_that_of_measure_linear_vae_by_hand(training, images):
    network = make_network()
    found = compare(Evaluated.of(network, images), ELBOLoss(WienerLoss(), beta=0.7), fit_on(training))
    mean = network.kernel(network.encode(images)[0]).mean(0, keepdim=True).detach()
    weight = wiener_weight(kernel_otf(mean, (SIZE, SIZE)), 0.025)
    assert found["weight"] == MEAN_KERNEL
    by_hand = measure_linear_vae(fit_linear_vae(training, LATENTS_EACH, 0.7, weight), images)
    assert found["linear"] == pytest.approx(by_hand, rel=1e-5)
    plain = fit_linear_vae(training, LATENTS_EACH, found["equal_rate"]["beta"])
    figures = {key: value for key, value in found["equal_rate"].items() if key not in ("beta", "objective")}
    by_hand = measure_linear_vae(plain, images)
    assert figures == pytest.approx({key: by_hand[key] for key in figures}, rel=1e-9)
    assert found["equal_rate"]["kl"] == pytest.approx(found["network"]["kl"], rel=1e-9)


def test_the_networks_objective_is_the_loss_of_its_latents(images):
    network, loss = make_network(), ELBOLoss(L2Loss(), beta=0.7)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        losses = [
            loss(network(images, torch.randn(24, LATENTS_EACH, generator=generator)), images).loss for _ in "x" * 99
        ]
    expected = float(torch.stack(losses).mean())
    assert measure_network(Evaluated.of(network, images), 0.7, None)["objective"] == pytest.approx(expected, rel=5e-3)
    assert measure_network(Evaluated.of(network, images), None, None)["objective"] is None
    network.train()
    Evaluated.of(network, images)
    assert network.training


def test_what_has_a_closed_form(images):
    evaluated = Evaluated.of(make_network(), images)
    assert standard_of(ELBOLoss(L2Loss(), beta=0.5), evaluated)[:2] == (0.5, None)
    fixed = standard_of(ELBOLoss(WienerLoss(), "fixed", fixed_variance=1.0, kernel_size=5), evaluated)
    torch.testing.assert_close(fixed.weight, KERNEL_WEIGHT)
    assert fixed.text == FIXED_KERNEL
    flat = standard_of(ELBOLoss(WienerLoss(weighting="flat")), evaluated).weight
    assert flat.unique().numel() == 1
    exact = ELBOLoss(WienerLoss(detach_weight=False), "exact")
    assert not standard_of(exact, evaluated).weight.requires_grad
    for loss in (
        None,
        ELBOLoss(LaplaceLoss()),
        ELBOLoss(torch.nn.MSELoss()),
        ELBOLoss(L2Loss(), beta=0.0),
        ELBOLoss(L2Loss(), auxiliary=[[1.0, StructuralSimilarityLoss()]]),
    ):
        assert standard_of(loss, evaluated).beta is None


@pytest.mark.parametrize("objective", [ELBOLoss(L2Loss()), ELBOLoss(WienerLoss()), ELBOLoss(LaplaceLoss()), None])
def test_an_untrained_network_is_behind(training, images, objective):
    found = compare(Evaluated.of(make_network(), images), objective, fit_on(training))
    assert found["behind"]
    assert found["verdict"].startswith("not trained: a 6-component linear model has a better ")
    assert ("bound" in found["verdict"]) == (found["linear"] is not None)


@pytest.mark.parametrize("objective", [ELBOLoss(L2Loss(), beta=0.02), ELBOLoss(LaplaceLoss())])
def test_a_model_that_knows_the_test_images_is_ahead(training, images, objective):
    """The optimum of the evaluated images themselves has a better bound on them than any other linear model."""
    knowing = Linear(dataclasses.replace(fit_linear_vae(images, LATENTS_EACH, 0.02), beta=0.02))
    found = compare(Evaluated.of(knowing, images), objective, fit_on(training))
    assert not found["behind"]
    assert found["verdict"].startswith("better than a 6-component linear model in its ")


def figures(**values):
    return {"psnr": 20.0, "kl": 50.0, "objective": 100.0} | values


@pytest.mark.parametrize(
    ("network", "linear", "behind", "words"),
    [
        (figures(), figures(objective=99.0), True, "better bound (99.0 against 100.0 nats at β = 1)"),
        (figures(), figures(objective=101.0, psnr=30.0), False, "its bound (101.0 for it against 100.0 nats at β = 1)"),
        (figures(objective=math.nan), figures(), True, "(100.0 against nan nats at β = 1)"),
        (figures(psnr=18.0), None, True, "at the same rate (19.00 against 18.00 dB at 50.0 nats)"),
        (figures(), None, False, "at the same rate (19.00 for it against 20.00 dB at 50.0 nats)"),
    ],
)
def test_verdict(network, linear, behind, words):
    from monai_blurvae.yardstick import is_behind

    content = {"latent_size": 256, "beta": 1.0, "network": network, "linear": linear}
    content["equal_rate"] = figures(psnr=19.0)
    assert is_behind(content) == behind
    said = verdict(content)
    assert words in said
    assert said.startswith("not trained: a 256-component linear model has" if behind else "better than a 256-component")


def test_where_there_is_another_weight_alone_both_are_measured_by_it(training, images):
    other = fit_linear_vae(training, LATENTS_EACH, 1.0, 2 * KERNEL_WEIGHT)
    plain = fit_linear_vae(training, LATENTS_EACH, 1.0)
    found = compare(
        Evaluated.of(Linear(other), images),
        ELBOLoss(WienerLoss(), beta=1.0),
        lambda weight: plain if weight is None else other,
    )
    assert found["weight"] == KEPT_WEIGHT
    assert found["linear"]["objective"] == pytest.approx(other.terms(images).objective.mean().item())
    assert found["network"]["objective"] == pytest.approx(found["linear"]["objective"], rel=0.02)
