"""Which patches of a volume are scored, and what becomes of their maps."""

import torch

from monai_blurvae.inferers import SliceScoresInferer
from monai_blurvae.metrics.scoring import PatchScores


def mean_of(patches):
    means = patches.double().flatten(1).mean(1)
    return PatchScores(means, means + 1, means + 2, means + 3, patches[:, 0].double(), -patches[:, 0].double())


def test_patches_without_anatomy_are_left_out_and_the_others_blended():
    """Of maps that are the patch itself the blended one is the volume, wherever a patch was scored."""
    volume = torch.full((16, 16, 3), -1.0)
    volume[:8, :8, 1] = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    volume[12:, 12:, 2] = 0.5  # a quarter of its patch
    inferer = SliceScoresInferer(
        roi_size=(8, 8), spatial_dim=2, sw_batch_size=3, overlap=0.0, mode="gaussian", cval=-1.0, min_foreground=0.5
    )
    calls = []
    found = inferer.scores(volume, mean_of, progress=lambda: calls.append(1))
    assert len(calls) == 3
    assert found.slices.tolist() == [1]
    mean = volume[:8, :8, 1].double().mean()
    torch.testing.assert_close(found.scores, (mean + torch.arange(4, dtype=torch.float64))[None])
    torch.testing.assert_close(found.neg_log_prob[:8, :8, 1], volume[:8, :8, 1])
    assert int(found.neg_log_prob.isfinite().sum()) == 64
    torch.testing.assert_close(found.residual, -found.neg_log_prob, equal_nan=True)
    inferer.min_foreground = 0.25
    assert inferer.scores(volume, mean_of).slices.tolist() == [1, 2]


def test_overlapping_patches_of_another_axis():
    volume = torch.rand(5, 16, 16, generator=torch.Generator().manual_seed(1))
    inferer = SliceScoresInferer(roi_size=(8, 8), spatial_dim=0, overlap=0.5, mode="gaussian", cval=-1.0)
    found = inferer.scores(volume, mean_of)
    assert found.slices.bincount().tolist() == [9] * 5
    torch.testing.assert_close(found.neg_log_prob, volume)


def test_a_volume_of_background_has_no_scores():
    found = SliceScoresInferer(roi_size=(8, 8), spatial_dim=2, cval=-1.0).scores(torch.full((8, 8, 2), -1.0), mean_of)
    assert found.scores.shape == (0, 4)
    assert not found.neg_log_prob.isfinite().any()
