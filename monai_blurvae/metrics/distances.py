"""Distances of two sets of images in a named space of features.

A Fréchet distance means nothing without the features that it was taken on: every value here carries their name, and
"FID" is said of Inception features only.
"""

from __future__ import annotations

import importlib
import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monai_blurvae.errors import WeightsError
from monai_blurvae.metrics.image_quality import to_unit_range
from monai_blurvae.networks.perceptual import PerceptualFeatures, default_weights_dir, require_pictures

ALEXNET_FEATURES = "LPIPS-AlexNet, mean of each of 1152 channels"
"""Name of the features of :func:`alexnet_features`."""

INCEPTION_FEATURES = (64, 192, 768, 2048)
"""Sizes of the Inception features that FID is reported on; 2048 is the usual one."""


class Features(NamedTuple):
    """Features of a set of images.

    Attributes:
        name: of the features.
        values: ``(N, D)``.
    """

    name: str
    values: Tensor


class FeatureDistance(NamedTuple):
    """A distance of two sets of images.

    Attributes:
        value: of the distance.
        features: name of the features that it was taken on.
    """

    value: float
    features: str


def polynomial_mmd(x: Features, y: Features) -> FeatureDistance:
    """Squared maximum mean discrepancy with the kernel (xᵀy / D + 1)³, without bias.

    mean of k(x, x') + mean of k(y, y') − 2 mean of k(x, y) over pairs of different members (Gretton et al. 2012,
    eq. 3). On Inception features it is the kernel inception distance (Bińkowski et al., Demystifying MMD GANs, ICLR
    2018). Since it has no bias, it may be negative when the sets agree, and its expectation does not depend on their
    sizes.

    Args:
        x: features of one set, at least 2.
        y: the same features of the other set, at least 2.

    Raises:
        ValueError: if the features differ, or a set has fewer than 2.
    """
    a, b = _same_features(x, y)

    def kernel(first: Tensor, second: Tensor) -> Tensor:
        return (first @ second.T / first.shape[1] + 1).pow(3)

    def mean_of_others(values: Tensor) -> Tensor:
        return (values.sum() - values.diagonal().sum()) / (len(values) * (len(values) - 1))

    value = mean_of_others(kernel(a, a)) + mean_of_others(kernel(b, b)) - 2 * kernel(a, b).mean()
    return FeatureDistance(value.item(), x.name)


def frechet_distance(x: Features, y: Features) -> FeatureDistance:
    """Squared Fréchet distance of the Gaussians with the moments of two sets (Heusel et al. 2017; FID on Inception).

    ‖m_x − m_y‖² + tr Σ_x + tr Σ_y − 2 tr (Σ_x Σ_y)^½. With centred features A and B, scaled so that AᵀA = Σ_x and
    BᵀB = Σ_y, the last trace is the sum of the singular values of A Bᵀ: no matrix square root, and nothing to fear
    from the singular covariances of fewer images than features. It has a bias that falls with the number of images:
    only distances of equally many images compare.

    Args:
        x: features of one set, at least 2.
        y: the same features of the other set, at least 2.

    Raises:
        ValueError: if the features differ, or a set has fewer than 2.
    """
    a, b = _same_features(x, y)
    roots = [_covariance_root(values) for values in (a, b)]
    mixed = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    traces = roots[0].square().sum() + roots[1].square().sum()
    value = (a.mean(0) - b.mean(0)).square().sum() + traces - 2 * mixed
    return FeatureDistance(max(value.item(), 0.0), x.name)


def alexnet_features(images: Tensor, weights_dir: str | Path | None = None, batch_size: int = 64) -> Features:
    """Activations of the five stages of AlexNet that LPIPS compares, each averaged over the image, side by side.

    Args:
        images: ``(N, 1 or 3, H, W)`` in [−1, 1]; RGB goes in as it is, grey is repeated to three channels.
        weights_dir: folder of the weights, see :class:`~monai_blurvae.networks.perceptual.PerceptualFeatures`.
        batch_size: images at once.

    Returns:
        1152 features.

    Raises:
        ValueError: for images that AlexNet does not take.
        WeightsError: if there are no weights.
    """
    require_pictures(images)
    network = PerceptualFeatures("alex", weights_dir).to(images.device)
    with torch.no_grad():
        values = [
            torch.cat([stage.flatten(2).mean(2) for stage in network(batch)], 1) for batch in images.split(batch_size)
        ]
    return Features(ALEXNET_FEATURES, torch.cat(values))


