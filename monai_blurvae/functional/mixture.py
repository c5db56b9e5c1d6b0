"""Mixtures of Gaussians, with diagonal covariances or in bases of their own: log-density, score, and a fit."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

TILE = 32
"""Points that are turned back from a basis together."""


class Scored(NamedTuple):
    """A log-density and its gradient.

    Attributes:
        log_prob: log p(y), ``(N,)``, in nats.
        score: ∇ log p(y), ``(N, D)``.
    """

    log_prob: Tensor
    score: Tensor


def diagonal_log_prob(y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Log N(y; m, diag v), summed over the last axis; the arguments broadcast.

    Args:
        y: ``(..., D)``.
        mean: m, ``(..., D)``.
        variance: v > 0, ``(..., D)``.
    """
    dimensions = torch.broadcast_shapes(y.shape, mean.shape)[-1]
    quadratic = ((y - mean).square() / variance + variance.log()).sum(-1)
    return -0.5 * quadratic - 0.5 * dimensions * math.log(2 * math.pi)


def mixture_score(y: Tensor, mean: Tensor, variance: Tensor, log_weights: Tensor) -> Scored:
    """Log Σ_k w_k N(y; m_k, diag v_k) and its gradient, for all points under the same components.

    Two matrix products in place of all N · K · D differences. The square is multiplied out, so that a log-density is
    exact to about the machine's precision times the largest (y − m̄)² / v.

    Args:
        y: points, ``(N, D)``.
        mean: m, ``(K, D)``.
        variance: v > 0, ``(K, D)``.
        log_weights: log w, ``(K,)``.
    """
    center = mean.mean(0)
    y, mean = y - center, mean - center
    precision = 1 / variance
    pull = mean * precision
    constants = log_weights + diagonal_log_prob(torch.zeros_like(mean), mean, variance)
    log_joint = torch.addmm(constants, torch.cat([y, -0.5 * y.square()], 1), torch.cat([pull, precision], 1).T)
    responsibility = torch.softmax(log_joint, 1)
    # log Σ exp by way of the largest term and its share, at least 1 / K: logsumexp is slow where others underflow
    log_prob = log_joint.amax(1) - responsibility.amax(1).log()
    pulled, stiffness = (responsibility @ torch.cat([pull, precision], 1)).chunk(2, 1)
    return Scored(log_prob, pulled - y * stiffness)


def weighted_score(y: Tensor, mean: Tensor, variance: Tensor, weight: Tensor) -> Tensor:
    """Σ_k w_k ∇ log N(y; m_k, diag v_k), where each point has components and weights of its own.

    Args:
        y: points, ``(N, D)``.
        mean: m, ``(N, K, D)``.
        variance: v > 0, ``(N, K, D)``.
        weight: w, ``(N, K)``.

    Returns:
        ``(N, D)``.
    """
    return (weight[..., None] * (mean - y[:, None]) / variance).sum(1)


class RotatedMixture(NamedTuple):
    """Σ_k Σ_j w_kj N(y; c_k + B_k m_kj, B_k diag(v_kj) B_kᵀ), for G groups of points that differ in v alone.

    Attributes:
        basis: B, whose columns are orthonormal, ``(K, D, D)``.
        centre: c, ``(K, D)``.
        mean: m, ``(K, J, D)``.
        variance: v > 0, ``(K, G, J, D)``.
        log_weights: log w, ``(K, J)``.
    """

    basis: Tensor
    centre: Tensor
    mean: Tensor
    variance: Tensor
    log_weights: Tensor

    def coordinates(self, points: Tensor) -> Tensor:
        """Bᵀ (y − c) of points ``(G, N, D)``, ``(K, G, N, D)``."""
        flat = points.flatten(0, 1).expand(len(self.basis), -1, -1)
        return torch.baddbmm(-self.centre[:, None] @ self.basis, flat, self.basis).unflatten(1, points.shape[:2])

    def log_joint(self, coordinates: Tensor) -> Tensor:
        """Log p(y, k, j) ``(K, G, N, J)`` of coordinates ``(K, G, N, D)``.

        The square is multiplied out, which leaves small matrix products in place of all N · K · J · D differences.
        """
        mean, precision = self.mean[:, None], 1 / self.variance
        pull = mean * precision
        constants = -0.5 * (mean * pull + (2 * math.pi * self.variance).log()).sum(-1)
        square = coordinates @ pull.mT - coordinates.square() @ (0.5 * precision).mT
        return square + (self.log_weights[:, None] + constants)[:, :, None]

    def score(self, points: Tensor) -> Scored:
        """Log p and its gradient for points ``(N, D)`` of one group, which autograd can differentiate by the points.

        Of a point only those k are turned back whose posterior shows in the sum, which are few.
        """
        coordinates = self.coordinates(points[None])
        log_joint = self.log_joint(coordinates)[:, 0].movedim(0, 1).flatten(1)
        posterior = torch.softmax(log_joint, 1)
        log_prob = log_joint.amax(1) - posterior.amax(1).log()
        return Scored(log_prob, self._pulled(coordinates[:, 0], posterior.unflatten(1, self.log_weights.shape)))

    def _pulled(self, coordinates: Tensor, posterior: Tensor) -> Tensor:
        """Σ_k B_k Σ_j p(k, j|y) (m_kj − B_kᵀ (y − c_k)) / v_kj, ``(N, D)``, but for terms below rounding.

        The pairs of a k and a point lie in tiles of the same k each, the last ones of which are filled with zeros: one
        product of all tiles takes less time than one for each k.
        """
        of_kinds = posterior.detach().sum(2).T
        kept = of_kinds > torch.finfo(of_kinds.dtype).eps
        kinds, points = kept.nonzero(as_tuple=True)
        pairs = kept.sum(1)
        tiles = (pairs + TILE - 1) // TILE
        kind = torch.repeat_interleave(tiles)
        offset = TILE * (tiles.cumsum(0) - tiles) - (pairs.cumsum(0) - pairs)
        place = offset[kinds] + torch.arange(len(kinds), device=kinds.device)
        point = points.new_zeros(TILE * len(kind)).index_copy(0, place, points)
        share = posterior.new_zeros(len(point), posterior.shape[2]).index_copy(0, place, posterior[points, kinds])
        share, own = share.unflatten(0, (-1, TILE)), coordinates[kind[:, None], point.view(-1, TILE)]
        precision = 1 / self.variance[:, 0]
        pulled = share @ (self.mean * precision)[kind] - own * (share @ precision[kind])
        turned_back = (pulled @ self.basis.mT[kind]).flatten(0, 1)
        return torch.zeros_like(coordinates[0]).index_add(0, point, turned_back)


