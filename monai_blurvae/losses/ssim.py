"""Structural similarity (Wang et al. 2004) as a reconstruction term."""

from __future__ import annotations

from monai.metrics.regression import compute_ssim_and_cs
from torch import Tensor

from monai_blurvae.functional import SSIM_WINDOW_SIGMA, SSIM_WINDOW_SIZE
from monai_blurvae.losses.base import ReconstructionTerm


class StructuralSimilarityLoss(ReconstructionTerm):
    """D · (1 − SSIM(x, x̂)) of each image, D = pixels · channels; no density of the image.

    The images are mapped from [−1, 1] to [0, 1] (data range 1); SSIM has an 11×11 Gaussian window with σ = 1.5 pixels,
    K₁ = 0.01, K₂ = 0.03, and is averaged over the channels and the positions where the window lies inside the image.
    It is computed by MONAI, in float32 whatever the images' type.
    """

    is_likelihood = False

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """D · (1 − SSIM), ``(B,)``, between 0 and 2 D.

        Raises:
            ValueError: if the images are neither 2-D nor 3-D or smaller than the window.
        """
        spatial_dims = target.ndim - 2
        if spatial_dims not in (2, 3) or min(target.shape[2:]) < SSIM_WINDOW_SIZE:
            raise ValueError(
                f"SSIM needs 2-D or 3-D images of at least {SSIM_WINDOW_SIZE} pixels along each axis, "
                f"but target has shape {tuple(target.shape)}."
            )
        ssim, _ = compute_ssim_and_cs(
            (input + 1) / 2,
            (target + 1) / 2,
            spatial_dims=spatial_dims,
            kernel_size=[SSIM_WINDOW_SIZE] * spatial_dims,
            kernel_sigma=[SSIM_WINDOW_SIGMA] * spatial_dims,
            data_range=1.0,
        )
        return target[0].numel() * (1 - ssim.flatten(1).mean(1))
