"""LPIPS with VGG16 features as a reconstruction term, the paper's row "VGG"."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from monai_blurvae.losses.base import ReconstructionTerm
from monai_blurvae.networks.perceptual import LearnedPerceptualDistance


class VGGFeatureLoss(ReconstructionTerm):
    """LPIPS-VGG distance of each image (Zhang et al., CVPR 2018) times its number of pixels.

    LPIPS is a mean over positions; times height · width it is a sum over pixels like the other terms, so that β means
    the same for all of them on grey images. RGB goes in as it is and grey is repeated to three channels: a grey image
    costs the same either way, while the terms that sum over channels grow threefold. The features are frozen and no
    part of the ``state_dict``. The paper takes the heads that Czolbe et al. (NeurIPS 2020) fitted; these are LPIPS's
    own, version 0.1. No likelihood: exp(−term) has no known normaliser.

    Args:
        weights_dir: folder of ``lpips_vgg.pt``, see :func:`~monai_blurvae.networks.perceptual.load_lpips_weights`.
        reduction: as in :class:`ReconstructionTerm`.

    Raises:
        ValueError: for an unknown reduction; when called, for images that are not grey or RGB in two dimensions, or
            smaller than 16×16 pixels.
        WeightsError: if there are no weights.
    """

    def __init__(self, weights_dir: str | Path | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.distance = LearnedPerceptualDistance("vgg", weights_dir)

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """Height · width · LPIPS(x̂, x), ``(B,)``."""
        # MONAI's own engines move networks and images to a device, not losses.
        distance: Tensor = self.distance.to(target.device)(input, target)
        return target.shape[2:].numel() * distance
