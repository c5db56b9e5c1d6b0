"""The objective of the kernel generator."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_blurvae.functional import kernel_otf, ortho_spectrum, spectral_sum
from monai_blurvae.losses.base import ReconstructionTerm

BOUNDARIES = ("valid", "circular")


class KernelLoss(ReconstructionTerm):
    """‖x * k − x̂‖² of each image (eq. 10), over the pixels that the kernel reaches from inside the image alone.

    All channels of an image are blurred with its one kernel. The trainer detaches x̂ and the latent that k comes from:
    only the kernel generator learns from this term.

    Args:
        boundary: ``"valid"`` sums over the pixels that lie at least (kernel size − 1) / 2 from the border along each
            axis. There alone the circular convolution is the true one: a patch does not go on across its edges, and
            over all pixels, ``"circular"``, the jump at the wrap, which no decoder blurs, bends the kernels into
            crosses.
        reduction: as in :class:`~monai_blurvae.losses.base.ReconstructionTerm`.

    Raises:
        ValueError: for an unknown boundary or reduction.
    """

    uses_kernel = True

    def __init__(self, boundary: str = "valid", reduction: str = "mean") -> None:
        super().__init__(reduction)
        if boundary not in BOUNDARIES:
            raise ValueError(f"boundary must be one of {BOUNDARIES}, but is {boundary!r}.")
        self.boundary = boundary

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """The squared error, ``(B,)``."""
        assert kernel is not None
        image_size = target.shape[2:]
        blurred = ortho_spectrum(target) * kernel_otf(kernel, image_size)
        if self.boundary == "circular":  # by Parseval, without an inverse FFT
            error = blurred - ortho_spectrum(input)
            return spectral_sum(error.real.square() + error.imag.square(), image_size)
        axes = tuple(range(2, target.ndim))
        error = torch.fft.irfftn(blurred, s=image_size, dim=axes, norm="ortho") - input
        for axis, size in zip(axes, kernel.shape[2:], strict=True):
            error = error.narrow(axis, size // 2, error.shape[axis] - size + 1)
        return error.square().flatten(1).sum(1)
