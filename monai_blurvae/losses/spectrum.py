"""Distance of the radial power spectra, a spectral regularisation in the manner of Durall et al. (CVPR 2020)."""

from __future__ import annotations

from torch import Tensor

from monai_blurvae.functional.radial import radial_power
from monai_blurvae.losses.base import ReconstructionTerm


class SpectrumLoss(ReconstructionTerm):
    """N · mean over r of (log₁₀ P_x(r) − log₁₀ P_x̂(r))², summed over the channels of each image, N its pixels.

    P(r) is the mean power in the annulus of integer radius r = 1 … min(H, W) // 2, see
    :func:`~monai_blurvae.functional.radial.radial_power`, plus a floor. The mean of plausible images lacks the power
    that each of them has at high frequencies; the term rewards that power whatever its phase, which no pixel-wise error
    does. Images of unlike phase cost nothing, so it belongs beside another term; it is no density. Nothing tells it
    where in the patch the power is: trained with it, the decoder puts a star into the middle, where the window opens
    (``docs/findings.md``). It is a tool of study, not a way to sharper images.

    Args:
        floor: power per pixel that is added to P(r), in the squared units of the images. Without it log P has no
            bound and an endless gradient where an image is flat. The default is a fifth of the quantisation noise of
            8-bit images in [−1, 1], (2/255)²/12 = 5.1e-6: what lies below it cannot be seen.
        window: whether a Hann window is applied to both images first, since a patch does not go on across its edge.
        reduction: as in :class:`ReconstructionTerm`.

    Raises:
        ValueError: if ``floor`` is not positive, or for an unknown reduction.
    """

    is_likelihood = False

    def __init__(self, floor: float = 1e-6, window: bool = True, reduction: str = "mean") -> None:
        super().__init__(reduction)
        if not floor > 0:
            raise ValueError(f"floor must be positive, but is {floor!r}.")
        self.floor = floor
        self.window = window

    def _log_power(self, images: Tensor) -> Tensor:
        return (radial_power(images, self.window) + self.floor).log10()

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """N · Σ_c mean_r (log₁₀ P_x(r) − log₁₀ P_x̂(r))², ``(B,)``.

        Raises:
            ValueError: if the images are not ``(B, C, H, W)`` with H, W ≥ 2.
        """
        distance = (self._log_power(target) - self._log_power(input)).square().mean(2)
        return target[0, 0].numel() * distance.sum(1)
