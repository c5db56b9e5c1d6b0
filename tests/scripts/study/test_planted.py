"""Planted artefacts and lesions, each against what is known of it."""

import numpy as np
import pytest

from study.planted import CHANGES, LESION_RADIUS, LESIONS
from tests.volumes import brain


@pytest.fixture(scope="module")
def volume():
    found = brain(3).astype(float)
    return np.clip(found / np.percentile(found, 99), 0, None)


def planted(name, volume, strength=1.0, seed=0):
    return CHANGES[name](volume, np.random.default_rng(seed), strength)


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_moves_something_in_the_anatomy_and_more_of_it_when_strong(name, volume):
    moved = [np.abs(planted(name, volume, strength) - volume)[volume > 0].mean() for strength in (0.5, 1, 2)]
    assert moved == sorted(moved)
    assert np.abs(planted(name, volume) - volume)[volume > 0].max() > 0.02
    np.testing.assert_array_equal(planted(name, volume), planted(name, volume))


@pytest.mark.parametrize("name", LESIONS)
def test_a_lesion_is_a_ball_of_its_radius(name):
    """In an even volume: 0.4 in the middle, half of it at the radius, nothing far away."""
    made = planted(name, np.ones((40, 40, 40)), 0.5)
    change = made - 1
    middle = np.unravel_index(np.abs(change).argmax(), change.shape)
    sign = 1 if name.startswith("bright") else -1
    np.testing.assert_allclose(change[middle], sign * 0.2, rtol=1e-3)
    distance = np.sqrt(((np.indices(change.shape) - np.reshape(middle, (3, 1, 1, 1))) ** 2).sum(0))
    np.testing.assert_allclose(change[distance == LESION_RADIUS], sign * 0.1, rtol=1e-9)
    assert not change[distance > 2 * LESION_RADIUS].any()


def test_ghosts_are_half_a_field_of_view_away():
    """Every second line at 1 − s is (1 − s/2) of the image and s/2 of one that is shifted by half the lines."""
    volume = np.zeros((16, 64, 4))
    volume[6:9, 4:7] = 1
    made = planted("ghosting", volume)
    image = np.fft.fft(volume, axis=1)
    central = np.abs(np.fft.fftfreq(64)) * 64
    weak = np.zeros(64)
    weak[::2] = 0.15
    expected = np.fft.ifft(image * (1 - weak)[None, :, None], axis=1).real
    kept = np.abs(np.fft.fft(made - expected, axis=1)).max((0, 2)) > 1e-4  # the lines that were restored
    assert central[kept].tolist() == [0]
    np.testing.assert_allclose(expected, 0.925 * volume - 0.075 * np.roll(volume, 32, 1), atol=1e-9)


def test_motion_keeps_the_mean_and_lies_in_the_plane(volume):
    """A slice that is empty stays so; the centre of k-space is that of one position."""
    padded = np.concatenate([np.zeros_like(volume[..., :3]), volume], 2)
    made = planted("motion", padded)
    assert np.abs(made[..., :2]).max() < 1e-4
    np.testing.assert_allclose(made.sum(), padded.sum(), rtol=0.02)
