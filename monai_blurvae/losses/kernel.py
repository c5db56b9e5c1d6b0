"""The objective of the kernel generator."""

from __future__ import annotations

from torch import Tensor

from monai_blurvae.functional import kernel_otf, ortho_spectrum, spectral_sum
from monai_blurvae.losses.base import ReconstructionTerm


class KernelLoss(ReconstructionTerm):
    """‖x * k − x̂‖² of each image (eq. 10), summed in Fourier space so that no inverse FFT is needed.

    The trainer detaches x̂ and the latent that k comes from: only the kernel generator learns from this term.
    """

    uses_kernel = True

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """Σ_j |X_j F_j − X̂_j|², ``(B,)``."""
        assert kernel is not None
        image_size = target.shape[2:]
        error = ortho_spectrum(target) * kernel_otf(kernel, image_size) - ortho_spectrum(input)
        return spectral_sum(error.real.square() + error.imag.square(), image_size)
