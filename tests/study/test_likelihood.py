import pytest

from monai_blurvae.losses import LOSS_NAMES, make_reconstruction_term
from monai_blurvae.losses.registry import TERMS
from monai_blurvae.study.likelihood import is_likelihood
from monai_blurvae.study.plan import ROWS, read_settings
from tests.volumes import ROOT


def test_every_loss_has_the_class_that_its_config_builds():
    assert set(TERMS) == set(LOSS_NAMES)
    without_weights = set(LOSS_NAMES) - {"vgg"}
    assert {name: type(make_reconstruction_term(name)) for name in without_weights} == {
        name: TERMS[name] for name in without_weights
    }


@pytest.mark.parametrize(("loss", "expected"), [("l2", True), ("robust", True), ("ssim", False), ("ce", False)])
def test_a_likelihood_is_that_of_the_term(loss, expected):
    assert is_likelihood({"loss": loss, "determinant": "omit"}) is expected
    assert is_likelihood({"loss": loss, "spectrum_weight": 0.0, "adversarial_weight": 0.0}) is expected


@pytest.mark.parametrize("added", ["spectrum_weight", "adversarial_weight"])
def test_with_a_further_term_there_is_none(added):
    assert not is_likelihood({"loss": "l2", added: 0.01})


@pytest.mark.parametrize(
    ("determinant", "expected"), [("omit", False), ("epsilon", False), ("exact", True), ("fixed", True)]
)
def test_the_wiener_term_needs_the_determinant_of_its_own_covariance(determinant, expected):
    assert is_likelihood({"loss": "wiener", "determinant": determinant}) is expected


def test_rows():
    def of(name):
        return is_likelihood(read_settings([ROOT / file for file in ("bundles/hcp/train.json", *ROWS[name].overlays)]))

    assert all(map(of, ("l2", "l1", "sigma_vae", "spectral_gaussian", "robust", "exact", "wiener_variance")))
    assert not any(map(of, ("wiener", "vgg", "watson", "ffl", "epsilon_large", "l2_plus_spectrum_loss", "adversarial")))
