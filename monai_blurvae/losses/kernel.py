"""The objective of the kernel generator."""

from __future__ import annotations

from torch import Tensor

from monai_blurvae.functional import hann_window, kernel_otf, ortho_spectrum, spectral_sum
from monai_blurvae.losses.base import ReconstructionTerm


class KernelLoss(ReconstructionTerm):
    """‖x * k − x̂‖² of each image (eq. 10), summed in Fourier space so that no inverse FFT is needed.

    All channels of an image are blurred with its one kernel.

    The trainer detaches x̂ and the latent that k comes from: only the kernel generator learns from this term.

    Args:
        window: whether a Hann window is applied to both images first. The convolution is circular, but a patch does not
            go on across its edges: the jump there, which no decoder blurs, asks for a kernel that keeps the axes of
            the spectrum, a cross. The window takes it away. The likelihood is untouched.
        reduction: as in :class:`~monai_blurvae.losses.base.ReconstructionTerm`.

    Raises:
        ValueError: for an unknown reduction.
    """

    uses_kernel = True

    def __init__(self, window: bool = False, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.window = window

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """Σ_j |X_j F_j − X̂_j|², ``(B,)``."""
        assert kernel is not None
        image_size = target.shape[2:]
        if self.window:
            window = hann_window(image_size, target)
            input, target = input * window, target * window
        error = ortho_spectrum(target) * kernel_otf(kernel, image_size) - ortho_spectrum(input)
        return spectral_sum(error.real.square() + error.imag.square(), image_size)