def inception_weights_file(weights_dir: str | Path | None = None) -> Path:
    """Where torch-fidelity's Inception weights are: the folder, or else ``torch.hub``'s cache; never a download.

    Args:
        weights_dir: the folder; None for :func:`~monai_blurvae.networks.perceptual.default_weights_dir`.

    Raises:
        ImportError: naming the extra to install, without torch-fidelity.
        WeightsError: naming the file, if there is none.
    """
    url: str = _fidelity_inception().URL_INCEPTION_V3
    name = url.rpartition("/")[2]
    folder = default_weights_dir() if weights_dir is None else Path(weights_dir).expanduser()
    for place in (folder, Path(torch.hub.get_dir()) / "checkpoints"):
        if (place / name).is_file():
            return place / name
    raise WeightsError(f"{folder / name} does not exist; FID needs it: put the file of {url} there.")


def inception_features(
    images: Tensor,
    sizes: Sequence[int] = INCEPTION_FEATURES,
    weights_dir: str | Path | None = None,
    batch_size: int = 32,
) -> dict[int, Features]:
    """Inception features of torch-fidelity, whose distances are FID and KID.

    Images are resized as in the original implementation, without antialiasing (torchmetrics' default has it).

    Args:
        images: ``(N, 1 or 3, H, W)`` in [−1, 1]; rounded to 8 bits, grey repeated to three channels.
        sizes: of the features, of :data:`INCEPTION_FEATURES`.
        weights_dir: see :func:`inception_weights_file`.
        batch_size: images at once; each is enlarged to 299×299.

    Returns:
        Features by size.

    Raises:
        ImportError: naming the extra to install, without torch-fidelity.
        ValueError: for other sizes, or images that are not 2-D, grey or colour.
        WeightsError: if the weights are missing or cannot be used.
    """
    if not set(sizes) <= set(INCEPTION_FEATURES):
        raise ValueError(f"Inception features have the sizes {INCEPTION_FEATURES}, but sizes is {tuple(sizes)}.")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"Inception takes images (N, 1 or 3, H, W), but they have shape {tuple(images.shape)}.")
    path = inception_weights_file(weights_dir)
    names = [str(size) for size in sizes]
    try:
        # torch-fidelity unpickles the file, so it has to be one of tensors only.
        torch.load(path, map_location="cpu", weights_only=True)
        network = _fidelity_inception().FeatureExtractorInceptionV3(
            "inception", names, feature_extractor_weights_path=str(path)
        )
    except (OSError, RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(
            f"{path} is no file of torch-fidelity's Inception weights ({reason}); replace it."
        ) from error
    network = network.to(images.device)
    parts: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for batch in images.split(batch_size):
            levels = (to_unit_range(batch) * 255).round().to(torch.uint8)
            parts.append(network(levels.expand(-1, 3, -1, -1)))
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return {
        size: Features(f"torch-fidelity Inception, {size}", column) for size, column in zip(sizes, columns, strict=True)
    }


def _fidelity_inception() -> Any:
    try:
        return importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    except ImportError as error:
        raise ImportError('FID needs torch-fidelity: pip install "monai-blurvae[fid]".') from error


def _same_features(x: Features, y: Features) -> tuple[Tensor, Tensor]:
    if x.name != y.name or x.values.ndim != 2 or y.values.ndim != 2 or x.values.shape[1] != y.values.shape[1]:
        raise ValueError(
            f"a distance needs the same features (N, D) of both sets, but has {x.name!r} of shape "
            f"{tuple(x.values.shape)} and {y.name!r} of shape {tuple(y.values.shape)}."
        )
    if min(len(x.values), len(y.values)) < 2:
        raise ValueError(
            f"a distance of sets needs at least 2 images of each, but has {len(x.values)} and {len(y.values)}."
        )
    return x.values.double(), y.values.double()


def _covariance_root(values: Tensor) -> Tensor:
    """A matrix R with RᵀR the covariance of the rows, with no more rows than there are features."""
    centred = (values - values.mean(0)) / math.sqrt(len(values) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    root: Tensor = torch.linalg.qr(centred, mode="r").R
    return root
