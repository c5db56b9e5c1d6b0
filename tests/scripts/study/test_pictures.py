import math

import numpy as np
import torch

from study.pictures import (
    COUNT,
    HEADER,
    LABELS,
    SMALLEST_SIDE,
    GridRow,
    draw_grid,
    load_pictures,
    make_pictures,
    save_pictures,
)


class Sampler:
    """Samples of 1."""

    def sample(self, count, generator):
        return torch.ones(count, 1, 8, 8)


def grey(*levels):
    """Images of one grey level each, from 0 to 255."""
    return torch.stack([torch.full((1, 8, 8), level / 127.5 - 1) for level in levels])


def test_images_are_evenly_spread_and_the_reconstructions_are_theirs():
    images = grey(*range(64))
    pictures = make_pictures(Sampler(), images, grey(*range(100, 164)), 0)
    assert pictures.images[:, 0, 0, 0].tolist() == [*range(0, 64, 8), *range(4, 64, 8)]
    assert (pictures.reconstructions[:, 0, 0, 0] - pictures.images[:COUNT, 0, 0, 0]).tolist() == [100] * COUNT
    assert (pictures.samples == 255).all()
    assert len(pictures.samples) == COUNT


def test_few_images_are_enough():
    pictures = make_pictures(Sampler(), grey(1, 2, 3), grey(4, 5, 6), 0)
    assert pictures.images[:, 0, 0, 0].tolist() == [1, 3, 2]
    assert pictures.reconstructions[:, 0, 0, 0].tolist() == [4, 6]


def test_pictures_are_upright_and_kept(tmp_path):
    image = torch.full((1, 1, 8, 8), -1.0)
    image[..., 0, 7] = 1.0  # a quarter turn counter-clockwise brings it to the first corner
    save_pictures(make_pictures(Sampler(), image, image, 1), tmp_path / "x.npz")
    pictures = load_pictures(tmp_path / "x.npz")
    assert pictures.images[0, 0, 0, 0] == 255
    assert pictures.images.sum() == 255
    assert pictures.images.dtype == np.uint8
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_a_point_has_a_flat_spectrum():
    image = torch.zeros(1, 1, 8, 8)
    image[..., 3, 5] = 0.8  # |DFT| = 0.8 / √64
    images, reconstructions, samples = make_pictures(Sampler(), image, 10 * image, 0).spectra
    assert np.allclose(images, -1, atol=1e-6)
    assert np.allclose(reconstructions, 0, atol=1e-6)
    assert math.isclose(samples[4, 4], math.log10(8), rel_tol=1e-6)  # the mean is in the middle


def test_a_grid_holds_the_pictures_enlarged():
    red, blue = (np.zeros((1, 32, 32, 3), np.uint8) for _ in range(2))
    red[..., 0] = blue[..., 2] = 255  # the text has neither
    grid = draw_grid([GridRow("a", np.repeat(red, 2, 0), blue), GridRow("b", blue, red)], ("l", "r"), "T")
    side = 32 * (SMALLEST_SIDE // 32)
    assert (grid[2 * HEADER : 2 * HEADER + side, LABELS : LABELS + side] == (255, 0, 0)).all()
    counts = [(grid == colour).all(-1).sum() for colour in ((255, 0, 0), (0, 0, 255))]
    assert counts == [3 * side**2, 2 * side**2]
