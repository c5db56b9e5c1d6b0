import numpy as np
import torch
from PIL import Image

from monai_blurvae.handlers import reconstruction_figure, sample_figure, save_figure
from monai_blurvae.handlers.pictures import FigureRow, draw_rows, scale_kernels


def test_a_figure_shows_every_picture_where_it_belongs(tmp_path):
    x = torch.zeros(2, 1, 20, 20)
    x[0], x[1] = 1.0, 0.5
    figure = reconstruction_figure(x, x, torch.ones(2, 1, 5, 5), 1 - x, "title")
    save_figure(figure, tmp_path / "figure.png")
    pixels = np.asarray(Image.open(tmp_path / "figure.png"))
    np.testing.assert_array_equal(pixels, figure)
    # the title and five rows of a label of 22 and a picture of 60 with a gap of 4
    assert pixels.shape == (22 + 5 * (22 + 64), 2 * 64 + 4, 3)
    middle = [22 + i * 86 + 22 + 30 for i in range(5)]
    left, right = 4 + 30, 4 + 64 + 30
    assert [int(pixels[m, left, 0]) for m in middle] == [255, 255, 0, 255, 0]
    assert [int(pixels[m, right, 0]) for m in middle] == [128, 128, 0, 255, 128]


def test_a_quarter_turn_puts_the_far_end_of_the_columns_on_top():
    slice_ = torch.zeros(1, 1, 16, 16)
    slice_[..., 12:] = 1  # superior in a RAS slice: large second index
    figure = draw_rows([FigureRow("", slice_)], quarter_turns=1)
    picture = figure[22 : 22 + 48, 4:52, 0]
    assert picture[:12].min() == 255
    assert picture[12:].max() == 0


def test_kernels_are_shown_relative_to_their_own_maximum():
    kernels = torch.zeros(2, 1, 3, 3)
    kernels[0, 0, 1, 1], kernels[1, 0, 0, 0] = 0.9, 0.1
    scaled = scale_kernels(kernels, 9)
    assert scaled[0, 0, 4, 4] == scaled[1, 0, 0, 0] == 1
    assert scaled.sum() == 18


def test_draws_stand_under_the_means_and_are_clipped():
    x = torch.full((2, 1, 20, 20), 0.5)
    draws = {"variance": x + 0.25, "spectrum": x + 7}
    middle = [22 + i * 86 + 22 + 30 for i in range(7)]
    figure = reconstruction_figure(x, x, torch.ones(2, 1, 5, 5), 0 * x, "title", draws=draws)
    assert [int(figure[m, 34, 0]) for m in middle] == [128, 128, 191, 255, 0, 255, 0]
    figure = sample_figure(1 + 0 * x, x, draws, "title")
    assert figure.shape[0] == 22 + 4 * 86
    assert [int(figure[m, 34, 0]) for m in middle[:4]] == [255, 128, 191, 255]
