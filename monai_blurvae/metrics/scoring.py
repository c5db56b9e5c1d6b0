"""How unusual an image is: bounds of its log-density, and where it stands among those of other images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from monai_blurvae.metrics.likelihood import LatentModel, Likelihood, evaluation_mode, pixel_bounds
from monai_blurvae.metrics.linear import LinearVAE

SCORES = ("elbo", "importance", "l2", "linear")
"""The scores of an image, in the order of :class:`PatchScores`."""

DENSITIES = ("elbo", "importance", "linear")
"""Those that are log-densities, for which there is a typical value; a small ``l2`` is as good as there is."""


class PatchScores(NamedTuple):
    """Scores of patches, ``(B,)`` each, float64.

    Attributes:
        elbo: evidence lower bound of log p(x), in nats for each pixel.
        importance: importance-weighted bound (Burda et al., Importance Weighted Autoencoders, ICLR 2016), likewise.
        l2: mean squared error of the reconstruction from the posterior mean, intensities on [−1, 1].
        linear: exact log-density of probabilistic principal component analysis, in nats for each pixel.
        neg_log_prob: −ELBO of each pixel in nats, ``(B, H, W)``, of mean −``elbo``.
        residual: patch − reconstruction from the posterior mean, likewise, of mean square ``l2``.
    """

    elbo: Tensor
    importance: Tensor
    l2: Tensor
    linear: Tensor
    neg_log_prob: Tensor
    residual: Tensor


class PatchScorer:
    """Scores patches under a trained model.

    Args:
        network: the model, of one channel.
        likelihood: fitted around its decoder, see :func:`~monai_blurvae.metrics.fit_likelihoods`.
        linear: a linear model of the same training, of W = 1, for comparison; its noise variance becomes the most
            likely one.
        samples: K ≥ 1, latents of each patch for the bounds.
        seed: of these; the same patch at the same place of its batch has the same ones.

    Raises:
        ValueError: if ``samples`` is no whole number of at least 1.
    """

    def __init__(
        self, network: LatentModel, likelihood: Likelihood, linear: LinearVAE, samples: int = 16, seed: int = 0
    ) -> None:
        if not isinstance(samples, int) or samples < 1:
            raise ValueError(f"importance_samples is {samples!r}, but has to be a whole number of at least 1.")
        self.network = network
        self.likelihood = likelihood
        self.linear = linear.at_most_likely_variance()
        self.samples = samples
        self.seed = seed

    @torch.no_grad()
    def __call__(self, patches: Tensor) -> PatchScores:
        """Score patches ``(B, 1, H, W)`` in [−1, 1], on the device of the network."""
        pixels = patches[0].numel()
        bounds, log_prob = pixel_bounds(self.network, patches, self.likelihood, samples=self.samples, seed=self.seed)
        with evaluation_mode(self.network):
            reconstruction = self.network.decode(self.network.encode(patches)[0])
        residual = (patches.double() - reconstruction.double())[:, 0]
        linear = self.linear.log_prob(patches.to(self.linear.mean)) / pixels
        return PatchScores(
            elbo=bounds.elbo / pixels,
            importance=bounds.importance / pixels,
            l2=residual.square().flatten(1).mean(1),
            linear=linear.to(patches.device),
            neg_log_prob=-log_prob[:, 0],
            residual=residual,
        )


class Standing(NamedTuple):
    """Where a value stands among reference values.

    Attributes:
        z: (value − mean) / standard deviation of the reference; NaN where that is 0.
        percentile: share of the reference below it, in per cent; equal values count half.
        typicality: |value − mean of the reference|, in the value's units. A log-density that is far above its typical
            value is as unusual as one far below: a blank image may have a high density and is not typical (Nalisnick et
            al., Detecting Out-of-Distribution Inputs to Deep Generative Models Using Typicality, 2019).
    """

    z: float
    percentile: float
    typicality: float


def standing(value: float, reference: Sequence[float]) -> Standing:
    """Where a value stands among reference values.

    Args:
        value: finite.
        reference: at least two finite values; the standard deviation is that with n − 1.

    Raises:
        ValueError: if there are fewer than two.
    """
    values = np.asarray(reference, np.float64)
    if len(values) < 2:
        raise ValueError(f"a reference needs at least two values, but has {len(values)}.")
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    below = float((values < value).sum() + 0.5 * (values == value).sum())
    distance = value - mean
    return Standing(distance / spread if spread > 0 else float("nan"), 100 * below / len(values), abs(distance))


def auroc(usual: npt.ArrayLike, unusual: npt.ArrayLike) -> float:
    """Area under the receiver operating characteristic: how often an unusual one scores higher, a tie being a half.

    Args:
        usual: scores of what is not to be found.
        unusual: of what is.

    Returns:
        0 to 1.

    Raises:
        ValueError: if either is empty.
    """
    low, high = np.sort(np.asarray(usual, np.float64)), np.asarray(unusual, np.float64)
    if not len(low) or not len(high):
        raise ValueError(f"an AUROC needs scores of both kinds, but has {len(low)} usual and {len(high)} unusual ones.")
    below = np.searchsorted(low, high, side="left") + np.searchsorted(low, high, side="right")
    return float(below.sum() / (2 * len(low) * len(high)))
