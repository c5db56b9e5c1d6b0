import pytest
import scipy.stats
import torch

from monai_blurvae.metrics import data_copying, nearest_images


def draw(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_nearest_image_by_brute_force():
    images, others = draw(5, 2, 4, 3), draw(7, 2, 4, 3, seed=1)
    distance = (images[:, None] - others[None]).square().mean((2, 3, 4)).sqrt()
    found = nearest_images(images, others, chunk_size=2)
    torch.testing.assert_close(found.distance, distance.amin(1))
    assert found.indices.tolist() == distance.argmin(1).tolist()


def test_an_image_is_nearest_to_itself():
    images = draw(5, 1, 8, 8)
    found = nearest_images(images.float(), images.float())
    assert found.distance.tolist() == [0.0] * 5
    assert found.indices.tolist() == [0, 1, 2, 3, 4]


def test_the_score_is_that_of_scipys_mann_whitney_test():
    generated, test = draw(40), 0.1 + draw(30, seed=1)
    expected = scipy.stats.mannwhitneyu(
        generated.numpy(), test.numpy(), alternative="less", method="asymptotic", use_continuity=False
    )
    assert scipy.stats.norm.cdf(data_copying(generated, test)) == pytest.approx(expected.pvalue)


def test_copies_and_nothing_to_tell():
    test = draw(100)
    assert data_copying(torch.zeros(100), test) == pytest.approx(-(100**2) / 2 / (100**2 * 201 / 12) ** 0.5)
    assert data_copying(test, test) == 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="images and others need one shape"):
        nearest_images(draw(2, 1, 4, 4), draw(2, 1, 4, 5))
    with pytest.raises(ValueError, match="0 generated and 3 test images"):
        data_copying(draw(0), draw(3))
