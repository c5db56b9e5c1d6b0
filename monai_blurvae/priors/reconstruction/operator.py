"""From an image to the k-space that a Cartesian scan samples: mask, coils and operator, its scale and its noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from monai_blurvae.errors import DataError, SettingsError
from monai_blurvae.seeding import numpy_rng


def gaussian_line_mask(
    lines: int, acceleration: float, centre_lines: int = 15, density_std: float = 1 / 6, seed: int = 0
) -> Tensor:
    """A 1-D Cartesian mask whose line density is the Gaussian of Tezcan et al. 2019.

    Args:
        lines: of full k-space.
        acceleration: R; round(lines / R) lines are sampled.
        centre_lines: lines around the centre, index ``lines // 2``, that are always sampled.
        density_std: standard deviation of the density as a share of ``lines``.
        seed: of the draw.

    Returns:
        ``(lines,)`` of 0 and 1.

    Raises:
        ValueError: if the centre alone has more lines than there are to sample.

    Example:
        >>> int(gaussian_line_mask(128, 4).sum())
        32
    """
    count = round(lines / acceleration)
    if acceleration < 1 or count < max(centre_lines, 1):
        raise ValueError(
            f"acceleration {acceleration:g} leaves {count} of {lines} lines, which is less than {centre_lines} "
            "centre_lines; take a smaller acceleration, at least 1, or fewer centre_lines."
        )
    mask = torch.zeros(lines)
    start = lines // 2 - centre_lines // 2
    mask[start : start + centre_lines] = 1
    distance = (torch.arange(lines, dtype=torch.float64) - lines // 2) / (density_std * lines)
    density = (torch.exp(-0.5 * distance.square()) + 1e-6) * (mask == 0)  # the rim can be drawn, too
    if count > centre_lines:
        rng = numpy_rng(seed, "line mask")
        drawn = rng.choice(lines, count - centre_lines, replace=False, p=(density / density.sum()).numpy())
        mask[torch.as_tensor(drawn)] = 1
    return mask


def check_mask(mask: Tensor, image_size: tuple[int, int]) -> Tensor:
    """A mask as ``(B or 1, 1, H, W)``, also one in the shape that MONAI's mask transforms give it.

    Args:
        mask: numbers 0 and 1, or truth values; ``(W,)`` for whole lines, ``(H, W)``, ``(B, 1, H, W)``, or lines with
            further axes of length 1 around them.
        image_size: (H, W).

    Raises:
        DataError: if it has another size, samples nothing, or holds other numbers.
    """
    height, width = image_size
    given = torch.as_tensor(mask)
    flat = given.squeeze()
    if flat.ndim == 0:
        flat = flat[None]
    if flat.ndim == 1 and len(flat) == width:
        shaped = flat.expand(1, 1, height, width)
    elif tuple(flat.shape) == (height, width):
        shaped = flat[None, None]
    elif given.ndim == 4 and given.shape[1] == 1 and given.shape[-1] == width and given.shape[-2] in (1, height):
        shaped = given.expand(given.shape[0], 1, height, width)
    else:
        raise DataError(
            f"the mask has shape {tuple(given.shape)}, but k-space has {height}×{width} samples; give {width} numbers, "
            f"one for each line, or ({height}, {width})."
        )
    values = shaped.float()
    if not ((values == 0) | (values == 1)).all():
        raise DataError("the mask holds numbers other than 0 and 1, as where a line is counted twice; give 0 and 1.")
    if not values.flatten(1).any(1).all():
        raise DataError("the mask samples no line at all; it may be of another scan.")
    return values


def centre_line_count(mask: Tensor) -> int:
    """How many neighbouring lines around the centre are sampled over their whole length.

    Args:
        mask: ``(B, 1, H, W)``.
    """
    full = mask.flatten(0, 2).bool().all(0)
    middle = len(full) // 2
    if not full[middle]:
        return 0
    left = next((k for k in range(1, middle + 1) if not full[middle - k]), middle + 1)
    right = next((k for k in range(1, len(full) - middle) if not full[middle + k]), len(full) - middle)
    return left + right - 1


AXES = (-2, -1)


def centred_fft(image: Tensor) -> Tensor:
    """k-space of images, both with their centre at index n // 2, unitary (fastMRI's and deepinv's convention)."""
    shifted = torch.fft.ifftshift(image, dim=AXES)
    return torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=AXES)


