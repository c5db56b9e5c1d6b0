"""What one pass over images leaves: latents and reconstructions, and figures of them that are computed once."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import Tensor, nn

from monai_blurvae.engines import BlurVAEKeys
from monai_blurvae.errors import BlurVAEError
from monai_blurvae.functional import kernel_width, kl_standard_normal, residual_power
from monai_blurvae.metrics.image_quality import CappedPSNRMetric, make_ssim_metric, to_unit_range
from monai_blurvae.metrics.likelihood import (
    Bounds,
    Densities,
    LatentModel,
    bounds_of,
    dequantize,
    evaluation_mode,
    posterior_draws,
)
from monai_blurvae.networks import unwrapped
from monai_blurvae.seeding import numpy_rng

logger = logging.getLogger(__name__)

BOUND_SAMPLES = 8
"""Latents of each image for the bounds, where no measures ask for another number."""
AT_ONCE = 64
"""Images and latents that are on the device at once; SSIM takes several times the memory of what it compares."""
COMPARED = 2048
"""Images that are compared with a linear model, at most, evenly spread."""
MOST_VALUES = 2**27
"""Pixels times channels of all of them, at most: 512 MB."""


class Evaluated:
    """A network's answers to images, all on the CPU.

    Each image is encoded once, and its posterior mean decoded once. What else is decoded are ``samples`` latents of
    each image, for the bounds of log p and the expected reconstruction term together, and samples from the prior.

    Attributes:
        samples: K, latents of each image.
        seed: of these, of samples from the prior and of the dequantisation.
        eight_bit: whether the images are 8-bit, so that they are dequantised for the bounds.
        fit: gives the densities p(x|z), called once at most; None for none.
        network: whose answers they are.
        images: in [−1, 1], ``(N, C, *image_size)``.
        reconstructions: of the posterior means, likewise.
        mu: posterior means, ``(N, latent_size)``.
        log_var: posterior log σ², likewise.
        kernels: ``(N, 1, *kernel_size)``.
    """

    images: Tensor
    reconstructions: Tensor
    mu: Tensor
    log_var: Tensor
    kernels: Tensor

    def __init__(
        self,
        samples: int = BOUND_SAMPLES,
        seed: int = 0,
        eight_bit: bool = False,
        fit: Callable[[], Densities] | None = None,
    ) -> None:
        self.samples = samples
        self.seed = seed
        self.eight_bit = eight_bit
        self.fit = fit
        self.begin()

    @classmethod
    @torch.no_grad()
    def of(cls, network: LatentModel, images: Tensor, device: str | torch.device = "cpu", **options: Any) -> Evaluated:
        """Encode images and decode their posterior means.

        Args:
            network: the model, on ``device``; a module is used in evaluation mode and left as it was.
            images: in [−1, 1], ``(N, C, *image_size)``, N > 0.
            device: to compute on.
            options: arguments of the class.

        Raises:
            ValueError: if there are no images, or the network refuses them.
        """
        if not len(images):
            raise ValueError(f"an evaluation needs images (N, C, *image_size) with N > 0, but has {images.shape}.")
        found = cls(**options)
        with evaluation_mode(network):
            for x in images.split(AT_ONCE):
                mu, log_var = network.encode(x.to(device))
                found.add(network, x, network.decode(mu), mu, log_var, network.kernel(mu))
        found.finish()
        return found

    @classmethod
    def of_engine(cls, engine: Engine) -> Evaluated:
        """What a :class:`~monai_blurvae.engines.BlurVAEEvaluator` goes through, for all handlers that ask for it.

        It is complete when those that are attached afterwards hear of ``Events.COMPLETED``.
        """
        if engine not in _OF_ENGINES:
            found = _OF_ENGINES[engine] = cls()
            engine.add_event_handler(Events.STARTED, found.begin)
            # before anything is decollated
            engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, found._collect)
            engine.add_event_handler(Events.COMPLETED, found.finish)
        return _OF_ENGINES[engine]

    def _collect(self, engine: Any) -> None:
        keys = CommonKeys.IMAGE, CommonKeys.PRED, BlurVAEKeys.MU, BlurVAEKeys.LOG_VAR, BlurVAEKeys.KERNEL
        self.add(unwrapped(engine.network), *(engine.state.output[key] for key in keys))

    def begin(self) -> None:
        """Forget all answers, and what was computed of them."""
        self._parts: list[tuple[Tensor, ...]] = []
        for name in [name for name in vars(self) if isinstance(getattr(type(self), name, None), cached_property)]:
            delattr(self, name)

    def add(self, network: LatentModel, *answers: Tensor) -> None:
        """Take a batch: ``images``, ``reconstructions``, ``mu``, ``log_var`` and ``kernels``."""
        self.network: Any = network
        self.device = answers[2].device
        self._parts.append(tuple(torch.as_tensor(answer.detach()).cpu() for answer in answers))

    def finish(self) -> None:
        """All batches were taken."""
        columns = (torch.cat(column) for column in zip(*self._parts, strict=True))
        self.images, self.reconstructions, self.mu, self.log_var, self.kernels = columns
        self._parts = []

    @cached_property
    def quality(self) -> dict[str, Tensor]:
        """``psnr`` in dB and ``ssim`` of each reconstruction, ``(N,)``."""
        metrics = {"psnr": CappedPSNRMetric(), "ssim": make_ssim_metric(self.images.ndim - 2)}
        values: dict[str, list[Tensor]] = {name: [] for name in metrics}
        for pair in zip(self.reconstructions.split(AT_ONCE), self.images.split(AT_ONCE), strict=True):
            pair = to_unit_range(pair[0].to(self.device)), to_unit_range(pair[1].to(self.device))
            for name, metric in metrics.items():
                values[name].append(metric(*pair).flatten().cpu())
        return {name: torch.cat(parts) for name, parts in values.items()}

    @cached_property
    def kl(self) -> Tensor:
        """Of each image in nats, ``(N,)``."""
        return kl_standard_normal(self.mu, self.log_var)

    @cached_property
    def kernel_widths(self) -> Tensor:
        """Of each image in pixels, ``(N,)``."""
        return kernel_width(self.kernels)

    @cached_property
    def compared(self) -> slice:
        """The images that a linear model is compared on."""
        most = min(COMPARED, max(1, MOST_VALUES // self.images[0].numel()))
        return slice(None, None, -(-len(self.images) // most))

    @cached_property
    def densities(self) -> Densities:
        """The fitted densities, or why there are none: an evaluation needs no validation images to be there."""
        if self.fit is None:
            return Densities(missing="this evaluation was given no fitted density")
        try:
            _ = self._to_density
            return self.fit()
        except (BlurVAEError, ValueError) as error:
            logger.info(f"No images are drawn from p(x|z): {error}")
            return Densities(missing=str(error))

    @cached_property
    def _to_density(self) -> Tensor | None:
        """What dequantisation adds to the images."""
        return dequantize(self.images, self.seed).double() - self.images.double() if self.eight_bit else None

    @cached_property
    def _drawn(self) -> tuple[dict[str, Bounds], Tensor]:
        likelihoods, size = self.densities.likelihoods, len(self.images) * self.samples
        weights = {name: torch.empty(size, dtype=torch.float64) for name in likelihoods}
        counted = torch.zeros(len(self.images), dtype=torch.bool)
        counted[self.compared] = True
        power = torch.zeros((), dtype=torch.float64, device=self.device)
        decoder, posterior = self._fast_network, (self.mu, self.log_var)
        with torch.no_grad(), evaluation_mode(decoder):
            draws = posterior_draws(decoder, self.images, self.samples, AT_ONCE, self.seed, posterior, self.device)
            for draw in draws:
                pairs = torch.arange(draw.start, draw.start + len(draw.z))
                images, residual = pairs // self.samples, draw.residual
                power = power + residual_power(residual[counted[images].to(self.device)]).sum(0, keepdim=True)
                if self._to_density is not None:
                    residual = residual + self._to_density[images].to(self.device)
                for name, likelihood in likelihoods.items():
                    weights[name][pairs] = (likelihood.log_prob(residual, draw.z) + draw.log_ratio).cpu()
        bounds = {name: bounds_of(values.view(len(self.images), self.samples)) for name, values in weights.items()}
        return bounds, (power / (counted.sum() * self.samples)).cpu()

    @property
    def bounds(self) -> dict[str, Bounds]:
        """Bounds of log p of each image in nats, on its scale of [−1, 1], under each fitted density."""
        return self._drawn[0]

    @property
    def residual_power(self) -> Tensor:
        """Mean of |R|² of the residuals x − x̂(z), z ~ q(z|x), of :attr:`compared`, ``(1, C, *half)``, float64."""
        return self._drawn[1]

    @cached_property
    def prior(self) -> Tensor:
        """As many latents from N(0, I) as there are images."""
        return torch.from_numpy(numpy_rng(self.seed, "samples").standard_normal(tuple(self.mu.shape))).to(self.mu)

    @cached_property
    def prior_samples(self) -> Tensor:
        """The decoder's means of :attr:`prior`."""
        with torch.no_grad(), evaluation_mode(self._fast_network):
            parts = [self._fast_network.decode(z.to(self.device)).cpu() for z in self.prior.split(AT_ONCE)]
        return torch.cat(parts)

    @cached_property
    def _fast_network(self) -> Any:
        """A copy whose channels stand together in memory, with which a CPU decodes in about two thirds of the time."""
        if not isinstance(self.network, nn.Module):
            return self.network
        network: Any = copy.deepcopy(self.network)
        return network.to(memory_format=torch.channels_last) if self.images.ndim == 4 else network


_OF_ENGINES: WeakKeyDictionary[Engine, Evaluated] = WeakKeyDictionary()
