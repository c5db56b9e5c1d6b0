"""All that a comparison of losses reports about one trained network, in one call."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from monai_blurvae.functional import kernel_otf, kernel_width, kl_standard_normal, spectral_sum
from monai_blurvae.metrics.distances import (
    INCEPTION_FEATURES,
    alexnet_features,
    frechet_distance,
    inception_features,
    polynomial_mmd,
)
from monai_blurvae.metrics.image_quality import CappedPSNRMetric, make_ssim_metric, to_unit_range
from monai_blurvae.metrics.latent import ActiveUnits
from monai_blurvae.metrics.likelihood import (
    LatentModel,
    Likelihood,
    bits_per_dimension,
    dequantize,
    evaluation_mode,
    evidence_bounds,
    fit_likelihoods,
)
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
from monai_blurvae.seeding import numpy_rng, torch_rng

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


class _Evaluated(NamedTuple):
    """A network's answers to the test images, all on one device."""

    images: Tensor
    mu: Tensor
    log_var: Tensor
    prior: Tensor
    reconstructions: Tensor
    samples: Tensor


Values = Mapping[str, float | Measure]


def measure_model(
    network: LatentModel,
    images: Tensor,
    reference: Tensor,
    *,
    uses_kernel: bool,
    weights_dir: Path | None = None,
    importance_samples: int = 16,
    chunk_size: int = 64,
    seed: int = 0,
    eight_bit: bool = False,
    c: float = 0.025,
    weighting: str = "wiener",
    device: str | torch.device = "cpu",
) -> dict[str, Measure]:
    """Measure a trained network on test images.

    Reconstructions are of posterior means. As many samples are drawn from the prior as there are images. All is
    deterministic for a seed. What fails leaves a reason in place of its own values and no mark on the others. What each
    measure is stands in :data:`~monai_blurvae.metrics.measures.MEASURES`.

    The three likelihoods are those of :func:`~monai_blurvae.metrics.likelihood.fit_likelihoods`, fitted on
    ``reference``. Around each reconstruction and sample an image is drawn from each of them. The nll are of densities
    with respect to the units of the network's [−1, 1], of dequantised images if they are 8-bit; only then are the bits
    per dimension those of the grey levels.

    Args:
        network: a :class:`~monai_blurvae.networks.BlurVAE` or any :class:`LatentModel`; of a module a copy is used, in
            evaluation mode, so that it stays as and where it is.
        images: test images in [−1, 1], ``(N, C, H, W)``.
        reference: validation images in [−1, 1], ``(M, C, H, W)``, on which the likelihoods are fitted.
        uses_kernel: whether the network's kernel generator was trained; otherwise its measures are missing.
        weights_dir: folder of the weights of LPIPS and Inception, see
            :func:`~monai_blurvae.networks.perceptual.load_lpips_weights` and
            :func:`~monai_blurvae.metrics.distances.inception_weights_file`.
        importance_samples: K, latents of each image for the bounds.
        chunk_size: latents that are decoded, and pairs of images that are compared, at once.
        seed: of samples, latents and dequantisation.
        eight_bit: whether the images are 8-bit, v / 127.5 − 1, so that they are dequantised, see
            :func:`~monai_blurvae.metrics.likelihood.dequantize`.
        c: the Wiener constant C > 0 of the kernel's likelihood and of ``below_sqrt_c``.
        weighting: of the kernel's likelihood, see :func:`~monai_blurvae.functional.wiener_weight`.
        device: to compute on.

    Returns:
        A :class:`Measure` for each key of :data:`~monai_blurvae.metrics.measures.MEASURES`.

    Raises:
        ValueError: if there are no images, or the network refuses them.
    """
    if not len(images) or images.shape[1:] != reference.shape[1:]:
        raise ValueError(
            f"images and reference need one shape (N, C, H, W) and N > 0, but have {tuple(images.shape)} and "
            f"{tuple(reference.shape)}."
        )
    images, reference = images.to(device), reference.to(device)
    if isinstance(network, nn.Module):
        network = _fast_copy(network, device, images.ndim)
    with torch.no_grad(), evaluation_mode(network):
        evaluated = _evaluate(network, images, chunk_size, seed)

        @cache  # two groups of measures need it; whatever goes wrong in it is the reason of both
        def fitted() -> dict[str, Likelihood]:
            x = dequantize(reference, seed) if eight_bit else reference
            return fit_likelihoods(
                network, x, uses_kernel=uses_kernel, c=c, weighting=weighting, chunk_size=chunk_size, seed=seed
            )

        def likelihoods() -> Values:
            x = dequantize(images, seed) if eight_bit else images
            return _likelihoods(network, x, fitted(), importance_samples, chunk_size, seed, eight_bit)

        groups: dict[tuple[Description, ...], Callable[[], Values]] = {
            QUALITY: lambda: _quality(evaluated, chunk_size),
            LPIPS: lambda: _lpips(evaluated, weights_dir, chunk_size),
            LATENT: lambda: _latent(evaluated),
            KERNEL: lambda: _kernel(network, evaluated, uses_kernel, c),
            SPECTRUM: lambda: _spectra(evaluated),
            DETAIL: lambda: _detail(evaluated),
            DRAWS: lambda: _drawn_spectra(evaluated, fitted(), chunk_size, seed),
            SHARPNESS: lambda: _sharpness(evaluated),
            ALEXNET: lambda: _alexnet(evaluated, weights_dir),
            FID: lambda: _fid(evaluated, weights_dir),
            LIKELIHOOD: likelihoods,
        }
        measures: dict[str, Measure] = {}
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