def centred_ifft(kspace: Tensor) -> Tensor:
    """The inverse of :func:`centred_fft`."""
    shifted = torch.fft.ifftshift(kspace, dim=AXES)
    return torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=AXES)


class CartesianMRI:
    """The Cartesian multi-coil operator A = M F S: coil sensitivities, unitary centred DFT, sampling mask.

    Images are complex ``(B, 1, H, W)``, k-space is complex ``(B, N, H, W)`` for N coils.

    Args:
        mask: of 0 and 1: ``(W,)`` where whole lines along H are sampled, ``(H, W)``, or ``(B, 1, H, W)``.
        image_size: (H, W).
        coil_maps: sensitivities, complex ``(N, H, W)`` or ``(B, N, H, W)``; None for one coil that sees all alike.

    Raises:
        DataError: if the mask or the maps have another size, the mask samples nothing or holds other numbers, or the
            maps hold NaN.

    Example:
        >>> operator = CartesianMRI(torch.tensor([0, 1, 1, 0]), (6, 4))
        >>> operator.forward(torch.ones(1, 1, 6, 4, dtype=torch.complex64)).shape
        torch.Size([1, 1, 6, 4])
    """

    def __init__(self, mask: Tensor, image_size: tuple[int, int], coil_maps: Tensor | None = None) -> None:
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.mask = check_mask(mask, self.image_size)
        self._whole_lines = bool((self.mask == self.mask[:, :, :1]).all())
        self.coil_maps = None if coil_maps is None else _check_maps(coil_maps, self.image_size)

    @property
    def coils(self) -> int:
        """Number of coils."""
        return 1 if self.coil_maps is None else self.coil_maps.shape[1]

    def forward(self, image: Tensor) -> Tensor:
        """A x: the samples, 0 where there are none."""
        return self._mask_like(image) * centred_fft(image if self.coil_maps is None else self.coil_maps * image)

    def adjoint(self, kspace: Tensor) -> Tensor:
        """Aᴴ y: the zero-filled image, of many coils each weighted by its sensitivity."""
        images = centred_ifft(self._mask_like(kspace) * kspace)
        return images if self.coil_maps is None else (self.coil_maps.conj() * images).sum(1, keepdim=True)

    def normal(self, image: Tensor) -> Tensor:
        """Aᴴ A x.

        Each coil's image is convolved on the torus, for which nothing has to be shifted to a centre; where whole lines
        are sampled, along W alone.
        """
        axes = AXES[1:] if self._whole_lines else AXES
        mask = torch.fft.ifftshift(self._mask_like(image), dim=AXES)
        images = image if self.coil_maps is None else self.coil_maps * image
        images = torch.fft.ifftn(mask * torch.fft.fftn(images, dim=axes), dim=axes)
        return images if self.coil_maps is None else (self.coil_maps.conj() * images).sum(1, keepdim=True)

    def to(self, device: torch.device | str) -> CartesianMRI:
        """The operator with its mask and maps on a device."""
        maps = None if self.coil_maps is None else self.coil_maps.to(device)
        return CartesianMRI(self.mask.to(device), self.image_size, maps)

    def with_phase(self, phase: Tensor) -> CartesianMRI:
        """The operator x ↦ A (phase · x), for images whose phase has been taken out.

        Args:
            phase: complex numbers of modulus 1, ``(B, 1, H, W)``.
        """
        maps = phase if self.coil_maps is None else self.coil_maps * phase
        return CartesianMRI(self.mask, self.image_size, maps)

    def nearest(
        self, image: Tensor, kspace: Tensor, weight: float, iterations: int = 30, tolerance: float = 1e-6
    ) -> Tensor:
        """The image that minimises ‖A x − y‖² + weight · ‖x − image‖², the data step of every splitting.

        With weight 0 it is the nearest of the images that fit best. One coil has the closed form
        x + Aᴴ(y − A x) / (1 + weight); many take conjugate gradients on (AᴴA + weight) d = Aᴴ(y − A x).

        Args:
            image: ``(B, 1, H, W)``.
            kspace: y, ``(B, N, H, W)``.
            weight: for noise s in y and a prior N(image, σ²) it is s²/σ².
            iterations: of the conjugate gradients, at most.
            tolerance: of their residual, relative to the right-hand side.
        """
        residual = self.adjoint(kspace - self.forward(image))
        if self.coil_maps is None:
            return image + residual / (1 + weight)
        return image + conjugate_gradients(lambda d: self.normal(d) + weight * d, residual, iterations, tolerance)

    def check_kspace(self, kspace: Tensor) -> None:
        """Refuse k-space that does not fit.

        Raises:
            DataError: if it is no ``(B, N, H, W)`` of complex numbers, holds NaN, or none of the sampled ones is
                other than 0.
        """
        if kspace.ndim != 4 or not kspace.is_complex():
            raise DataError(
                f"k-space is {kspace.dtype} of shape {tuple(kspace.shape)}, where complex (B, coils, H, W) is "
                "expected; reconstruct a volume slice by slice, each slice as one of a batch."
            )
        if tuple(kspace.shape[-2:]) != self.image_size:
            raise DataError(
                f"k-space has {kspace.shape[-2]}×{kspace.shape[-1]} samples, but the mask is for "
                f"{self.image_size[0]}×{self.image_size[1]}; give both the same size."
            )
        if kspace.shape[1] != self.coils:
            raise DataError(
                f"k-space has {kspace.shape[1]} coils, but there are coil maps for {self.coils}; "
                "give one map for each coil."
            )
        finite = torch.isfinite(torch.view_as_real(kspace)).all(-1)
        if not finite.all():
            count = int((~finite).sum())
            raise DataError(f"k-space holds {count} NaN or infinite samples; repair or leave out the scan.")
        if not (self._mask_like(kspace) * kspace).any():
            raise DataError("all samples of k-space that the mask has are 0; the mask may be of another scan.")

    def _mask_like(self, tensor: Tensor) -> Tensor:
        return self.mask.to(device=tensor.device, dtype=tensor.real.dtype)


