"""How an iterative reconstruction converges."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from monai_blurvae.priors.reconstruction.measures import magnitude_psnr
from monai_blurvae.priors.reconstruction.operator import CartesianMRI

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