def _fast_copy(network: Any, device: str | torch.device, dimensions: int) -> Any:
    """A copy whose channels stand together in memory, with which a CPU decodes in about two thirds of the time."""
    network = copy.deepcopy(network).to(device)
    return network.to(memory_format=torch.channels_last) if dimensions == 4 else network


def _evaluate(network: LatentModel, images: Tensor, chunk_size: int, seed: int) -> _Evaluated:
    posteriors = [network.encode(x) for x in images.split(chunk_size)]
    mu, log_var = (torch.cat([posterior[i] for posterior in posteriors]) for i in range(2))
    noise = torch.from_numpy(numpy_rng(seed, "samples").standard_normal(tuple(mu.shape))).to(mu)
    reconstructions, samples = (torch.cat([network.decode(z) for z in zs.split(chunk_size)]) for zs in (mu, noise))
    return _Evaluated(images, mu, log_var, noise, reconstructions, samples)


def _unit_pairs(evaluated: _Evaluated, chunk_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Reconstructions and images in [0, 1], some at a time: SSIM takes several times the memory of what it compares."""
    for pair in zip(evaluated.reconstructions.split(chunk_size), evaluated.images.split(chunk_size), strict=True):
        yield to_unit_range(pair[0]), to_unit_range(pair[1])


def _quality(evaluated: _Evaluated, chunk_size: int) -> Values:
    metrics = {"psnr": CappedPSNRMetric(), "ssim": make_ssim_metric(evaluated.images.ndim - 2)}
    return {
        key: _mean(torch.cat([metric(*pair) for pair in _unit_pairs(evaluated, chunk_size)]))
        for key, metric in metrics.items()
    }


def _lpips(evaluated: _Evaluated, weights_dir: Path | None, chunk_size: int) -> Values:
    pairs = _unit_pairs(evaluated, chunk_size)
    return {"lpips": _mean(torch.cat([lpips_distance(p, t, net="alex", weights_dir=weights_dir) for p, t in pairs]))}


def _latent(evaluated: _Evaluated) -> Values:
    active = ActiveUnits()
    active.update(evaluated.mu)
    return {"kl": _mean(kl_standard_normal(evaluated.mu, evaluated.log_var)), "active_units": float(active.compute())}


def _kernel(network: LatentModel, evaluated: _Evaluated, uses_kernel: bool, c: float) -> Values:
    if not uses_kernel:
        return dict.fromkeys(keys(KERNEL), Measure(None, NO_KERNEL))
    kernel = network.kernel(evaluated.mu)
    image_size = evaluated.images.shape[2:]
    below = (kernel_otf(kernel, image_size).abs() < math.sqrt(c)).double()
    return {
        "kernel_width": _mean(kernel_width(kernel)),
        "below_sqrt_c": _mean(spectral_sum(below, image_size)) / math.prod(image_size),
    }


def _spectra(evaluated: _Evaluated) -> Values:
    return {
        "spectrum_reconstruction": log_spectrum_distance(evaluated.reconstructions, evaluated.images).item(),
        "spectrum_sample": log_spectrum_distance(evaluated.samples, evaluated.images).item(),
    }


def _detail(evaluated: _Evaluated) -> Values:
    return {"resolution": ring_resolution(evaluated.reconstructions, evaluated.images).item()}


def _drawn_spectra(evaluated: _Evaluated, fitted: Mapping[str, Likelihood], chunk_size: int, seed: int) -> Values:
    around = {DRAWN[0]: (evaluated.reconstructions, evaluated.mu), DRAWN[1]: (evaluated.samples, evaluated.prior)}
    values: dict[str, float | Measure] = dict.fromkeys(keys(DRAWS), Measure(None, NO_KERNEL))
    for kind, (means, latents) in around.items():
        for name, likelihood in fitted.items():
            generator = torch_rng(seed, "draws", kind)
            pairs = zip(means.split(chunk_size), latents.split(chunk_size), strict=True)
            drawn = torch.cat([likelihood.sample(mean, z, generator) for mean, z in pairs])
            values[f"spectrum_{kind}_draw_{name}"] = log_spectrum_distance(drawn, evaluated.images).item()
    return values


def _sharpness(evaluated: _Evaluated) -> Values:
    return {
        "sharpness_reconstruction": relative_sharpness(evaluated.reconstructions, evaluated.images).item(),
        "sharpness_sample": relative_sharpness(evaluated.samples, evaluated.images).item(),
    }


def _alexnet(evaluated: _Evaluated, weights_dir: Path | None) -> Values:
    samples, images = (alexnet_features(x, weights_dir) for x in (evaluated.samples, evaluated.images))
    return {
        "mmd_alexnet": polynomial_mmd(samples, images).value,
        "frechet_alexnet": frechet_distance(samples, images).value,
    }


def _fid(evaluated: _Evaluated, weights_dir: Path | None) -> Values:
    samples, images = (inception_features(x, weights_dir=weights_dir) for x in (evaluated.samples, evaluated.images))
    return {f"fid_{size}": frechet_distance(samples[size], images[size]).value for size in INCEPTION_FEATURES}


def _likelihoods(
    network: LatentModel,
    images: Tensor,
    fitted: Mapping[str, Likelihood],
    samples: int,
    chunk_size: int,
    seed: int,
    eight_bit: bool,
) -> Values:
    bounds = evidence_bounds(network, images, fitted, samples=samples, chunk_size=chunk_size, seed=seed)
    dimensions = images[0].numel()
    values: dict[str, float | Measure] = {}
    for name in LIKELIHOODS:
        if name not in bounds:
            values |= dict.fromkeys((f"nll_{name}", f"iw_nll_{name}"), Measure(None, NO_KERNEL))
            continue
        values[f"nll_{name}"] = -_mean(bounds[name].elbo)
        values[f"iw_nll_{name}"] = -_mean(bounds[name].importance)
        values[f"bpd_{name}"] = _mean(bits_per_dimension(bounds[name].elbo, dimensions, eight_bit))
    return values


def _mean(values: Tensor) -> float:
    return values.double().mean().item()
