"""Mixtures of Gaussians, with diagonal covariances or in bases of their own: log-density and score, its gradient."""

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