def _check_maps(maps: Tensor, image_size: tuple[int, int]) -> Tensor:
    if maps.ndim not in (3, 4) or not maps.is_complex() or tuple(maps.shape[-2:]) != image_size:
        raise DataError(
            f"the coil maps are {maps.dtype} of shape {tuple(maps.shape)}, where complex (coils, {image_size[0]}, "
            f"{image_size[1]}) is expected; give the maps of this scan."
        )
    if not torch.isfinite(torch.view_as_real(maps)).all():
        raise DataError("the coil maps hold NaN or infinite numbers; estimate them again.")
    return maps if maps.ndim == 4 else maps[None]


def conjugate_gradients(apply: Callable[[Tensor], Tensor], right: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Solve ``apply(x) = right`` for a symmetric positive map, each image of the batch by itself.

    Args:
        apply: the map.
        right: real or complex, ``(B, 1, H, W)``.
        iterations: at most.
        tolerance: of the residual's norm, relative to that of ``right``.
    """
    solution, residual = torch.zeros_like(right), right
    direction, power = residual, _power(residual)
    enough = tolerance**2 * power
    for _ in range(iterations):
        if (power <= enough).all():
            break
        image = apply(direction)
        # of images of the batch that are solved already, nothing is divided by zero
        step = power / (direction.conj() * image).real.sum((1, 2, 3), keepdim=True).clamp_min(1e-38)
        solution = solution + step * direction
        residual = residual - step * image
        before, power = power, _power(residual)
        direction = residual + power / before.clamp_min(1e-38) * direction
    return solution


def _power(image: Tensor) -> Tensor:
    return image.abs().square().sum((1, 2, 3), keepdim=True)


PERCENTILE = 99
"""Of the zero-filled magnitude, that is 1 in the units of the reconstructions (Tezcan et al. 2019)."""

PLAUSIBLE = (1e-3, 5.0)
"""Where that percentile lies in k-space that has been scaled, also of a slice with next to nothing in it."""

OUTER = 0.1
"""The noise is measured in this share of the samples, those farthest from the centre."""


def kspace_scale(kspace: Tensor, operator: CartesianMRI) -> float:
    """The 99th percentile of the zero-filled magnitude over all slices of a batch; k-space is to be divided by it.

    Args:
        kspace: ``(B, N, H, W)``.
        operator: of this k-space.

    Raises:
        DataError: if k-space does not fit, or the percentile is 0.
    """
    operator.check_kspace(kspace)
    scale = percentile(operator.adjoint(kspace).abs(), PERCENTILE)
    if not scale > 0:
        raise DataError("the zero-filled image is 0 nearly everywhere; the scan may be empty.")
    return scale


def percentile(values: Tensor, q: float) -> float:
    """The q-th percentile of all values, by NumPy's rule; torch's own takes 16 million at most."""
    ordered = values.flatten().sort().values.double()
    place = q / 100 * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))


def check_units(kspace: Tensor, operator: CartesianMRI) -> None:
    """Refuse k-space that is not in the units of the prior.

    Raises:
        DataError: with what was found.
    """
    found = kspace_scale(kspace, operator)
    if not PLAUSIBLE[0] <= found <= PLAUSIBLE[1]:
        raise DataError(
            f"k-space is in other units: the {PERCENTILE}th percentile of its zero-filled magnitude is {found:.3g}, "
            "where about 1 is expected; divide it by kspace_scale."
        )


def estimate_noise_std(kspace: Tensor, operator: CartesianMRI) -> float:
    """The noise of a scan, from the median power of its outer samples, where an image has next to nothing.

    Args:
        kspace: ``(B, N, H, W)``.
        operator: of this k-space.

    Returns:
        Standard deviation of the real and of the imaginary part, each.

    Raises:
        DataError: if no sample is common to all slices.
    """
    height, width = operator.image_size
    row = torch.linspace(-1, 1, height)[:, None]
    column = torch.linspace(-1, 1, width)[None, :]
    sampled = operator.mask.bool().all(0)[0]
    if not sampled.any():
        raise DataError("no sample is common to all slices, from which the noise could be measured; give noise_std.")
    radius = torch.where(sampled, torch.hypot(row, column), -1)
    count = max(1, round(OUTER * int(sampled.sum())))
    outer = radius.flatten().topk(count).indices.to(kspace.device)
    samples = kspace.abs().flatten(-2)[..., outer]
    # |k|² / 2s² is exponential, with median ln 2
    return float((samples.double().square().median() / (2 * math.log(2))).sqrt())


CALIBRATION = 24
"""Width of the square in the centre of k-space that the maps are taken from, if so many lines are sampled there."""
SMALLEST_CALIBRATION = 8


def estimate_coil_maps(kspace: Tensor, mask: Tensor, crop: float = 0.0) -> Tensor:
    """ESPIRiT maps (Uecker et al. 2014) from the sampled centre, by sigpy, of the extra ``recon``.

    Args:
        kspace: ``(B, N, H, W)`` with N > 1.
        mask: of the operator, or lines ``(W,)``.
        crop: pixels whose first eigenvalue is below it get maps of 0: 0.95 leaves the object alone.

    Returns:
        Complex, ``(B, N, H, W)``, Σ|S|² = 1 where they are not 0; the first coil's are real, so that its phase is the
        image's.

    Raises:
        DataError: if k-space does not fit the mask, or too few lines around its centre are sampled.
        SettingsError: where sigpy is not installed.
    """
    operator = CartesianMRI(
        mask, (kspace.shape[-2], kspace.shape[-1]), torch.ones(kspace.shape[1:], dtype=torch.complex64)
    )
    operator.check_kspace(kspace)
    lines = min(CALIBRATION, centre_line_count(operator.mask))
    if lines < SMALLEST_CALIBRATION:
        raise DataError(
            f"{lines} neighbouring lines around the centre of k-space are sampled, where at least "
            f"{SMALLEST_CALIBRATION} are needed to estimate coil maps; give the maps."
        )
    try:
        from sigpy.mri.app import EspiritCalib
    except ImportError as error:
        raise SettingsError(
            "coil maps are estimated by sigpy, which is not installed; run pip install 'monai-blurvae[recon]', or give "
            "the maps."
        ) from error
    sampled = (operator.mask.to(kspace.device) * kspace).cpu().numpy()
    maps = [EspiritCalib(one, calib_width=lines, crop=crop, show_pbar=False).run() for one in sampled]
    return torch.from_numpy(np.stack(maps)).to(kspace.device, kspace.dtype)
