"""−log p(x) with all constants, so that models trained with different losses, or none that is a likelihood, compare.

After the training a normalised likelihood p(x|z) is fitted on validation images, and bounds of log p(x) follow on
test images: the evidence lower bound and the importance-weighted bound. Fit and bounds use the same z ~ q(z|x), so
the fit is the maximum of the validation images' evidence lower bound over the parameters of the likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from monai_blurvae.functional import (
    annuli,
    annulus_mean,
    gaussian_log_normalizer,
    half_log_det,
    kernel_otf,
    spectral_sum,
    weighted_spectral_sum,
    wiener_weight,
)
from monai_blurvae.functional.likelihood import (
    residual_power,
    spectral_filter,
    stationary_log_prob,
    stationary_sample,
)
from monai_blurvae.seeding import numpy_rng

GREY_LEVEL = 1 / 127.5
"""Width of one of the 256 grey levels of 8-bit data on [−1, 1], where v = 0 … 255 stands at v / 127.5 − 1."""

STORE_ERROR = 2.0**-4
"""How far, in grey levels, the store's float16 on [0, 1] may be off an 8-bit value, which is then taken for it:
255 · 2⁻¹² and a little."""

IMAGES_AT_ONCE = 64
"""Images that are dequantised at once: the noise of each is drawn in float64."""

VARIANCE_FLOOR = 1e-10
"""Smallest fitted variance, about that of rounding to 16 bits on [−1, 1], for models that reproduce their images."""


class LatentModel(Protocol):
    """What the bounds ask of a model; :class:`~monai_blurvae.networks.BlurVAE` is one."""

    def encode(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        """Mean and log σ² of q(z|x), ``(B, latent_size)`` each."""

    def decode(self, z: Tensor, /) -> Tensor:
        """Mean of p(x|z), ``(B, C, *image_size)``."""

    def kernel(self, z: Tensor, /) -> Tensor:
        """Blur kernels ``(B, 1, *kernel_size)``; called for :class:`KernelLikelihood` only."""


class Likelihood(Protocol):
    """A normalised density p(x|z) of the residual x − x̂(z)."""

    def log_prob(self, residual: Tensor, z: Tensor) -> Tensor:
        """Log p(x|z) in nats, ``(B,)``, of residuals ``(B, C, *image_size)`` at latents ``(B, latent_size)``."""

    def pixel_log_prob(self, residual: Tensor, z: Tensor) -> Tensor:
        """:meth:`log_prob` as a sum over pixels, in nats, like the residuals.

        A Gaussian's quadratic form is the squared norm of the whitened residual Σ^−½ (x − x̂), whose pixels share log|Σ|
        evenly.
        """

    def sample(self, mean: Tensor, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw x ~ p(x|z), an image of each latent.

        A draw knows no bounds: x leaves [−1, 1] where x̂ is near them, and is not clipped.

        Args:
            mean: x̂(z), ``(B, C, *image_size)``.
            z: latents, ``(B, latent_size)``.
            generator: of random numbers; one of the CPU gives the same draws on every device.

        Returns:
            Like ``mean``.
        """

    def with_noise(self, sigma: float) -> Likelihood:
        """p(x + σ n|z) of white noise n, in squared units of the images added to what was fitted."""