CHUNK_SIZE = 1024
"""Points that are looked at together."""


class Gaussians(NamedTuple):
    """K Gaussians of D coordinates.

    Attributes:
        weight: positive, of sum 1, ``(K,)``.
        mean: ``(K, D)``.
        covariance: ``(K, D, D)``.
    """

    weight: Tensor
    mean: Tensor
    covariance: Tensor


def fit_gaussians(points: Tensor, count: int, noise_std: float, rounds: int, seed: int = 0) -> Gaussians:
    """Fit a mixture by giving each point to its likeliest Gaussian, again and again.

    Each point is summed for one Gaussian alone, so that a round costs half of one of expectation maximisation. The
    start is that of k-means, for the inverse hyperbolic sine of the coordinates over the noise: beside its few strong
    edges an image has many faint ones, which would be one cluster without it.

    Args:
        points: ``(N, D)``.
        count: K.
        noise_std: of white noise that the covariances are given beside what is found, so that none is singular.
        rounds: how often, at the start and at the fit each.
        seed: of the points that the start begins at.

    Raises:
        ValueError: for fewer points than Gaussians.
    """
    if len(points) < count:
        raise ValueError(f"there are {len(points)} patches for {count} components; give more, or ask for fewer.")
    chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:count].to(points.device)
    features = torch.asinh(points / (5 * noise_std))
    features = features / features.std(0).clamp_min(1e-3)
    centre = features[chosen]
    for _ in range(rounds):
        nearest = torch.cat([(part @ centre.T - centre.square().sum(1) / 2).argmax(1) for part in features.split(8192)])
        centre = _means(features, nearest, centre)
    fitted = _gaussians(points, nearest, count, noise_std)
    for _ in range(rounds):
        fitted = _gaussians(points, _likeliest(points, fitted), count, noise_std)
    return fitted


def _means(points: Tensor, group: Tensor, otherwise: Tensor) -> Tensor:
    """Of each group of points, or what it was where a group is empty."""
    total = torch.zeros_like(otherwise).index_add_(0, group, points)
    size = torch.bincount(group, minlength=len(otherwise))[:, None]
    return torch.where(size > 0, total / size.clamp_min(1), otherwise)


def _gaussians(points: Tensor, group: Tensor, count: int, noise_std: float) -> Gaussians:
    size = torch.bincount(group, minlength=count)
    mean = _means(points, group, points.mean(0).expand(count, -1))
    parts = points[group.argsort()].split(size.tolist())
    scatter = torch.stack([(part - m).T @ (part - m) for part, m in zip(parts, mean, strict=True)])
    noise = noise_std**2 * torch.eye(points.shape[1], dtype=points.dtype, device=points.device)
    weight = (size + 1.0).to(points)
    return Gaussians(weight / weight.sum(), mean, scatter / size.clamp_min(1)[:, None, None] + noise)


def _likeliest(points: Tensor, gaussians: Gaussians) -> Tensor:
    variance, basis = torch.linalg.eigh(gaussians.covariance)
    mean = torch.zeros_like(variance)[:, None]
    mixture = RotatedMixture(basis, gaussians.mean, mean, variance[:, None, None], gaussians.weight.log()[:, None])
    parts = (mixture.log_joint(mixture.coordinates(part[None])) for part in points.split(CHUNK_SIZE))
    return torch.cat([part[:, 0, :, 0].argmax(0) for part in parts])
