"""What the paper's tables have beyond :func:`~monai_blurvae.metrics.measure_model`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from monai_blurvae.functional import kl_standard_normal
from monai_blurvae.losses import L2Loss, WienerLoss
from monai_blurvae.metrics.distances import frechet_distance, inception_features
from monai_blurvae.metrics.image_quality import CappedPSNRMetric, to_unit_range
from monai_blurvae.metrics.suite import Measure
from monai_blurvae.networks import LatentImageModel
from monai_blurvae.runs import TrainedObjective
from monai_blurvae.seeding import torch_rng

EPSILON = 0.5
"""ε of the paper's Table 6."""

BATCH_SIZE = 64
FID_FEATURES = 2048

NOT_IN_TABLE_6 = "Table 6 has L2 and the Wiener loss with a predicted kernel alone"


def psnr_from_z(network: LatentImageModel, images: Tensor) -> Measure:
    """PSNR of reconstructions from one z ~ q(z|x) of each image, in dB, the mean over the images.

    Args:
        network: the model, on the device of the images.
        images: in [−1, 1], ``(N, C, H, W)``.
    """
    metric = CappedPSNRMetric()
    pairs = ((network.decode(z), x) for x, _, _, z in _drawn(network, images))
    return Measure(fmean(v for p, x in pairs for v in metric(to_unit_range(p), to_unit_range(x)).flatten().tolist()))


def table_6_bound(network: LatentImageModel, images: Tensor, objective: TrainedObjective) -> Measure:
    """The figure that the paper's Table 6 calls −log p, in nats, the mean over the images.

    ½ ‖W(x − x̂)‖² + Σ_j log|F_j + ½| + KL for the Wiener loss and ½ ‖x − x̂‖² + KL for L2, x̂ and W from one z ~ q(z|x).
    It leaves ½ D log 2π out, and its determinant is not that of its quadratic form: it is there to compare with the
    paper, and ``nll_kernel`` to compare models.

    Args:
        network: the model, on the device of the images.
        images: in [−1, 1], ``(N, C, H, W)``.
        objective: that the model was trained with.
    """
    wiener = objective.loss == WienerLoss.__name__ and not objective.fixed_kernel
    if not wiener and objective.loss != L2Loss.__name__:
        return Measure(None, NOT_IN_TABLE_6)
    term = WienerLoss(objective.wiener_c, objective.weighting) if wiener else L2Loss()
    values: list[float] = []
    for x, mu, log_var, z in _drawn(network, images):
        kernel = network.kernel(z) if wiener else None
        bound = term.per_image(network.decode(z), x, kernel) + kl_standard_normal(mu, log_var)
        if isinstance(term, WienerLoss) and kernel is not None:
            bound = bound + term.half_log_det(x, kernel, EPSILON)
        values += bound.tolist()
    return Measure(fmean(values))


def reconstruction_fid(reconstructions: Tensor, images: Tensor, weights_dir: Path | None) -> Measure:
    """The squared Fréchet distance of reconstructions, see :func:`~monai_blurvae.metrics.inception_features`.

    Args:
        reconstructions: in [−1, 1], ``(N, C, H, W)``.
        images: likewise.
        weights_dir: folder of Inception's weights.
    """
    sets = (inception_features(x, (FID_FEATURES,), weights_dir)[FID_FEATURES] for x in (reconstructions, images))
    return Measure(frechet_distance(*sets).value)


def _drawn(network: LatentImageModel, images: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Images, mean and log σ² of q(z|x), and one z of it, some at a time; the same for every network of one size."""
    generator = torch_rng(0, "z")
    for x in images.split(BATCH_SIZE):
        mu, log_var = network.encode(x)
        noise = torch.randn(mu.shape, generator=generator).to(mu)
        yield x, mu, log_var, mu + (0.5 * log_var).exp() * noise
