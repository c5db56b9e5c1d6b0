"""All that a comparison of losses reports about one trained network, in one call."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from monai_blurvae.functional import kernel_otf, spectral_sum
from monai_blurvae.metrics.distances import (
    INCEPTION_FEATURES,
    alexnet_features,
    frechet_distance,
    inception_features,
    polynomial_mmd,
)
from monai_blurvae.metrics.evaluated import AT_ONCE, Evaluated
from monai_blurvae.metrics.image_quality import to_unit_range
from monai_blurvae.metrics.latent import ActiveUnits
from monai_blurvae.metrics.likelihood import Likelihood, bits_per_dimension
from monai_blurvae.metrics.lpips import lpips_distance
from monai_blurvae.metrics.measures import (
    ALEXNET,
    DETAIL,
    DRAWN,
    DRAWS,
    FID,
    KERNEL,
    LATENT,
    LIKELIHOOD,
    LIKELIHOODS,
    LPIPS,
    QUALITY,
    SHARPNESS,
    SPECTRUM,
    Description,
    keys,
)
from monai_blurvae.metrics.spectra import log_spectrum_distance, relative_sharpness, ring_resolution
from monai_blurvae.seeding import torch_rng

logger = logging.getLogger(__name__)

NO_KERNEL = "the loss trains no kernel"
"""The reason for a missing value of the kernel."""


class Measure(NamedTuple):
    """One value of a table.

    Attributes:
        value: None if it could not be had.
        reason: why not; empty beside a value.
    """

    value: float | None
    reason: str = ""


Values = Mapping[str, float | Measure]


def measure_model(
    evaluated: Evaluated,
    *,
    no_kernel: str = "",
    weights_dir: Path | None = None,
    c: float = 0.025,
) -> dict[str, Measure]:
    """Measure what a trained network made of test images.

    As many samples are drawn from the prior as there are images. All is deterministic for a seed. What fails leaves a
    reason in place of its own values and no mark on the others. What each measure is stands in
    :data:`~monai_blurvae.metrics.measures.MEASURES`.

    Around each reconstruction and sample an image is drawn from each of the fitted densities. The nll are of densities
    with respect to the units of the network's [−1, 1], of dequantised images if they are 8-bit; only then are the bits
    per dimension those of the grey levels.

    Args:
        evaluated: the images with the network's answers.
        no_kernel: why the network's kernels are worth no measure; empty where they are.
        weights_dir: folder of the weights of LPIPS and Inception, see
            :func:`~monai_blurvae.networks.perceptual.load_lpips_weights` and
            :func:`~monai_blurvae.metrics.distances.inception_weights_file`.
        c: the Wiener constant C > 0 of ``below_sqrt_c``.

    Returns:
        A :class:`Measure` for each key of :data:`~monai_blurvae.metrics.measures.MEASURES`.
    """
    groups: dict[tuple[Description, ...], Callable[[], Values]] = {
        QUALITY: lambda: {key: _mean(values) for key, values in evaluated.quality.items()},
        LPIPS: lambda: _lpips(evaluated, weights_dir),
        LATENT: lambda: _latent(evaluated),
        KERNEL: lambda: _kernel(evaluated, no_kernel, c),
        SPECTRUM: lambda: _spectra(evaluated),
        DETAIL: lambda: _detail(evaluated),
        DRAWS: lambda: _drawn_spectra(evaluated, no_kernel),
        SHARPNESS: lambda: _sharpness(evaluated),
        ALEXNET: lambda: _alexnet(evaluated, weights_dir),
        FID: lambda: _fid(evaluated, weights_dir),
        LIKELIHOOD: lambda: _likelihoods(evaluated, no_kernel),
    }
    measures: dict[str, Measure] = {}
    with torch.no_grad():
        for group, values in groups.items():
            measures |= _attempt(keys(group), values)
    return measures


def _attempt(keys: tuple[str, ...], group: Callable[[], Values]) -> dict[str, Measure]:
    """The values of a group, or the reason why it has none: a crashed measure must not lose the others."""
    try:
        values = group()
    except Exception as error:
        # The first are what is missing or does not fit, in a sentence; WeightsError is a ValueError.
        level = logging.DEBUG if isinstance(error, (ImportError, ValueError)) else logging.WARNING
        logger.log(level, "no %s", ", ".join(keys), exc_info=True)
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        return dict.fromkeys(keys, Measure(None, reason))
    return {key: _measure(values[key]) for key in keys}


def _measure(value: float | Measure) -> Measure:
    if isinstance(value, Measure):
        return value
    return Measure(value) if math.isfinite(value) else Measure(None, f"the value is {value}")


def _lpips(evaluated: Evaluated, weights_dir: Path | None) -> Values:
    pairs = zip(evaluated.reconstructions.split(AT_ONCE), evaluated.images.split(AT_ONCE), strict=True)
    units = ((to_unit_range(y.to(evaluated.device)), to_unit_range(x.to(evaluated.device))) for y, x in pairs)
    return {"lpips": _mean(torch.cat([lpips_distance(y, x, net="alex", weights_dir=weights_dir) for y, x in units]))}


def _latent(evaluated: Evaluated) -> Values:
    active = ActiveUnits()
    active.update(evaluated.mu)
    return {"kl": _mean(evaluated.kl), "active_units": float(active.compute())}


def _kernel(evaluated: Evaluated, no_kernel: str, c: float) -> Values:
    if no_kernel:
        return dict.fromkeys(keys(KERNEL), Measure(None, no_kernel))
    image_size = evaluated.images.shape[2:]
    below = [(kernel_otf(k, image_size).abs() < math.sqrt(c)).double() for k in evaluated.kernels.split(AT_ONCE)]
    return {
        "kernel_width": _mean(evaluated.kernel_widths),
        "below_sqrt_c": _mean(torch.cat([spectral_sum(b, image_size) for b in below])) / math.prod(image_size),
    }


def _spectra(evaluated: Evaluated) -> Values:
    return {
        "spectrum_reconstruction": log_spectrum_distance(evaluated.reconstructions, evaluated.images).item(),
        "spectrum_sample": log_spectrum_distance(evaluated.prior_samples, evaluated.images).item(),
    }


def _detail(evaluated: Evaluated) -> Values:
    return {"resolution": ring_resolution(evaluated.reconstructions, evaluated.images).item()}


def _fitted(evaluated: Evaluated) -> Mapping[str, Likelihood]:
    if evaluated.densities.missing:
        raise ValueError(evaluated.densities.missing)
    return evaluated.densities.likelihoods


def _drawn_spectra(evaluated: Evaluated, no_kernel: str) -> Values:
    around = {
        DRAWN[0]: (evaluated.reconstructions, evaluated.mu),
        DRAWN[1]: (evaluated.prior_samples, evaluated.prior),
    }
    values: dict[str, float | Measure] = dict.fromkeys(keys(DRAWS), Measure(None, no_kernel))
    for kind, (means, latents) in around.items():
        for name, likelihood in _fitted(evaluated).items():
            generator = torch_rng(evaluated.seed, "draws", kind)
            pairs = zip(means.split(AT_ONCE), latents.split(AT_ONCE), strict=True)
            drawn = [
                likelihood.sample(x.to(evaluated.device), z.to(evaluated.device), generator).cpu() for x, z in pairs
            ]
            values[f"spectrum_{kind}_draw_{name}"] = log_spectrum_distance(torch.cat(drawn), evaluated.images).item()
    return values


def _sharpness(evaluated: Evaluated) -> Values:
    return {
        "sharpness_reconstruction": relative_sharpness(evaluated.reconstructions, evaluated.images).item(),
        "sharpness_sample": relative_sharpness(evaluated.prior_samples, evaluated.images).item(),
    }


def _alexnet(evaluated: Evaluated, weights_dir: Path | None) -> Values:
    samples, images = (
        alexnet_features(x.to(evaluated.device), weights_dir) for x in (evaluated.prior_samples, evaluated.images)
    )
    return {
        "mmd_alexnet": polynomial_mmd(samples, images).value,
        "frechet_alexnet": frechet_distance(samples, images).value,
    }


def _fid(evaluated: Evaluated, weights_dir: Path | None) -> Values:
    samples, images = (
        inception_features(x.to(evaluated.device), weights_dir=weights_dir)
        for x in (evaluated.prior_samples, evaluated.images)
    )
    return {f"fid_{size}": frechet_distance(samples[size], images[size]).value for size in INCEPTION_FEATURES}


def _likelihoods(evaluated: Evaluated, no_kernel: str) -> Values:
    _fitted(evaluated)
    bounds, dimensions = evaluated.bounds, evaluated.images[0].numel()
    values: dict[str, float | Measure] = {}
    for name in LIKELIHOODS:
        if name not in bounds:
            values |= dict.fromkeys((f"nll_{name}", f"iw_nll_{name}"), Measure(None, no_kernel))
            continue
        values[f"nll_{name}"] = -_mean(bounds[name].elbo)
        values[f"iw_nll_{name}"] = -_mean(bounds[name].importance)
        values[f"bpd_{name}"] = _mean(bits_per_dimension(bounds[name].elbo, dimensions, evaluated.eight_bit))
    return values


def _mean(values: Tensor) -> float:
    return values.double().mean().item()
