"""Scores of a volume from the overlapping patches of its slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from monai_blurvae.inferers.volume_maps import SliceMapsInferer
from monai_blurvae.metrics.scoring import SCORES, PatchScores
from monai_blurvae.transforms.rand_patch import PatchRule


class VolumeScores(NamedTuple):
    """What a volume scores.

    Attributes:
        neg_log_prob: −ELBO of each voxel in nats, ``(X, Y, Z)``, patches blended as in a reconstruction; NaN where no
            patch that was scored reaches.
        residual: volume − reconstruction, likewise, in the intensities of the training.
        slices: of each scored patch, ``(N,)``, increasing.
        scores: of each scored patch, the columns of :data:`~monai_blurvae.metrics.scoring.SCORES`, ``(N, 4)``, float64.
    """

    neg_log_prob: Tensor
    residual: Tensor
    slices: Tensor
    scores: Tensor


class SliceScoresInferer(SliceMapsInferer):
    """Scores the patches of a volume's slices that hold as much anatomy as those of the training.

    Patches of background, which no training has seen, have no density worth the name and are left out.

    Args:
        min_foreground: smallest share of foreground in a patch, as of
            :class:`~monai_blurvae.transforms.RandSlicePatchd`.
        threshold: voxels above it are foreground.
        args: of :class:`SliceMapsInferer`.
        kwargs: of :class:`SliceMapsInferer`.

    Example:
        >>> SliceScoresInferer(spatial_dim=2, roi_size=[64, 64], overlap=0.5, min_foreground=0.25).min_foreground
        0.25
    """

    def __init__(self, *args: object, min_foreground: float = 0.25, threshold: float = -0.9, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.min_foreground = min_foreground
        self.threshold = threshold

    @torch.no_grad()
    def scores(
        self,
        volume: Tensor,
        scorer: Callable[[Tensor], PatchScores],
        device: str | torch.device = "cpu",
        progress: Callable[[], object] = lambda: None,
    ) -> VolumeScores:
        """Score a volume.

        Args:
            volume: ``(X, Y, Z)`` in RAS order, scaled as in the training.
            scorer: of patches ``(B, 1, p, p)``, such as :class:`~monai_blurvae.metrics.scoring.PatchScorer`.
            device: that the scorer computes on.
            progress: called after each slice.
        """
        needed = PatchRule(self.orig_roi_size[0], self.min_foreground, self.threshold).needed
        slices = volume.movedim(self.spatial_dim, 0)
        maps, residual = torch.empty(2, *slices.shape)
        places: list[int] = []
        found: list[Tensor] = []

        def predict(patches: Tensor, coordinates: Sequence[object]) -> Tensor:
            """Channels: the scored map, the residual, and 1 where there are such."""
            channels = patches.new_zeros(len(patches), 3, *patches.shape[2:])
            kept = (patches > self.threshold).flatten(1).sum(1) >= needed
            if bool(kept.any()):
                scored = scorer(patches[kept])
                channels[kept, 0] = scored.neg_log_prob.to(channels)
                channels[kept, 1] = scored.residual.to(channels)
                channels[kept, 2] = 1
                found.append(torch.stack([getattr(scored, name) for name in SCORES], 1).cpu())
                places.extend([index] * int(kept.sum()))
            return channels

        for index, image in enumerate(slices):
            *totals, weight = self._blended(image[None, None].to(device), predict)[0]
            maps[index], residual[index] = (torch.where(weight > 0, total / weight, torch.nan) for total in totals)
            progress()
        scores = torch.cat(found) if found else torch.empty(0, len(SCORES), dtype=torch.float64)
        maps, residual = (found.movedim(0, self.spatial_dim) for found in (maps, residual))
        return VolumeScores(maps, residual, torch.tensor(places, dtype=torch.long), scores)
