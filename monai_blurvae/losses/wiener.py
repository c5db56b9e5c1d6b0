"""The paper's two objectives: errors weighted by the Wiener inverse of the blur kernel, and that of its generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monai_blurvae.functional import (
    epsilon_half_log_det,
    gaussian_log_normalizer,
    half_log_det,
    kernel_otf,
    ortho_spectrum,
    spectral_sum,
    weighted_spectral_sum,
    wiener_weight,
)
from monai_blurvae.losses.base import ReconstructionTerm

WEIGHTINGS = ("wiener", "bounded_inverse", "flat")


class WienerLoss(ReconstructionTerm):
    """½ Σ_j |W_j|² |X_j − X̂_j|² of each image, the quadratic form of a Gaussian with Σ⁻¹ = WᵀW (eq. 7 and 8).

    The channels of an image share its kernel and are independent: the sum runs over them too, and ½ log|Σ| is n_c times
    that of one channel.

    Args:
        c: the Wiener constant C > 0.
        weighting: ``"wiener"`` or ``"bounded_inverse"``, see :func:`~monai_blurvae.functional.wiener_weight`, or
            ``"flat"``: the squared error times the mean of the Wiener weight's square over the frequencies, which
            tells the size of the weights from their shape.
        detach_weight: whether W is a constant of the gradient. Without the determinant in the objective it has to be:
            otherwise the easiest way to a lower loss is a kernel with small weights.
        reduction: as in :class:`~monai_blurvae.losses.ReconstructionTerm`.

    Raises:
        ValueError: if ``c`` is not positive, or for an unknown weighting or reduction.
    """

    uses_kernel = True
    is_likelihood = True

    def __init__(
        self, c: float = 0.025, weighting: str = "wiener", detach_weight: bool = True, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {WEIGHTINGS}, but is {weighting!r}.")
        self.c = c
        self.weighting = weighting
        self.detach_weight = detach_weight
        self._weight_of(torch.ones(1, 1, 1, 1, dtype=torch.complex64), (1, 1))

    def weight(self, target: Tensor, kernel: Tensor) -> Tensor:
        """|W| of each image as a half spectrum ``(B, 1, *half)``, detached when ``detach_weight`` says so."""
        weight = self._weight_of(kernel_otf(kernel, target.shape[2:]), target.shape[2:])
        return weight.detach() if self.detach_weight else weight

    def _weight_of(self, otf: Tensor, image_size: tuple[int, ...]) -> Tensor:
        if self.weighting != "flat":
            return wiener_weight(otf, self.c, self.weighting)
        square = wiener_weight(otf, self.c).square()
        mean = spectral_sum(square, image_size) / math.prod(image_size)
        return mean.sqrt().view(-1, *[1] * (otf.ndim - 1)).expand_as(square)

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """½ Σ_j |W_j|² |X_j − X̂_j|², ``(B,)``."""
        assert kernel is not None
        return 0.5 * weighted_spectral_sum(target - input, self.weight(target, kernel))

    def half_log_det(self, target: Tensor, kernel: Tensor, epsilon: float | None = None) -> Tensor:
        """½ log|Σ| of each image, ``(B,)``, in nats.

        Args:
            target: images, whose size and channels alone count.
            kernel: blur kernels, ``(B, 1, *kernel_size)``; they have a gradient whatever ``detach_weight`` says.
            epsilon: ε of :func:`~monai_blurvae.functional.epsilon_half_log_det`; None for the exact determinant.
        """
        image_size, channels = target.shape[2:], target.shape[1]
        otf = kernel_otf(kernel, image_size)
        if epsilon is not None:
            return epsilon_half_log_det(otf, image_size, epsilon, channels)
        return half_log_det(self._weight_of(otf, image_size), image_size, channels)

    def log_prob(self, input: Tensor, target: Tensor, kernel: Tensor) -> Tensor:
        """Log N(x; x̂, (WᵀW)⁻¹) with the exact determinant and all constants, ``(B,)``, in nats.

        The density is of x given x̂ and k; whatever determinant the model was trained with plays no part.
        """
        weight = self._weight_of(kernel_otf(kernel, target.shape[2:]), target.shape[2:])
        quadratic = 0.5 * weighted_spectral_sum(target - input, weight)
        log_det = self.half_log_det(target, kernel)
        return -quadratic - log_det - gaussian_log_normalizer(target[0].numel())


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
        reduction: as in :class:`~monai_blurvae.losses.ReconstructionTerm`.

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
