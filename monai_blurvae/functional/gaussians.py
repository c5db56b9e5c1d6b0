"""A mixture of Gaussians with full covariances, fitted by hard assignment."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from monai_blurvae.functional.mixture import RotatedMixture

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
