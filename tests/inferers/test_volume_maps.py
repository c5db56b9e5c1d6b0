"""Volumes from squares and cubes: no seams, positions of latents, widths in mm, background once."""

import pytest
import torch

from monai_blurvae.inferers import CubeMapsInferer, SliceMapsInferer
from tests.inferers.networks import Constant, Counting, Identity

SIZE = 16


def inferer(axis=1, overlap=0.5):
    return SliceMapsInferer(
        spatial_dim=axis,
        roi_size=[SIZE, SIZE],
        sw_batch_size=5,
        overlap=overlap,
        mode="gaussian",
        padding_mode="constant",
        cval=-1.0,
    )


def volume(shape=(37, 9, 25)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
def test_blending_has_no_seams(axis, overlap):
    x = volume()
    same = inferer(axis, overlap).maps(x, Identity(SIZE))
    torch.testing.assert_close(same.reconstruction, x, rtol=0, atol=1e-14)
    flat = inferer(axis, overlap).maps(x, Constant(SIZE))
    torch.testing.assert_close(flat.reconstruction, torch.full_like(x, 0.25), rtol=0, atol=1e-14)
    assert same.blur_width is None


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_latents_are_those_of_the_patches_at_their_positions(axis):
    x = volume()
    latents = inferer(axis).maps(x, Identity(SIZE)).latents
    padded = torch.nn.functional.pad(x.movedim(axis, 0), [SIZE] * 4, value=-1.0)
    for mu, (index, row, column) in zip(latents.mu, latents.position.tolist(), strict=True):
        patch = padded[index, row + SIZE : row + 2 * SIZE, column + SIZE : column + 2 * SIZE]
        torch.testing.assert_close(mu, patch.flatten(), rtol=0, atol=0)
    assert sorted(set(latents.position[:, 0].tolist())) == list(range(x.shape[axis]))


def test_blur_widths_are_in_millimetres():
    """Of a Gaussian of variance v on voxels a × b it is √(v (a² + b²)), but for the ends that the window cuts off."""
    found = inferer().maps(volume(), Identity(SIZE, variance=0.8), spacing=(2.0, 0.5)).blur_width
    expected = (0.8 * (2.0**2 + 0.5**2)) ** 0.5
    torch.testing.assert_close(found, torch.full_like(found, expected), rtol=1e-4, atol=0)


def test_background_is_decoded_once_and_gives_the_same():
    x = volume((40, 6, 40))
    x[:, 3:] = -1.0
    x[20:, 0] = -1.0
    counting = Counting(SIZE)
    maps = inferer().maps(x, counting, spacing=(1.0, 1.0))
    torch.testing.assert_close(maps.reconstruction, x, rtol=0, atol=1e-14)
    assert counting.patches < len(maps.latents.mu) * 0.6
    assert maps.latents.mu.shape[0] == 6 * 16
    assert (maps.latents.mu[-1] == -1).all()


def test_progress_is_told_after_each_slice():
    calls = []
    inferer().maps(volume(), Identity(SIZE), progress=lambda: calls.append(1))
    assert len(calls) == 9


CUBE = (1.0, 1.0, 1.0)


def cubes(overlap=0.5):
    options = {"sw_batch_size": 5, "overlap": overlap, "mode": "gaussian", "padding_mode": "constant", "cval": -1.0}
    return CubeMapsInferer([SIZE] * 3, **options)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_blending_of_cubes_has_no_seams(overlap):
    x, calls = volume((37, 9, 25)), []
    same = cubes(overlap).maps(x, Identity(SIZE, CUBE), progress=lambda: calls.append(1))
    torch.testing.assert_close(same.reconstruction, x, rtol=0, atol=1e-14)
    assert same.blur_width is None
    assert len(calls) == cubes(overlap).steps(x.shape) == len(same.latents.mu)


def test_the_latents_of_cubes_are_those_at_their_positions():
    x = volume((37, 9, 25))
    latents = cubes().maps(x, Identity(SIZE, CUBE)).latents
    padded = torch.nn.functional.pad(x, [SIZE] * 6, value=-1.0)
    for mu, place in zip(latents.mu, latents.position.tolist(), strict=True):
        i, j, k = (n + SIZE for n in place)
        torch.testing.assert_close(mu, padded[i : i + SIZE, j : j + SIZE, k : k + SIZE].flatten(), rtol=0, atol=0)


def test_blur_widths_of_cubes_are_in_millimetres():
    network = Identity(SIZE, CUBE, variance=0.8)
    found = cubes().maps(volume((20, 17, 16)), network, spacing=(2.0, 0.5, 1.0)).blur_width
    expected = (0.8 * (2.0**2 + 0.5**2 + 1.0**2)) ** 0.5
    torch.testing.assert_close(found, torch.full_like(found, expected), rtol=1e-4, atol=0)


def test_cubes_of_background_are_decoded_once():
    x = torch.full((48, 32, 32), -1.0, dtype=torch.float64)
    x[:16] = volume((16, 32, 32))
    counting = Counting(SIZE, CUBE)
    maps = cubes().maps(x, counting)
    torch.testing.assert_close(maps.reconstruction, x, rtol=0, atol=1e-14)
    assert len(maps.latents.mu) == 5 * 3 * 3
    assert counting.patches == 2 * 3 * 3 + 1
