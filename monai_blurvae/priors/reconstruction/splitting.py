"""Reconstruct and draw images with the denoiser of a prior, and measure how it converges and how far it is off."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from monai_blurvae.errors import DataError
from monai_blurvae.metrics.image_quality import CappedPSNRMetric, make_ssim_metric
from monai_blurvae.priors.patch_prior import ImagePrior
from monai_blurvae.priors.reconstruction.operator import (
    CartesianMRI,
    centre_line_count,
    centred_fft,
    centred_ifft,
    check_units,
)
from monai_blurvae.seeding import numpy_rng, torch_rng

SMALLEST_CENTRE = 4
"""Lines; a phase from fewer is that of a few numbers."""
PHASE_CYCLES = 16.0
"""Of the Gaussian through which the phase of an image is seen: of validation slices from 10 to 16 do as well where the
phase is smooth, and a rough one needs more than 10."""
SMALLEST_PERIOD = 8
"""Pixels; smaller images than those of 128 pixels are seen through fewer cycles."""


def centre_phase(kspace: Tensor, operator: CartesianMRI, lines: int | None = None) -> Tensor:
    """exp(i φ) of the image that the centre of k-space shows through a Hann window, coils combined.

    The window is twice as wide as the lines, which cut it off: one that falls to 0 within them loses resolution, and
    has more than twice the error on T1 slices with a smooth phase. It is as wide along the lines as across them, in
    cycles per millimetre where voxels are square.

    Args:
        kspace: ``(B, N, H, W)``.
        operator: with the mask and the maps of this k-space.
        lines: that are looked at; by default those sampled around the centre, at most a quarter of all.

    Returns:
        Complex numbers of modulus 1, ``(B, 1, H, W)``.

    Raises:
        DataError: if fewer than :data:`SMALLEST_CENTRE` lines around the centre are sampled.
    """
    height, width = operator.image_size
    if lines is None:
        lines = min(centre_line_count(operator.mask), max(width // 4, SMALLEST_CENTRE))
    if lines < SMALLEST_CENTRE:
        raise DataError(
            f"{lines} neighbouring lines around the centre of k-space are sampled, where at least {SMALLEST_CENTRE} "
            "are needed for the phase; give the phase, or a mask with a sampled centre."
        )
    columns = torch.zeros(width, device=kspace.device)
    columns[width // 2 - lines // 2 : width // 2 - lines // 2 + lines] = 1
    window = _hann(height, 2 * lines * height / width, kspace)[:, None] * _hann(width, 2 * lines, kspace) * columns
    return unit_phase(operator.adjoint(kspace * window))


def smooth_phase(image: Tensor, cycles: float = PHASE_CYCLES) -> Tensor:
    """exp(i φ) of what a complex image ``(B, 1, H, W)`` shows through a Gaussian filter.

    Args:
        image: of which the phase is wanted.
        cycles: standard deviation of the Gaussian in k-space, in cycles over the image; at most one for each
            :data:`SMALLEST_PERIOD` pixels of the smaller side.

    Returns:
        Complex numbers of modulus 1, like ``image``.
    """
    cycles = min(cycles, min(image.shape[-2:]) / SMALLEST_PERIOD)
    row, column = (torch.arange(n, device=image.device, dtype=image.real.dtype) - n // 2 for n in image.shape[-2:])
    passed = torch.exp(-(row[:, None].square() + column.square()) / (2 * cycles**2))
    return unit_phase(centred_ifft(passed * centred_fft(image)))


def unit_phase(image: Tensor) -> Tensor:
    """The phase factor x / |x|, and 1 where x = 0."""
    modulus = image.abs()
    return torch.where(modulus > 0, image / modulus.clamp_min(torch.finfo(modulus.dtype).tiny), torch.ones_like(image))


def _hann(n: int, width: float, like: Tensor) -> Tensor:
    """A Hann window of a width around the centre n // 2, which is 0 beyond it."""
    distance = (torch.arange(n, device=like.device, dtype=like.real.dtype) - n // 2).abs()
    return torch.where(distance < width / 2, 0.5 + 0.5 * torch.cos(2 * torch.pi * distance / width), 0)


MEASURES = ("rmse_percent", "nmse", "psnr", "ssim")
"""Columns of the tables."""


Measures = dict[str, float]


def reconstruction_measures(image: Tensor, reference: Tensor, data_range: float | None = None) -> list[Measures]:
    """RMSE in percent, NMSE, PSNR in dB and SSIM of magnitudes.

    RMSE % = 100 ‖|x̂| − |x|‖ / ‖|x|‖ (Tezcan et al. 2019), NMSE its square (fastMRI); SSIM has an 11×11 Gaussian window.

    Args:
        image: complex or real, ``(B, 1, H, W)``.
        reference: the same.
        data_range: of PSNR and SSIM; by default the largest magnitude of all references, as fastMRI has it.

    Returns:
        A dictionary with :data:`MEASURES` for each image; NMSE and RMSE of an empty reference are NaN.
    """
    found, true = image.abs().double(), reference.abs().double()
    largest = float(true.max()) if data_range is None else data_range
    nmse = (found - true).square().sum((1, 2, 3)) / true.square().sum((1, 2, 3))
    psnr = magnitude_psnr(image, reference, largest)
    ssim = _each(make_ssim_metric()(found / largest, true / largest))
    return [
        dict(zip(MEASURES, (100 * ratio**0.5, ratio, *quality), strict=True))
        for ratio, *quality in zip(_each(nmse), psnr, ssim, strict=True)
    ]


def magnitude_psnr(image: Tensor, reference: Tensor, data_range: float) -> list[float]:
    """PSNR in dB of magnitudes; arguments as of :func:`reconstruction_measures`."""
    return _each(CappedPSNRMetric()(image.abs().double() / data_range, reference.abs().double() / data_range))


def _each(values: Tensor) -> list[float]:
    return [float(value) for value in values.flatten()]


CONVERGENCE = ("residual", "change", "psnr")
"""Of every step: ‖A x − y‖ / ‖y‖, the distance ‖x − x'‖ / ‖x‖ to the image x' before it, and the PSNR of the magnitude
in dB, the last NaN where the image is not known, and the change that of the image before the first step."""


class ConvergenceWatcher:
    """Watch the steps of a reconstruction of one slice, the first row that of the zero-filled image.

    Args:
        kspace: y, ``(1, N, H, W)``.
        operator: A.
        reference: the fully sampled magnitude, ``(h, w)``, where it is known, in the units of the reconstruction.
        data_range: of the PSNR.
        crop: brings an image ``(..., H, W)`` to the size of the reference.
    """

    def __init__(
        self,
        kspace: Tensor,
        operator: CartesianMRI,
        reference: Tensor | None = None,
        data_range: float = 1.0,
        crop: Callable[[Tensor], Tensor] = lambda image: image,
    ) -> None:
        self.kspace = kspace
        self.operator = operator
        self.reference = None if reference is None else reference[None, None].to(kspace.device)
        self.data_range = data_range
        self.crop = crop
        self.rows: list[tuple[float, float, float]] = []
        self._before: Tensor | None = None
        self(0, operator.adjoint(kspace))

    def __call__(self, step: int, image: Tensor) -> None:
        """Add the row of a step, from 1, and the image ``(1, 1, H, W)`` after it."""
        residual = (self.operator.forward(image) - self.kspace).norm() / self.kspace.norm()
        change = torch.nan if self._before is None else float((image - self._before).norm() / image.norm())
        psnr = torch.nan
        if self.reference is not None:
            (psnr,) = magnitude_psnr(self.crop(image), self.reference, self.data_range)
        self.rows.append((float(residual), change, psnr))
        self._before = image


OFFSETS = 8
"""The grid of patches is shifted by 0 to 7 pixels along each axis, those of a patch."""

Watcher = Callable[[int, Tensor], object]
"""Called with the number of a step, from 1, and the image after it."""


CENTRE_PHASE = "the centre of k-space, through a Hann window"
"""In words, where methods take the phase from if none is given."""


class Reconstruction(Protocol):
    """Anything that makes an image from k-space.

    One that takes a ``watcher`` is watched, see :class:`ConvergenceWatcher`; ``phase_from``, where it has that, says in
    words where it takes the phase from.
    """

    def __call__(
        self, kspace: Tensor, operator: CartesianMRI, noise_std: float = 0.0, phase: Tensor | None = None
    ) -> Tensor:
        """The complex image ``(B, 1, H, W)`` of k-space ``(B, N, H, W)``."""
        ...


def can_be_watched(method: Reconstruction) -> bool:
    """Whether a method takes a ``watcher``."""
    return "watcher" in inspect.signature(method).parameters


class HalfQuadraticSplitting:
    """Alternate between the data and the posterior mean under a prior, with less and less noise σ.

    Step t takes the image x that minimises ‖A x − y‖² / s² + ‖x − v‖² / σ_t², for noise s in k-space, then
    v = E[image | x] under the prior at σ_t (Zoran & Weiss 2011; Zhang et al. 2021). The result is the last v, not x;
    where s is 0 it is v with the measured samples put back.

    The phase that the prior is given is that of the centre of k-space in the first step, and then that of x through a
    Gaussian: lines that are filled in tell more of it.

    Args:
        prior: the density.
        steps: number of σ.
        sigma_start: the first σ, where k-space is scaled so that the zero-filled 99th percentile is 1.
        sigma_end: the last; those between are a geometric sequence.
        random_offsets: shift the prior's grid of patches in every step.
        seed: of the offsets.
        phase_cycles: of that Gaussian, see :func:`smooth_phase`; None keeps the phase of the centre.

    Raises:
        ValueError: unless there is a step, ``sigma_start`` ≥ ``sigma_end`` > 0, and ``phase_cycles`` is positive.
    """

    def __init__(
        self,
        prior: ImagePrior,
        steps: int = 120,
        sigma_start: float = 0.1,
        sigma_end: float = 0.007,
        random_offsets: bool = True,
        seed: int = 0,
        phase_cycles: float | None = PHASE_CYCLES,
    ) -> None:
        if phase_cycles is not None and not phase_cycles > 0:
            raise ValueError(f"phase_cycles is {phase_cycles:g}; give a positive number, or None.")
        if steps < 1 or not sigma_start >= sigma_end > 0:
            raise ValueError(
                f"steps is {steps}, sigma_start {sigma_start:g} and sigma_end {sigma_end:g}; give at least one step "
                "and sigma_start ≥ sigma_end > 0."
            )
        self.prior = prior
        self.sigmas = noise_levels(sigma_start, sigma_end, steps)
        self.random_offsets = random_offsets
        self.seed = seed
        self.phase_cycles = phase_cycles

    @property
    def phase_from(self) -> str:
        """In words, where the phase is from if none is given."""
        if self.phase_cycles is None:
            return CENTRE_PHASE
        return f"the image of each step, through a Gaussian of {self.phase_cycles:g} cycles"

    @torch.no_grad()
    def __call__(
        self,
        kspace: Tensor,
        operator: CartesianMRI,
        noise_std: float = 0.0,
        phase: Tensor | None = None,
        watcher: Watcher | None = None,
    ) -> Tensor:
        """Reconstruct slices.

        Args:
            kspace: y, complex ``(B, N, H, W)``, divided by :func:`kspace_scale`.
            operator: A.
            noise_std: s, of the real and the imaginary part of y, each.
            phase: of the image, complex of modulus 1, ``(B, 1, H, W)``, if it is known.
            watcher: called after every step.

        Returns:
            Complex, ``(B, 1, H, W)``.

        Raises:
            DataError: if k-space does not fit the operator, holds NaN, or is in other units.
        """
        check_units(kspace, operator)
        cycles = self.phase_cycles if phase is None else None
        phase = centre_phase(kspace, operator) if phase is None else phase
        rng = numpy_rng(self.seed, "offsets")
        image = operator.adjoint(kspace)
        for step, sigma in enumerate(self.sigmas, 1):
            image = operator.nearest(image, kspace, (noise_std / sigma) ** 2)
            if cycles is not None and step > 1:
                phase = smooth_phase(image, cycles)
            offset = random_offset(rng) if self.random_offsets else (0, 0)
            denoised = self.prior.denoise(as_channels(image), sigma, phase=phase, offset=offset)
            image = as_complex(denoised)
            if watcher is not None:
                watcher(step, image)
        return image if noise_std > 0 else operator.nearest(image, kspace, 0.0, iterations=100, tolerance=1e-7)


def noise_levels(start: float, end: float, steps: int) -> list[float]:
    """A geometric sequence of σ from the first to the last."""
    return [float(sigma) for sigma in np.geomspace(start, end, steps)]


def random_offset(rng: np.random.Generator) -> tuple[int, int]:
    """(row, column) by which a prior's grid of patches is shifted."""
    row, column = rng.integers(0, OFFSETS, 2)
    return int(row), int(column)


def as_channels(image: Tensor) -> Tensor:
    """Complex images ``(B, 1, H, W)`` as real and imaginary part, ``(B, 2, H, W)``."""
    return torch.view_as_real(image[:, 0]).movedim(-1, 1)


def as_complex(channels: Tensor) -> Tensor:
    """The inverse of :func:`as_channels`."""
    return torch.view_as_complex(channels.movedim(1, -1).contiguous())[:, None]


class AnnealedLangevin:
    """Images drawn from the posterior by Langevin steps at less and less noise σ (Jalal et al. 2021).

    x ← x + α (∇ log p_σ(x) + Aᴴ(y − A x) / (s² + σ²)) + √(2α) n with α = ``step_size`` · σ². The last image is denoised
    at the last σ. Their spread is that of the model's posterior, blurred by the likelihood's approximation while σ > 0,
    and no bound on the error of a reconstruction.

    Args:
        prior: the density.
        steps: number of σ.
        steps_per_sigma: Langevin steps at each.
        sigma_start: the first σ, where k-space is scaled so that the zero-filled 99th percentile is 1.
        sigma_end: the last; those between are a geometric sequence.
        step_size: in units of σ², below 1.
        seed: of all random numbers.

    Raises:
        ValueError: naming the argument that is out of its range.
    """

    def __init__(
        self,
        prior: ImagePrior,
        steps: int = 30,
        steps_per_sigma: int = 3,
        sigma_start: float = 0.3,
        sigma_end: float = 0.01,
        step_size: float = 0.3,
        seed: int = 0,
    ) -> None:
        if steps < 1 or steps_per_sigma < 1 or not sigma_start >= sigma_end > 0 or not 0 < step_size < 1:
            raise ValueError(
                f"steps is {steps}, steps_per_sigma {steps_per_sigma}, sigma_start {sigma_start:g}, sigma_end "
                f"{sigma_end:g} and step_size {step_size:g}; give at least one step, sigma_start ≥ sigma_end > 0 and a "
                "step_size between 0 and 1."
            )
        self.prior = prior
        self.sigmas = noise_levels(sigma_start, sigma_end, steps)
        self.steps_per_sigma = steps_per_sigma
        self.step_size = step_size
        self.seed = seed

    @torch.no_grad()
    def __call__(
        self,
        kspace: Tensor,
        operator: CartesianMRI,
        noise_std: float = 0.0,
        phase: Tensor | None = None,
        samples: int = 8,
    ) -> Tensor:
        """Draw images.

        Args:
            kspace: y, complex ``(B, N, H, W)``, divided by :func:`kspace_scale`.
            operator: A.
            noise_std: s, of the real and the imaginary part of y, each.
            phase: of the image, ``(B, 1, H, W)``; by default that of the centre of k-space.
            samples: images drawn for each slice.

        Returns:
            Complex, ``(samples, B, 1, H, W)``.

        Raises:
            DataError: if k-space does not fit the operator, holds NaN, or is in other units.
        """
        check_units(kspace, operator)
        phase = centre_phase(kspace, operator) if phase is None else phase
        return torch.stack([self._sample(kspace, operator, noise_std, phase, number) for number in range(samples)])

    def _sample(self, kspace: Tensor, operator: CartesianMRI, noise_std: float, phase: Tensor, number: int) -> Tensor:
        rng, offsets = torch_rng(self.seed, "sample", number), numpy_rng(self.seed, "sample", number)
        image = operator.adjoint(kspace)
        for sigma in self.sigmas:
            step = self.step_size * sigma**2
            for _ in range(self.steps_per_sigma):
                offset = random_offset(offsets)
                score = as_complex(self.prior.grad(as_channels(image), sigma, phase=phase, offset=offset))
                fit = operator.adjoint(kspace - operator.forward(image)) / (noise_std**2 + sigma**2)
                noise = torch.randn(2, *image.shape, generator=rng).to(image.device, image.real.dtype)
                image = image + step * (score + fit) + (2 * step) ** 0.5 * torch.complex(noise[0], noise[1])
        return as_complex(self.prior.denoise(as_channels(image), self.sigmas[-1], phase=phase))
