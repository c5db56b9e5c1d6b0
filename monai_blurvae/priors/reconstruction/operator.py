"""From an image to the k-space that a Cartesian scan samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from monai_blurvae.errors import DataError
from monai_blurvae.priors.reconstruction.masks import check_mask

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
