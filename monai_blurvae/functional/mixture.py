"""Gaussians with diagonal covariances and their mixtures: log-density and score, the gradient of it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


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
