"""The paper's reconstruction term: errors weighted by the Wiener inverse of the blur kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_blurvae.functional import (
    gaussian_log_normalizer,
    half_log_det,
    kernel_otf,
    weighted_spectral_sum,
    wiener_weight,
)
from monai_blurvae.losses.base import ReconstructionTerm


class WienerLoss(ReconstructionTerm):
    """½ Σ_j |W_j|² |X_j − X̂_j|² of each image, the quadratic form of a Gaussian with Σ⁻¹ = WᵀW (eq. 7 and 8).

    Args:
        c: the Wiener constant C > 0.
        weighting: ``"wiener"`` or ``"bounded_inverse"``, see :func:`~monai_blurvae.functional.wiener_weight`.
        detach_weight: whether W is a constant of the gradient. Without the determinant in the objective it has to be:
            otherwise the easiest way to a lower loss is a kernel with small weights.
        reduction: as in :class:`ReconstructionTerm`.

    Raises:
        ValueError: if ``c`` is not positive, or for an unknown weighting or reduction.
    """

    uses_kernel = True

    def __init__(
        self, c: float = 0.025, weighting: str = "wiener", detach_weight: bool = True, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        wiener_weight(torch.ones(1, dtype=torch.complex64), c, weighting)
        self.c = c
        self.weighting = weighting
        self.detach_weight = detach_weight

    def _otf(self, target: Tensor, kernel: Tensor) -> Tensor:
        return kernel_otf(kernel, target.shape[2:])

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """½ Σ_j |W_j|² |X_j − X̂_j|², ``(B,)``."""
        assert kernel is not None
        weight = wiener_weight(self._otf(target, kernel), self.c, self.weighting)
        return 0.5 * weighted_spectral_sum(target - input, weight.detach() if self.detach_weight else weight)

    def log_prob(self, input: Tensor, target: Tensor, kernel: Tensor) -> Tensor:
        """Log N(x; x̂, (WᵀW)⁻¹) with the exact determinant and all constants, ``(B,)``, in nats.

        The density is of x given x̂ and k; whatever determinant the model was trained with plays no part.
        """
        otf = self._otf(target, kernel)
        log_det = half_log_det(
            otf, target.shape[2:], "exact", c=self.c, weighting=self.weighting, channels=target.shape[1]
        )
        quadratic = 0.5 * weighted_spectral_sum(target - input, wiener_weight(otf, self.c, self.weighting))
        return -quadratic - log_det - gaussian_log_normalizer(target[0].numel())
