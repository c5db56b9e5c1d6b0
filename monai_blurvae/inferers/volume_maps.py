"""A volume from its overlapping patches, with what the network says of each patch beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from monai.inferers import SliceInferer, SlidingWindowInferer
from monai.inferers.utils import sliding_window_inference
from torch import Tensor

from monai_blurvae.functional.spectral import kernel_width

Predictor = Callable[..., Tensor]
"""Of patches and their places, as MONAI's sliding window calls it."""


class PatchNetwork(Protocol):
    """What is asked of a network; :class:`~monai_blurvae.networks.BlurVAEReconstructor` is one."""

    def encode(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        """Mean and log σ² of q(z|x), ``(B, latent_size)`` each."""

    def decode(self, z: Tensor, /) -> Tensor:
        """Mean of p(x|z), ``(B, 1, *patch_size)``."""

    def kernel(self, z: Tensor, /) -> Tensor:
        """Blur kernels ``(B, 1, *kernel_size)``."""


class PatchLatents(NamedTuple):
    """The posterior of each patch.

    Attributes:
        mu: means, ``(N, latent_size)``.
        log_var: log σ², likewise.
        position: slice, row and column, or of cubes x, y and z, of each patch's first voxel in the prepared volume,
            ``(N, 3)``; they are negative where a slice or volume is smaller than a patch and was padded.
    """

    mu: Tensor
    log_var: Tensor
    position: Tensor


class VolumeMaps(NamedTuple):
    """What a network makes of a volume.

    Attributes:
        reconstruction: decoder means of the posterior means, ``(X, Y, Z)``, in the intensities of the network.
        blur_width: RMS radius of the predicted kernels in mm, likewise; None where it was not asked for.
        latents: of all patches.
    """

    reconstruction: Tensor
    blur_width: Tensor | None
    latents: PatchLatents


class SliceMapsInferer(SliceInferer):
    """MONAI's ``SliceInferer``, which can also tell what else a network says of the patches that it blends.

    Called, it is MONAI's. :meth:`maps` goes through the slices one by one, so that beside the volumes no more than the
    patches of a slice are in memory. Patches of background alone are decoded once.

    Args:
        spatial_dim: 0, 1 or 2 for sagittal, coronal or axial slices of a volume in RAS order.
        args: of ``SliceInferer``.
        kwargs: of ``SliceInferer``: ``roi_size``, ``sw_batch_size``, ``overlap``, ``mode``, ``padding_mode``, ``cval``.

    Example:
        >>> SliceMapsInferer(spatial_dim=2, roi_size=[64, 64], overlap=0.5, mode="gaussian").spatial_dim
        2
    """

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Of the patches, (rows, columns)."""
        return tuple(self.orig_roi_size)

    def steps(self, shape: Sequence[int]) -> int:
        """How many slices a volume ``(X, Y, Z)`` has."""
        return shape[self.spatial_dim]

    @torch.no_grad()
    def maps(
        self,
        volume: Tensor,
        network: PatchNetwork,
        device: str | torch.device = "cpu",
        spacing: Sequence[float] | None = None,
        progress: Callable[[], object] = lambda: None,
    ) -> VolumeMaps:
        """Reconstruct a volume.

        Args:
            volume: ``(X, Y, Z)`` in RAS order, scaled as in the training.
            network: in evaluation mode.
            device: that the network is on.
            spacing: (row, column) of a voxel in mm, with which blur widths are told; None for none.
            progress: called after each of the :meth:`steps`.

        Raises:
            ValueError: if the network does not take the patches.
        """
        predictor = _Predictor(network, self.cval, spacing)
        slices = volume.movedim(self.spatial_dim, 0)
        reconstruction = torch.empty_like(slices, memory_format=torch.contiguous_format)
        width = None if spacing is None else torch.empty_like(reconstruction)
        for index, image in enumerate(slices):
            padding = _padding(self.patch_size, image.shape)
            found = self._blended(image[None, None].to(device), predictor.of([index], padding))
            reconstruction[index] = found[0, 0]
            if width is not None:
                width[index] = found[0, 1]
            progress()
        back = (None if width is None else width.movedim(0, self.spatial_dim)), predictor.latents()
        return VolumeMaps(reconstruction.movedim(0, self.spatial_dim), *back)

    def _blended(self, image: Tensor, predictor: Predictor) -> Tensor:
        return _blended(self, self.patch_size, image, predictor)


class CubeMapsInferer(SlidingWindowInferer):
    """MONAI's ``SlidingWindowInferer`` of cubes, which can also tell what else a network says of them.

    Called, it is MONAI's. It holds the volume, and where blur widths are told these too, with the weights of the cubes
    in float32. Cubes of background alone are decoded once.

    Args:
        args: of ``SlidingWindowInferer``.
        kwargs: of it: ``roi_size``, ``sw_batch_size``, ``overlap``, ``mode``, ``padding_mode``, ``cval``.

    Example:
        >>> CubeMapsInferer([64, 64, 64], overlap=0.5, mode="gaussian").steps((96, 64, 160))
        8
    """

    spatial_dim = None
    """It has no slices."""

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Of the cubes, (x, y, z)."""
        return tuple(self.roi_size)

    def steps(self, shape: Sequence[int]) -> int:
        """How many cubes cover a volume ``(X, Y, Z)``."""
        strides = [max(1, int(roi * (1 - self.overlap))) for roi in self.roi_size]
        places = zip(shape, self.roi_size, strides, strict=True)
        return math.prod(math.ceil(max(n - roi, 0) / stride) + 1 for n, roi, stride in places)

    @torch.no_grad()
    def maps(
        self,
        volume: Tensor,
        network: PatchNetwork,
        device: str | torch.device = "cpu",
        spacing: Sequence[float] | None = None,
        progress: Callable[[], object] = lambda: None,
    ) -> VolumeMaps:
        """Reconstruct a volume.

        Args:
            volume: ``(X, Y, Z)`` in RAS order, scaled as in the training.
            network: in evaluation mode.
            device: that the network is on.
            spacing: (x, y, z) of a voxel in mm, with which blur widths are told; None for none.
            progress: called after each of the :meth:`steps`.

        Raises:
            ValueError: if the network does not take the cubes.
        """
        predictor = _Predictor(network, self.cval, spacing, progress)
        place = predictor.of([], _padding(self.patch_size, volume.shape))
        maps = _blended(self, self.patch_size, volume[None, None].to(device), place)[0]
        return VolumeMaps(maps[0], None if spacing is None else maps[1], predictor.latents())


def _blended(inferer: SlidingWindowInferer, roi_size: Sequence[int], image: Tensor, predictor: Predictor) -> Tensor:
    """What is predicted of the patches of an image ``(1, 1, *image_size)``, with an inferer's settings, on the CPU."""
    blended = sliding_window_inference(
        image,
        roi_size,
        inferer.sw_batch_size,
        predictor,
        overlap=inferer.overlap,
        mode=inferer.mode,
        sigma_scale=inferer.sigma_scale,
        padding_mode=inferer.padding_mode,
        cval=inferer.cval,
        with_coord=True,
    )
    assert isinstance(blended, Tensor)
    return blended.cpu()


def _padding(roi_size: Sequence[int], size: Sequence[int]) -> list[int]:
    """What is put before the axes that are shorter than a patch."""
    return [max(roi - n, 0) // 2 for roi, n in zip(roi_size, size, strict=True)]


class _Predictor:
    """Patches to what is blended, the reconstruction and, as a second channel, the width; keeps the latents."""

    def __init__(
        self,
        network: PatchNetwork,
        background: float,
        spacing: Sequence[float] | None,
        progress: Callable[[], object] = lambda: None,
    ) -> None:
        self.network = network
        self.background = background
        self.spacing = spacing
        self.progress = progress
        self._blank: tuple[Tensor, Tensor, Tensor] | None = None
        self._found: list[tuple[Tensor, Tensor]] = []
        self._positions: list[list[int]] = []

    def of(self, at: list[int], padding: Sequence[int]) -> Predictor:
        """The predictor of one slice, whose place stands in ``at``, or of a volume."""

        def predict(patches: Tensor, coordinates: Sequence[Sequence[slice]]) -> Tensor:
            starts = ([place.start for place in patch[2:]] for patch in coordinates)
            self._positions += [[*at, *(s - p for s, p in zip(start, padding, strict=True))] for start in starts]
            images, mu, log_var = self._predict(patches)
            self._found.append((mu.cpu(), log_var.cpu()))
            for _ in coordinates:
                self.progress()
            return images

        return predict

    def latents(self) -> PatchLatents:
        """Of all patches so far."""
        mu, log_var = (torch.cat(parts) for parts in zip(*self._found, strict=True))
        return PatchLatents(mu, log_var, torch.tensor(self._positions))

    def _predict(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        blank = (patches == self.background).flatten(1).all(1)
        if not bool(blank.any()):
            return self._evaluate(patches)
        if self._blank is None:
            self._blank = self._evaluate(patches[blank][:1])
        made = tuple(part.repeat(len(patches), *[1] * (part.dim() - 1)) for part in self._blank)
        if not bool(blank.all()):
            for part, new in zip(made, self._evaluate(patches[~blank]), strict=True):
                part[~blank] = new
        return made[0], made[1], made[2]

    def _evaluate(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_var = self.network.encode(patches)
        images = self.network.decode(mu)
        if self.spacing is not None:
            width = kernel_width(self.network.kernel(mu), self.spacing).to(images)
            images = torch.cat([images, width.view(-1, *[1] * (images.dim() - 1)).expand_as(images)], 1)
        return images, mu, log_var
