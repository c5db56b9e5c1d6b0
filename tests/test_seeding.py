import pytest
import torch

from monai_blurvae.seeding import normal_rows


@pytest.mark.parametrize("parts", [(100,), (50, 50), (1, 63, 36), (64, 36), (25, 25, 25, 25)])
def test_rows_are_the_same_however_they_are_divided(parts):
    firsts = [sum(parts[:i]) for i in range(len(parts))]
    rows = [normal_rows(first, count, 5, 0, "noise", 7) for first, count in zip(firsts, parts, strict=True)]
    assert torch.equal(torch.cat(rows), normal_rows(0, 100, 5, 0, "noise", 7))


def test_rows_are_standard_normal_and_differ_by_seed_and_purpose():
    tables = [normal_rows(0, 4096, 8, seed, "noise", i) for seed, i in ((0, 1), (0, 2), (1, 1))]
    values = torch.stack(tables).flatten(1)
    # of n = 32768 numbers the mean scatters by n^-1/2 = 0.0055, the covariance likewise
    torch.testing.assert_close(values.mean(1), torch.zeros(3), atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(values), torch.eye(3), atol=0.05, rtol=0)
    assert len(torch.unique(tables[0], dim=0)) == 4096
