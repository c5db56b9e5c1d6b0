"""Focal frequency loss (Jiang et al., ICCV 2021) as a reconstruction term."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_blurvae.functional import ortho_spectrum, spectral_sum
from monai_blurvae.losses.base import ReconstructionTerm


class FocalFrequencyTerm(ReconstructionTerm):
    """Σ_j w_j |X_j − X̂_j|² of each image, with the weight of a frequency growing with its own error.

    w_j = |X_j − X̂_j|^α, divided by its maximum over the frequencies of one channel of one image, and a constant of the
    gradient. The paper's mean over the frequencies, and over the channels, is a sum here; each channel has weights of
    its own, as in the authors' code. No density: the weights depend on the image.

    The images are taken as they are. Their scale enters squared, so the term of images in [−1, 1] is four times that of
    the same images in [0, 1]; the weights do not depend on the scale unless ``log_matrix`` is set.

    Args:
        alpha: the exponent α ≥ 0; with 0 all weights are 1 and the term is ‖x − x̂‖².
        log_matrix: whether the weights are log(1 + |X_j − X̂_j|^α) before they are divided by their maximum.
        reduction: as in :class:`ReconstructionTerm`.

    Raises:
        ValueError: if ``alpha`` is negative, or for an unknown reduction.
    """

    is_likelihood = False

    def __init__(self, alpha: float = 1.0, log_matrix: bool = False, reduction: str = "mean") -> None:
        super().__init__(reduction)
        if not alpha >= 0:
            raise ValueError(f"alpha must not be negative, but is {alpha!r}.")
        self.alpha = alpha
        self.log_matrix = log_matrix

    def weight(self, power: Tensor) -> Tensor:
        """The weights w in [0, 1] for the power |X − X̂|² of a half spectrum, ``(B, C, *half)``; without gradient."""
        weight = power.detach() ** (self.alpha / 2)
        if self.log_matrix:
            weight = weight.log1p()
        largest = weight.amax(dim=tuple(range(2, weight.ndim)), keepdim=True)
        return weight / largest.clamp_min(torch.finfo(weight.dtype).tiny)  # a perfect channel has weights 0, not NaN

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """Σ_j w_j |X_j − X̂_j|², ``(B,)``."""
        residual = ortho_spectrum(target - input)
        power = residual.real.square() + residual.imag.square()
        return spectral_sum(self.weight(power) * power, target.shape[2:])
