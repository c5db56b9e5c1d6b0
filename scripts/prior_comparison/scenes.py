"""The scans that all methods reconstruct."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from monai_blurvae.errors import SettingsError
from monai_blurvae.priors.reconstruction.operator import (
    PERCENTILE,
    CartesianMRI,
    gaussian_line_mask,
    kspace_scale,
    percentile,
)
from monai_blurvae.priors.reconstruction.scan import (
    ROUGH,
    SMOOTH,
    simulate_coil_maps,
    simulate_kspace,
    simulate_phase,
    simulate_scan,
)
from monai_blurvae.seeding import derive_seed

PHASES = {"smooth": SMOOTH, "rough": ROUGH}
"""Cycles over the image by name."""
CENTRE_LINES = 15
"""That every mask has (Tezcan et al. 2019)."""
ANATOMY = 0.05
"""Of the 99th percentile of a volume; voxels above it are anatomy."""
LARGE = 0.5
"""Slices are taken from those with at least this share of the largest slice's anatomy."""


@dataclass(frozen=True)
class Setting:
    """What is scanned how.

    Attributes:
        acceleration: R.
        coils: their number.
        phase: one of :data:`PHASES`.
        noise_std: standard deviation of the noise's real and imaginary part, where the 99th percentile of the volume's
            magnitude is 1.
    """

    acceleration: float
    coils: int
    phase: str
    noise_std: float

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"r{self.acceleration:g}_coils{self.coils}_{self.phase}_noise{self.noise_std:g}"

    @property
    def title(self) -> str:
        """In words."""
        coils = "one coil" if self.coils == 1 else f"{self.coils} coils"
        return f"R = {self.acceleration:g}, {coils}, {self.phase} phase, noise {self.noise_std:g}"


@dataclass(frozen=True)
class Case:
    """A slice.

    Attributes:
        subject: the person.
        index: of the slice in its volume.
        magnitude: ``(1, 1, H, W)``, the 99th percentile of its volume at 1.
        largest: magnitude of the volume, the range of PSNR and SSIM, as fastMRI has it.
    """

    subject: str
    index: int
    magnitude: Tensor
    largest: float

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.subject}_{self.index:04d}"


class Scene(NamedTuple):
    """The scan of a slice, where the zero-filled 99th percentile is 1.

    Attributes:
        kspace: complex, ``(1, N, H, W)``.
        operator: of it.
        noise_std: of the real and the imaginary part, each.
        scale: of an image of this k-space, back to the magnitude's units.
    """

    kspace: Tensor
    operator: CartesianMRI
    noise_std: float
    scale: float


def find_cases(items: Sequence[dict[str, str]], slice_axis: int, slices: int, subjects: int | None) -> list[Case]:
    """Slices of the first volume of each person, evenly spaced over those with much anatomy.

    Args:
        items: with the path of a volume under ``image``, and its ``subject``.
        slice_axis: 0, 1, 2 for sagittal, coronal, axial slices.
        slices: of each person, at most.
        subjects: at most, the first; None for all.

    Raises:
        DataError: if a volume cannot be used, naming it.
    """
    first = {item["subject"]: item["image"] for item in reversed(items)}
    people = sorted(first)[:subjects]
    return [case for person in people for case in _cases_of(person, Path(first[person]), slice_axis, slices)]


def _cases_of(subject: str, path: Path, slice_axis: int, slices: int) -> list[Case]:
    volume = simulate_scan(path, 0.0, 1, SMOOTH, slice_axis, 0).reference
    assert volume is not None
    white = percentile(volume, PERCENTILE) or float(volume.max())
    volume = volume / white
    area = (volume > ANATOMY).flatten(1).sum(1)
    large = torch.nonzero(area >= LARGE * area.max()).flatten().tolist()
    places = np.unique((len(large) * (np.arange(slices) + 0.5) / slices).astype(int))
    return [Case(subject, large[i], volume[large[i]][None, None], float(volume.max())) for i in places]


def simulate(case: Case, setting: Setting, seed: int = 0) -> Scene:
    """The scan of a slice, with phase, coils, noise and mask that are functions of the slice, the setting and the seed.

    The phase does not depend on the acceleration, nor the noise of a line on which others are sampled.

    Args:
        case: the slice.
        setting: of the scan.
        seed: of all random numbers.

    Raises:
        SettingsError: if the acceleration leaves fewer lines than the centre has.
    """
    own = derive_seed(seed, case.name)
    size = (case.magnitude.shape[2], case.magnitude.shape[3])
    try:
        mask = gaussian_line_mask(size[1], setting.acceleration, CENTRE_LINES, seed=own)
    except ValueError as error:
        raise SettingsError(f"slice {case.index} of {case.subject}: {error}") from error
    operator = CartesianMRI(mask, size, simulate_coil_maps(setting.coils, size) if setting.coils > 1 else None)
    image = case.magnitude * simulate_phase(size, PHASES[setting.phase], seed=own)
    kspace = simulate_kspace(image, operator, setting.noise_std, own)
    scale = kspace_scale(kspace, operator)
    return Scene(kspace / scale, operator, setting.noise_std / scale, scale)