@dataclass(frozen=True)
class VarianceLikelihood:
    """N(x; x̂, s² I).

    Attributes:
        variance: s² > 0, in squared units of the images.
    """

    variance: float

    def log_prob(self, residual: Tensor, z: Tensor) -> Tensor:
        """Log N(x; x̂, s² I), ``(B,)``, in nats."""
        dimensions = residual[0].numel()
        quadratic = 0.5 * residual.square().flatten(1).sum(1) / self.variance
        return -quadratic - 0.5 * dimensions * math.log(self.variance) - gaussian_log_normalizer(dimensions)

    def pixel_log_prob(self, residual: Tensor, z: Tensor) -> Tensor:
        """See :meth:`Likelihood.pixel_log_prob`."""
        return _pixel_log_prob(residual / math.sqrt(self.variance), 0.5 * math.log(self.variance))

    def sample(self, mean: Tensor, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x̂ + s e, see :meth:`Likelihood.sample`."""
        return mean + math.sqrt(self.variance) * _white_noise(mean, generator)

    def with_noise(self, sigma: float) -> VarianceLikelihood:
        """N(x̂, (s² + σ²) I)."""
        return replace(self, variance=self.variance + sigma**2)


@dataclass(frozen=True)
class KernelLikelihood:
    """N(x; x̂, s² (WᵀW)⁻¹ + σ² I), W from the predicted kernel G(z), exact determinant (eq. 7 and 8 of the paper).

    Attributes:
        model: predicts the kernels.
        variance: s² > 0.
        c: the Wiener constant C > 0.
        weighting: as in :func:`~monai_blurvae.functional.wiener_weight`.
        noise_variance: σ² of white noise in the images.
    """

    model: LatentModel
    variance: float = 1.0
    c: float = 0.025
    weighting: str = "wiener"
    noise_variance: float = 0.0

    def _weight(self, residual: Tensor, z: Tensor) -> Tensor:
        """|W|, or with noise the weight |V| of the same s² with s² |V|⁻² = s² |W|⁻² + σ²."""
        otf = kernel_otf(self.model.kernel(z).to(residual.dtype), residual.shape[2:])
        weight = wiener_weight(otf, self.c, self.weighting)
        return weight * (1 + weight.square() * (self.noise_variance / self.variance)).rsqrt()

    def weighted_square(self, residual: Tensor, z: Tensor) -> Tensor:
        """‖W (x − x̂)‖², ``(B,)``."""
        return weighted_spectral_sum(residual, self._weight(residual, z))

    def log_prob(self, residual: Tensor, z: Tensor) -> Tensor:
        """Log N(x; x̂, s² (WᵀW)⁻¹), ``(B,)``, in nats."""
        weight = self._weight(residual, z)
        image_size, dimensions = residual.shape[2:], residual[0].numel()
        quadratic = 0.5 * weighted_spectral_sum(residual, weight) / self.variance
        log_det = half_log_det(weight, image_size, residual.shape[1]) + 0.5 * dimensions * math.log(self.variance)
        return -quadratic - log_det - gaussian_log_normalizer(dimensions)

    def pixel_log_prob(self, residual: Tensor, z: Tensor) -> Tensor:
        """See :meth:`Likelihood.pixel_log_prob`."""
        weight = self._weight(residual, z) / math.sqrt(self.variance)
        per_pixel = half_log_det(weight, residual.shape[2:]) / residual[0, 0].numel()
        return _pixel_log_prob(spectral_filter(residual, weight), per_pixel.view(-1, *[1] * (residual.ndim - 1)))

    def sample(self, mean: Tensor, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x̂ + s |W|⁻¹ e, strongest at the frequencies that the kernel removed, see :meth:`Likelihood.sample`."""
        variance = self.variance / self._weight(mean, z).square()
        return mean + stationary_sample(_white_noise(mean, generator), variance)

    def with_noise(self, sigma: float) -> KernelLikelihood:
        """The same with more noise."""
        return replace(self, noise_variance=self.noise_variance + sigma**2)


@dataclass(frozen=True)
class SpectrumLikelihood:
    """N(x; x̂, Σ) with Σ stationary on the torus: one variance for each spatial frequency and channel.

    Attributes:
        variance: S_j > 0, half spectrum ``(1, C, *half)``, see
            :func:`~monai_blurvae.functional.likelihood.stationary_log_prob`.
    """

    variance: Tensor

    def log_prob(self, residual: Tensor, z: Tensor) -> Tensor:
        """Log N(x; x̂, Σ), ``(B,)``, in nats."""
        return stationary_log_prob(residual, self.variance)

    def pixel_log_prob(self, residual: Tensor, z: Tensor) -> Tensor:
        """See :meth:`Likelihood.pixel_log_prob`."""
        variance = self.variance.to(residual.dtype)
        pixels = residual[0, 0].numel() * variance.shape[1]  # of the channels that it has, for it may be shared
        half_log_det_share = 0.5 * float(spectral_sum(variance.log(), residual.shape[2:])) / pixels
        return _pixel_log_prob(spectral_filter(residual, variance.rsqrt()), half_log_det_share)

    def sample(self, mean: Tensor, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x̂ + Σ^½ e, see :meth:`Likelihood.sample`."""
        return mean + stationary_sample(_white_noise(mean, generator), self.variance.to(mean))

    def with_noise(self, sigma: float) -> SpectrumLikelihood:
        """N(x̂, Σ + σ² I)."""
        return replace(self, variance=self.variance + sigma**2)


@dataclass(frozen=True)
class Densities:
    """Densities p(x|z) around a decoder.

    Attributes:
        likelihoods: by the keys of :data:`~monai_blurvae.metrics.measures.LIKELIHOODS`, see :func:`fit_likelihoods`.
        fitted_on: which images, in words.
        missing: why there are none; empty where there are some.
    """

    likelihoods: Mapping[str, Likelihood] = field(default_factory=dict)
    fitted_on: str = ""
    missing: str = ""

    @property
    def variances(self) -> dict[str, Tensor]:
        """One variance and one of each spatial frequency, as half spectra of float64 on the CPU, by name."""
        variance, spectrum = self.likelihoods["variance"], self.likelihoods["spectrum"]
        assert isinstance(variance, VarianceLikelihood)
        assert isinstance(spectrum, SpectrumLikelihood)
        values = spectrum.variance.double().cpu()
        return {"variance": torch.full_like(values, variance.variance), "spectrum": values}


class Bounds(NamedTuple):
    """Lower bounds of log p(x) of each image, in nats, ``(N,)`` each.

    Attributes:
        elbo: mean over K samples of log w_k, an unbiased estimate of E_q[log p(x|z)] − KL(q(z|x) ‖ N(0, I)).
        importance: log 1/K Σ_k w_k, whose expectation grows with K towards log p(x) (Burda et al., Importance Weighted
            Autoencoders, ICLR 2016, theorem 1). It is never below ``elbo``.
    """

    elbo: Tensor
    importance: Tensor


class PosteriorDraw(NamedTuple):
    """Consecutive (image, sample) pairs, of which ``start`` is the first."""

    start: int
    z: Tensor
    residual: Tensor
    log_ratio: Tensor


def evidence_bounds(
    model: LatentModel,
    images: Tensor,
    likelihoods: Mapping[str, Likelihood],
    *,
    samples: int = 16,
    chunk_size: int = 64,
    seed: int = 0,
) -> dict[str, Bounds]:
    """Bounds of log p(x) under several likelihoods, with the same latents and one pass through the decoder.

    Args:
        model: decodes the mean of p(x|z) and encodes q(z|x); a module is used in evaluation mode and left as it was.
        images: x, ``(N, C, *image_size)``, on the model's device.
        likelihoods: by name.
        samples: K, latents drawn for each image.
        chunk_size: number of latents that are decoded at once; it changes no result but by rounding.
        seed: of the noise, which for image i depends on nothing but ``seed``, i and K.

    Returns:
        For each likelihood its :class:`Bounds`, in float64. They are log-densities with respect to the units of
        ``images``: of float data they do not compare with the probabilities of 8-bit data, see
        :func:`dequantize`.

    Raises:
        ValueError: if ``samples`` or ``chunk_size`` is less than 1, or there are no images.
    """
    weights = log_weights(model, images, likelihoods, samples=samples, chunk_size=chunk_size, seed=seed)
    return {name: bounds_of(values) for name, values in weights.items()}


def bounds_of(log_weights: Tensor) -> Bounds:
    """Both bounds of log-weights log w_k, ``(N, K)``."""
    importance = torch.logsumexp(log_weights, 1) - math.log(log_weights.shape[1])
    return Bounds(log_weights.mean(1), importance)


@torch.no_grad()
def log_weights(
    model: LatentModel,
    images: Tensor,
    likelihoods: Mapping[str, Likelihood],
    *,
    samples: int = 16,
    chunk_size: int = 64,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Log w_k = log p(x|z_k) + log p(z_k) − log q(z_k|x) with z_k ~ q(z|x).

    Args and errors as in :func:`evidence_bounds`.

    Returns:
        For each likelihood ``(N, K)``, float64, in nats.
    """
    values = {
        name: torch.empty(len(images) * samples, dtype=torch.float64, device=images.device) for name in likelihoods
    }
    with evaluation_mode(model):
        for draw in posterior_draws(model, images, samples, chunk_size, seed):
            chunk = slice(draw.start, draw.start + len(draw.z))
            for name, likelihood in likelihoods.items():
                values[name][chunk] = likelihood.log_prob(draw.residual, draw.z) + draw.log_ratio
    return {name: value.view(len(images), samples) for name, value in values.items()}


@torch.no_grad()
def pixel_bounds(
    model: LatentModel,
    images: Tensor,
    likelihood: Likelihood,
    *,
    samples: int = 16,
    chunk_size: int = 64,
    seed: int = 0,
) -> tuple[Bounds, Tensor]:
    """:func:`evidence_bounds` under one likelihood, with the evidence lower bound as a sum over pixels beside them.

    log p(x|z) is told for each pixel by :meth:`Likelihood.pixel_log_prob`; the KL is the whole image's, and its pixels
    have equal shares of it.

    Args and errors as in :func:`evidence_bounds`.

    Returns:
        The :class:`Bounds`, and a map ``(N, C, *image_size)`` in float64, in nats, whose sum over an image is its ELBO.
    """
    values = images.new_empty(len(images) * samples, dtype=torch.float64)
    maps = torch.zeros_like(images, dtype=torch.float64)
    with evaluation_mode(model):
        for draw in posterior_draws(model, images, samples, chunk_size, seed):
            pairs = torch.arange(draw.start, draw.start + len(draw.z), device=images.device)
            pixels = likelihood.pixel_log_prob(draw.residual, draw.z)
            values[pairs] = pixels.flatten(1).sum(1) + draw.log_ratio
            share = (draw.log_ratio / pixels[0].numel()).view(-1, *[1] * (pixels.ndim - 1))
            maps.index_add_(0, pairs // samples, pixels + share)
    return bounds_of(values.view(len(images), samples)), maps / samples


@torch.no_grad()
def fit_likelihoods(
    model: LatentModel,
    images: Tensor,
    *,
    uses_kernel: bool,
    c: float = 0.025,
    weighting: str = "wiener",
    samples: int = 4,
    pseudo_images: float = 4.0,
    chunk_size: int = 64,
    seed: int = 0,
) -> dict[str, Likelihood]:
    """Fit the three likelihoods in closed form, by the maximum of the mean of log p(x|z) over z ~ q(z|x).

    One variance: s² = mean of ‖x − x̂‖² / D. Kernel: s² = mean of ‖W (x − x̂)‖² / D. Spectrum: S_j, the mean of |R_j|²,
    is drawn towards its mean S̄_j over the frequencies of the same radius (rounded to an integer) and channel,
    (n S_j + ν S̄_j) / (n + ν) for n images and ν = ``pseudo_images``: of a few images the S_j alone are so uncertain
    that the density of other images suffers, while S̄_j averages over many frequencies. All variances are at least
    :data:`VARIANCE_FLOOR`.

    Args:
        model: as in :func:`evidence_bounds`.
        images: validation images, ``(n, C, *image_size)``; never the images whose density is reported.
        uses_kernel: whether the model predicts a kernel worth the name; otherwise ``"kernel"`` is left out.
        c: the Wiener constant C > 0.
        weighting: as in :func:`~monai_blurvae.functional.wiener_weight`.
        samples: latents drawn for each image.
        pseudo_images: ν ≥ 0; at 0 the maximum-likelihood estimate.
        chunk_size: number of latents that are decoded at once.
        seed: of the noise.

    Returns:
        ``{"variance": …, "kernel": …, "spectrum": …}``.

    Raises:
        ValueError: if ``samples`` or ``chunk_size`` is less than 1, or there are no images.
    """
    total = len(images) * samples
    image_size, dimensions = images.shape[2:], images[:1].numel()
    power = torch.zeros((), dtype=torch.float64, device=images.device)
    weighted = 0.0
    unit = KernelLikelihood(model, 1.0, c, weighting)
    with evaluation_mode(model):
        for draw in posterior_draws(model, images, samples, chunk_size, seed):
            power = power + residual_power(draw.residual).sum(0, keepdim=True)
            if uses_kernel:
                weighted += float(unit.weighted_square(draw.residual, draw.z).sum())
    power = power / total
    fitted: dict[str, Likelihood] = {
        "variance": VarianceLikelihood(max(float(spectral_sum(power, image_size)) / dimensions, VARIANCE_FLOOR))
    }
    if uses_kernel:
        variance = max(weighted / total / dimensions, VARIANCE_FLOOR)
        fitted["kernel"] = KernelLikelihood(model, variance, c, weighting)
    smooth = (len(images) * power + pseudo_images * _smoothed(power, image_size)) / (len(images) + pseudo_images)
    fitted["spectrum"] = SpectrumLikelihood(smooth.clamp_min(VARIANCE_FLOOR))
    return fitted


def dequantize(images: Tensor, seed: int = 0) -> Tensor:
    """Spread 8-bit grey levels evenly over their width, x + (u − ½) / 127.5 with u ~ U[0, 1).

    The 256 levels v / 127.5 − 1 then tile [−1 − 1/255, 1 + 1/255]. The probability of a level is the integral of the
    density over its width, so with D pixels and channels log P(v) = −D log 127.5 + log E_u[p(x + (u − ½) / 127.5)],
    which is at least the mean of log p of dequantised images minus D log 127.5 (Theis et al., A note on the
    evaluation of generative models, ICLR 2016). :func:`bits_per_dimension` adds that log2 127.5. Each channel of a
    pixel has a level, and a u, of its own.

    Args:
        images: 8-bit images scaled to [−1, 1], ``(N, C, *image_size)``.
        seed: of u, which for image i depends on nothing but ``seed`` and i.

    Returns:
        Like ``images``.

    Raises:
        ValueError: if a value is none of the 256 levels, to :data:`STORE_ERROR`.
    """
    parts = []
    for first in range(0, len(images), IMAGES_AT_ONCE):
        part = images[first : first + IMAGES_AT_ONCE]
        levels = (part.double() + 1) / GREY_LEVEL
        nearest, distance = levels.round(), float((levels - levels.round()).abs().max())
        if distance > STORE_ERROR or nearest.min() < 0 or nearest.max() > 255:
            raise ValueError(
                f"images between {float(part.min()):.4g} and {float(part.max()):.4g}, up to {distance:.2g} off a grey "
                "level, are not 8-bit images scaled to [-1, 1]; evaluate them as float data."
            )
        part = (nearest * GREY_LEVEL - 1).to(part)
        noise = _noise(len(part), part[0].numel(), first, seed, "dequantise", part, uniform=True)
        parts.append(part + GREY_LEVEL * (noise.view(part.shape) - 0.5))
    return torch.cat(parts)


def bits_per_dimension(log_prob: Tensor, dimensions: int, eight_bit: bool) -> Tensor:
    """−log2 p(x) / D, plus log2 127.5 for 8-bit data.

    Args:
        log_prob: log p(x) or a bound of it, in nats, any shape; for 8-bit data of dequantised images.
        dimensions: D = pixels · channels.
        eight_bit: whether the data are 8-bit, so that the result bounds −log2 P(v) / D of the grey levels (8 for a
            uniform distribution). Otherwise it belongs to the density of float data on [−1, 1], may be negative, and
            does not compare with figures of 8-bit data.

    Returns:
        Like ``log_prob``.
    """
    bits = -log_prob / (dimensions * math.log(2))
    return bits - math.log2(GREY_LEVEL) if eight_bit else bits


@contextmanager
def evaluation_mode(model: object) -> Iterator[None]:
    """Put a module into evaluation mode, and back; leave anything else alone."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, training in zip(modules, modes, strict=True):
            module.training = training


def posterior_draws(
    model: LatentModel,
    images: Tensor,
    samples: int,
    chunk_size: int,
    seed: int,
    posterior: tuple[Tensor, Tensor] | None = None,
    device: torch.device | None = None,
) -> Iterator[PosteriorDraw]:
    """Latents of q(z|x), their residuals and log p(z) − log q(z|x), in pairs ordered by image, then sample.

    Args:
        model: as in :func:`evidence_bounds`.
        images: likewise.
        samples: likewise.
        chunk_size: likewise.
        seed: likewise.
        posterior: mean and log σ² of q(z|x) of all images, where they are known; None to encode.
        device: of the model, where the images are elsewhere.
    """
    if samples < 1 or chunk_size < 1 or not len(images):
        raise ValueError(
            f"a bound needs at least one image, sample and latent at a time, but has {len(images)} images, "
            f"samples {samples} and chunk_size {chunk_size}."
        )
    images_at_once = max(1, chunk_size // samples)
    for first in range(0, len(images), images_at_once):
        x = images[first : first + images_at_once]
        x = x if device is None else x.to(device)
        chosen = slice(first, first + images_at_once)
        mu, log_var = model.encode(x) if posterior is None else (p[chosen].to(x.device) for p in posterior)
        noise = _noise(len(x), samples * mu.shape[1], first, seed, "posterior", mu).view(len(x), samples, -1)
        z = mu[:, None] + torch.exp(0.5 * log_var)[:, None] * noise
        log_ratio = 0.5 * (noise.double().square() + log_var.double()[:, None] - z.double().square()).sum(2)
        z, log_ratio = z.flatten(0, 1), log_ratio.flatten()
        for begin in range(0, len(z), chunk_size):
            chunk = slice(begin, begin + chunk_size)
            rows = torch.arange(len(z), device=x.device)[chunk] // samples
            # In float64, since a log-density of thousands of nats is compared to fractions of one.
            residual = x[rows].double() - model.decode(z[chunk]).double()
            yield PosteriorDraw(first * samples + begin, z[chunk], residual, log_ratio[chunk])


def _pixel_log_prob(whitened: Tensor, half_log_det_share: float | Tensor) -> Tensor:
    return -0.5 * whitened.square() - half_log_det_share - gaussian_log_normalizer(1)


def _white_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    origin = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=origin, dtype=like.dtype).to(like.device)


def _noise(count: int, size: int, first: int, seed: int, purpose: str, like: Tensor, uniform: bool = False) -> Tensor:
    """Noise ``(count, size)`` of the images from ``first`` on, each from a generator of its own."""
    rows = []
    for i in range(first, first + count):
        rng = numpy_rng(seed, purpose, i)
        rows.append(rng.random(size) if uniform else rng.standard_normal(size))
    return torch.from_numpy(np.stack(rows)).to(like.device, like.dtype)


def _smoothed(power: Tensor, image_size: torch.Size) -> Tensor:
    """Each entry of a half spectrum ``(1, C, *half)`` replaced by the mean over its annulus of integer radius."""
    radius = annuli(tuple(image_size), power.dtype, power.device).radius
    return annulus_mean(power, tuple(image_size))[..., radius]
