import pytest

from study.likelihood import is_likelihood
from study.plan import ROWS, merged_config
from tests.volumes import ROOT

SPECTRUM = [[0.1, {"_target_": "monai_blurvae.losses.SpectrumLoss"}]]


def config(term, objective=None, **settings):
    return {"train": {"term": {"_target_": term}, "objective": objective or {}}, **settings}


@pytest.mark.parametrize(
    ("term", "expected"),
    [("L2Loss", True), ("RobustLoss", True), ("StructuralSimilarityLoss", False), ("BernoulliLoss", False)],
)
def test_a_likelihood_is_that_of_the_term(term, expected):
    term = f"monai_blurvae.losses.{term}"
    assert is_likelihood(config(term, {"determinant": "omit"})) is expected
    assert is_likelihood(config(term, {"auxiliary": []}, adversary=None)) is expected


def test_a_module_of_another_package_is_none():
    assert not is_likelihood(config("torch.nn.MSELoss"))
    assert not is_likelihood(config("no.such.Module"))


def test_with_a_further_term_there_is_none():
    term = "monai_blurvae.losses.L2Loss"
    assert not is_likelihood(config(term, {"auxiliary": SPECTRUM}))
    assert not is_likelihood(config(term, adversary={"_target_": "monai_blurvae.losses.Adversary"}))


@pytest.mark.parametrize(
    ("determinant", "expected"), [("omit", False), ("epsilon", False), ("exact", True), ("fixed", True)]
)
def test_the_wiener_term_needs_the_determinant_of_its_own_covariance(determinant, expected):
    assert is_likelihood(config("monai_blurvae.losses.WienerLoss", {"determinant": determinant})) is expected


def test_rows():
    def of(name):
        return is_likelihood(merged_config([ROOT / file for file in ("bundles/hcp/train.json", *ROWS[name].overlays)]))

    assert all(map(of, ("l2", "l1", "sigma_vae", "spectral_gaussian", "robust", "exact", "wiener_variance")))
    assert not any(map(of, ("wiener", "vgg", "watson", "ffl", "epsilon_large", "l2_plus_spectrum_loss", "adversarial")))
