"""Half-quadratic splitting with the denoiser of a prior."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from monai_blurvae.priors.protocol import ImagePrior
from monai_blurvae.priors.reconstruction.operator import CartesianMRI
from monai_blurvae.priors.reconstruction.phase import PHASE_CYCLES, centre_phase, smooth_phase
from monai_blurvae.priors.reconstruction.scaling import check_units
from monai_blurvae.seeding import numpy_rng

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
