"""Scans of whole volumes: raw data as scanners and fastMRI write it, or simulated from a magnitude.

A magnitude is made complex first: to reconstruct it as it is would be an inverse crime.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from monai_blurvae.data.header import VolumeReader, is_volume
from monai_blurvae.errors import DataError, SettingsError
from monai_blurvae.priors.reconstruction.operator import CartesianMRI, centred_fft, centred_ifft, gaussian_line_mask
from monai_blurvae.seeding import torch_rng

logger = logging.getLogger(__name__)

SMOOTH, ROUGH = 1.0, 4.0
"""Cycles over the image, of the phase of a spin echo or shimmed gradient echo, and of one near air and bone."""


def simulate_phase(
    image_size: tuple[int, int], cycles: float = SMOOTH, amplitude: float = 1.0, seed: int = 0, slices: int = 1
) -> Tensor:
    """exp(i φ) of a random φ whose spectrum is a Gaussian.

    Args:
        image_size: (H, W).
        cycles: standard deviation of that Gaussian, in cycles over the image.
        amplitude: standard deviation of φ in radians.
        seed: of the draw.
        slices: number of phases.

    Returns:
        Complex numbers of modulus 1, ``(slices, 1, H, W)``.
    """
    height, width = image_size
    noise = torch.randn(2, slices, 1, height, width, generator=torch_rng(seed, "phase"), dtype=torch.float64)
    row = (torch.arange(height, dtype=torch.float64) - height // 2)[:, None]
    column = (torch.arange(width, dtype=torch.float64) - width // 2)[None, :]
    spectrum = torch.exp(-(row.square() + column.square()) / (2 * cycles**2))
    field = centred_ifft(torch.complex(noise[0], noise[1]) * spectrum).real
    field = field * (amplitude / field.square().mean((-2, -1), keepdim=True).sqrt())
    return torch.polar(torch.ones_like(field), field).to(torch.complex64)


def simulate_coil_maps(coils: int, image_size: tuple[int, int]) -> Tensor:
    """Sensitivities of a ring of coils, 1 / distance with the phase of its direction, Σ|S|² = 1 in every pixel.

    The birdcage of the literature, at 1.5 times half the image's size.

    Args:
        coils: N.
        image_size: (H, W).

    Returns:
        Complex, ``(1, N, H, W)``.
    """
    height, width = image_size
    angle = 2 * math.pi * torch.arange(coils, dtype=torch.float64)[:, None, None] / coils
    row = torch.linspace(-1, 1, height, dtype=torch.float64)[:, None] - 1.5 * angle.sin()
    column = torch.linspace(-1, 1, width, dtype=torch.float64)[None, :] - 1.5 * angle.cos()
    maps = torch.polar(1 / torch.hypot(row, column), torch.atan2(column, -row) - angle)
    return (maps / maps.abs().square().sum(0).sqrt())[None].to(torch.complex64)


def simulate_kspace(image: Tensor, operator: CartesianMRI, noise_std: float, seed: int = 0) -> Tensor:
    """Samples of an image with white noise, added before lines are left out.

    Args:
        image: complex, ``(B, 1, H, W)``.
        operator: of the scan.
        noise_std: standard deviation of the noise's real and imaginary part, each.
        seed: of the noise; the same lines of two masks have the same noise.

    Returns:
        ``(B, N, H, W)``, 0 where nothing is sampled.
    """
    shape = (2, image.shape[0], operator.coils, *operator.image_size)
    noise = noise_std * torch.randn(shape, generator=torch_rng(seed, "noise")).to(image.device, image.real.dtype)
    samples = operator.forward(image)
    return samples + operator.mask.to(samples.device) * torch.complex(noise[0], noise[1])


LARGEST_OVERSHOOT = 0.25
"""In shares of the 99th percentile: what is further below 0 was not made by a resampling."""
HDF5_SUFFIXES = (".h5", ".hdf5", ".mrd")
"""Ends of the names of files with raw data."""


@dataclass(frozen=True)
class Scan:
    """The k-space of a volume, slice by slice.

    Attributes:
        source: the file.
        kspace: complex64 ``(slices, coils, H, W)``, 0 where nothing was sampled, along H without oversampling.
        lines: which lines of each slice are sampled, truth values ``(slices, W)``.
        image_size: (h, w) of the image, the middle of (H, W).
        affine: of the volume that comes out, to RAS millimetres.
        reference: magnitude ``(slices, h, w)`` without noise, where it is known.
        coil_maps: complex ``(slices or 1, coils, H, W)``, where they are known.
        noise_std: of real and imaginary part, in the units of k-space, where it is known.
        orientation: nibabel's, from (row, column, slice) to the axes of the file that the image goes back to.
    """

    source: str
    kspace: Tensor
    lines: Tensor
    image_size: tuple[int, int]
    affine: npt.NDArray[np.float64]
    reference: Tensor | None = None
    coil_maps: Tensor | None = None
    noise_std: float | None = None
    orientation: Any = field(default=None, compare=False)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of k-space."""
        return (self.kspace.shape[-2], self.kspace.shape[-1])

    @property
    def fully_sampled(self) -> bool:
        """Whether no line was left out of any slice."""
        return bool(self.lines.all())

    def operator(self, index: int, coil_maps: Tensor | None = None) -> CartesianMRI:
        """The operator of one slice.

        Args:
            index: of the slice.
            coil_maps: for scans that do not know theirs.
        """
        if coil_maps is None and self.coil_maps is not None:
            coil_maps = self.coil_maps[index if len(self.coil_maps) > 1 else 0][None]
        return CartesianMRI(self.lines[index].float(), self.size, coil_maps)

    def undersampled(self, lines: Tensor) -> Scan:
        """The scan with fewer lines; the reference of measured data is the root sum of squares of its coils.

        Args:
            lines: truth values or 0 and 1, ``(W,)``.

        Raises:
            DataError: if the scan has left out lines already.
        """
        if not self.fully_sampled:
            raise DataError(f"{self.source} has left out lines already; set acceleration to null.")
        kept = lines.bool().expand(self.lines.shape)
        reference = self.reference
        if reference is None:
            reference = self.crop(centred_ifft(self.kspace).abs().square().sum(1).sqrt())
        return replace(self, kspace=self.kspace * kept[:, None, None, :], lines=kept, reference=reference)

    def crop(self, image: Tensor) -> Tensor:
        """The middle of images ``(..., H, W)``."""
        rows, columns = (middle(size, wanted) for size, wanted in zip(image.shape[-2:], self.image_size, strict=True))
        return image[..., rows, columns]

    def volume(self, slices: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """Images ``(slices, h, w)`` as a volume in the axes of the file, and its affine."""
        array = np.moveaxis(slices, 0, -1)
        if self.orientation is None:
            return array, self.affine
        permutation, ornt = self.orientation
        return nib.orientations.apply_orientation(array.transpose(permutation), ornt), self.affine


def read_scan(
    path: str | Path,
    acceleration: float | None = None,
    centre_lines: int = 15,
    seed: int = 0,
    noise_std: float | None = 0.01,
    coils: int = 1,
    phase_cycles: float = SMOOTH,
    slice_axis: int = 1,
) -> Scan:
    """Read fastMRI's or ISMRMRD's HDF5, or make a scan of a magnitude volume.

    Args:
        path: ``.h5`` or ``.mrd``, or a volume of one of :data:`~monai_blurvae.data.VOLUME_SUFFIXES`.
        acceleration: R of the lines that are kept, see :func:`gaussian_line_mask`; None keeps all that are there.
        centre_lines: lines that are always kept.
        seed: of the lines, and of the phase and noise of a simulation.
        noise_std: of a simulation, where the magnitude's 99th percentile is 1.
        coils: of a simulation.
        phase_cycles: of a simulation, see :func:`simulate_phase`.
        slice_axis: of a simulation: 0, 1, 2 are sagittal, coronal, axial slices.

    Raises:
        DataError: naming the file, if it cannot be used.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist; give HDF5 files with k-space, or volumes.")
    if path.name.lower().endswith(HDF5_SUFFIXES):
        from monai_blurvae.priors.reconstruction.raw_data import read_raw_data

        scan = read_raw_data(path)
    elif is_volume(path):
        scan = simulate_scan(path, noise_std or 0.0, coils, phase_cycles, slice_axis, seed)
    else:
        raise DataError(f"{path} is neither HDF5 ({', '.join(HDF5_SUFFIXES)}) nor a volume; convert it.")
    if acceleration is None:
        return scan
    try:
        lines = gaussian_line_mask(scan.kspace.shape[-1], float(acceleration), centre_lines, seed=seed)
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from error
    return scan.undersampled(lines)


def _without_overshoot(path: Path, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """0 in place of what splines leave below 0 beside bright edges; other negative numbers stay."""
    low, high = float(values.min()), float(np.percentile(values, 99))
    if not -LARGEST_OVERSHOOT * high <= low < 0:
        return values
    logger.warning(f"{path} holds values down to {low:g}, as resampling leaves them beside bright edges: 0 is taken.")
    return np.maximum(values, 0)


def simulate_scan(path: Path, noise_std: float, coils: int, phase_cycles: float, slice_axis: int, seed: int) -> Scan:
    """A fully sampled scan of a magnitude volume: a smooth phase, coils and noise are added.

    Args:
        path: of the volume.
        noise_std: where the magnitude's 99th percentile is 1.
        coils: their number.
        phase_cycles: see :func:`simulate_phase`.
        slice_axis: 0, 1, 2 are sagittal, coronal, axial slices.
        seed: of phase and noise.

    Raises:
        DataError: if the volume cannot be read, or holds infinite or negative numbers (but for the overshoot of a
            resampling, which becomes 0), or nothing.
    """
    reader = VolumeReader()
    array, meta = reader.get_data(reader.read(str(path)))
    values = np.nan_to_num(np.asarray(array, np.float32), posinf=np.inf, neginf=-np.inf)
    values = _without_overshoot(path, values)
    if not np.isfinite(values).all() or values.min() < 0 or not values.any():
        raise DataError(
            f"{path} holds values from {values.min():g} to {values.max():g}, where the magnitudes of an MR image, "
            "finite and not negative, are expected; take the image as it was reconstructed."
        )
    affine = np.asarray(meta["affine"], np.float64)
    ornt = nib.orientations.io_orientation(affine)
    ras = nib.orientations.apply_orientation(values, ornt)
    permutation = [axis for axis in range(3) if axis != slice_axis]
    slices = torch.from_numpy(np.ascontiguousarray(ras.transpose(slice_axis, *permutation)))
    size = (slices.shape[1], slices.shape[2])
    scale = float(np.percentile(values, 99)) or float(values.max())
    operator = CartesianMRI(torch.ones(size[1]), size, simulate_coil_maps(coils, size) if coils > 1 else None)
    phase = simulate_phase(size, phase_cycles, seed=seed, slices=len(slices))
    kspace = simulate_kspace(slices[:, None] * phase, operator, noise_std * scale, seed)
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), ornt)
    return Scan(
        source=str(path),
        kspace=kspace,
        lines=torch.ones(len(slices), size[1], dtype=torch.bool),
        image_size=size,
        affine=affine,
        reference=slices,
        coil_maps=operator.coil_maps,
        noise_std=noise_std * scale,
        orientation=(np.argsort([*permutation, slice_axis]), back),
    )


def without_oversampling(kspace: Tensor, samples: int) -> Tensor:
    """k-space whose field of view along the readout, H, is cropped to the middle; noise keeps its level.

    Args:
        kspace: ``(..., H, W)``.
        samples: that are left of H.
    """
    images = centred_ifft(kspace)
    return centred_fft(images[..., middle(kspace.shape[-2], samples), :])


def middle(size: int, wanted: int) -> slice:
    """The entries around n // 2, the centre, which stays it."""
    first = size // 2 - wanted // 2
    return slice(first, first + wanted)
