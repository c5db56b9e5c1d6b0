"""Where a score stands, against scipy, scikit-learn and counts; the linear model's density against a dense one."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from monai_blurvae.metrics import fit_linear_vae
from monai_blurvae.metrics.likelihood import VarianceLikelihood, evidence_bounds
from monai_blurvae.metrics.scoring import PatchScorer, auroc, standing
from tests.inferers.networks import Constant

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("value", [-3.0, 0.0, 0.4, 9.0])
def test_a_standing_is_that_of_scipy(value):
    reference = [*RNG.normal(size=40), 0.0, 0.0]
    found = standing(value, reference)
    np.testing.assert_allclose(found.z, stats.zmap(value, reference, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(found.percentile, stats.percentileofscore(reference, value, kind="mean"), rtol=1e-12)
    np.testing.assert_allclose(found.typicality, abs(value - np.mean(reference)), rtol=1e-12)


def test_a_reference_without_spread_has_no_z_and_one_value_is_none():
    found = standing(2.0, [1.0, 1.0])
    assert math.isnan(found.z)
    assert (found.percentile, found.typicality) == (100, 1)
    with pytest.raises(ValueError, match="at least two values, but has 1"):
        standing(2.0, [1.0])


@pytest.mark.parametrize("decimals", [0, 1, 12])
def test_the_auroc_is_that_of_scikit_learn_and_of_counted_pairs(decimals):
    usual, unusual = RNG.normal(size=31).round(decimals), RNG.normal(0.5, size=17).round(decimals)
    found = auroc(usual, unusual)
    labels = np.repeat([0, 1], [len(usual), len(unusual)])
    np.testing.assert_allclose(found, roc_auc_score(labels, np.concatenate([usual, unusual])), rtol=1e-12)
    pairs = np.sign(unusual[:, None] - usual)
    np.testing.assert_allclose(found, 0.5 + 0.5 * pairs.mean(), rtol=1e-12)
    with pytest.raises(ValueError, match="0 usual and 17 unusual"):
        auroc([], unusual)


def test_the_linear_density_is_the_dense_one_at_the_most_likely_variance():
    images = torch.from_numpy(RNG.normal(size=(60, 1, 3, 4)) * np.linspace(0.2, 2, 12).reshape(3, 4))
    vae = fit_linear_vae(images, 3, 1.0).at_most_likely_variance()
    flat = images.flatten(1).numpy()
    values = np.linalg.eigvalsh(np.cov(flat.T, bias=True))
    np.testing.assert_allclose(vae.beta, values[:-3].mean(), rtol=1e-9)
    loading = (vae.components * (vae.eigenvalues - vae.beta).sqrt()[:, None]).T.numpy()
    dense = stats.multivariate_normal(flat.mean(0), loading @ loading.T + vae.beta * np.eye(12))
    np.testing.assert_allclose(vae.log_prob(images).numpy(), dense.logpdf(flat), rtol=1e-9)
    weighted = fit_linear_vae(images, 3, 1.0, torch.ones(1, 1, 3, 3))
    with pytest.raises(ValueError, match="a linear model with a weight has no density"):
        weighted.log_prob(images)


def test_the_scores_of_patches():
    """A network of one grey value: its error is known, and the map's mean is the bound."""
    patches = torch.from_numpy(RNG.uniform(-1, 1, (5, 1, 4, 4)))
    network, likelihood = Constant(4), VarianceLikelihood(0.2)
    scored = PatchScorer(network, likelihood, fit_linear_vae(patches, 2, 1.0), samples=3)(patches)
    bounds = evidence_bounds(network, patches, {"it": likelihood}, samples=3)["it"]
    torch.testing.assert_close(scored.elbo, bounds.elbo / 16)
    torch.testing.assert_close(scored.importance, bounds.importance / 16)
    torch.testing.assert_close(scored.l2, (patches - 0.25).square().flatten(1).mean(1))
    torch.testing.assert_close(scored.neg_log_prob.flatten(1).mean(1), -scored.elbo)
    assert (scored.importance >= scored.elbo).all()
    with pytest.raises(ValueError, match="importance_samples is 0"):
        PatchScorer(network, likelihood, fit_linear_vae(patches, 2, 1.0), samples=0)
