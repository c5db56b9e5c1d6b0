import base64
import io

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from monai_blurvae.handlers.pictures import FigureRow, draw_rows
from monai_blurvae.report.pictures import error_maps, kernel_pixels, picture, strips, upright


def decoded(uri):
    kind, content = uri.split(";base64,")
    return kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_a_picture_holds_its_pixels(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    made = picture(pixels, "what it is", "below")
    kind, content = decoded(made.uri)
    assert kind == "data:image/png"
    np.testing.assert_array_equal(content, pixels)
    assert (made.width, made.height, made.description, made.caption) == (7, 5, "what it is", "below")


def test_a_large_picture_is_a_jpeg_that_looks_the_same():
    ramp = np.linspace(0, 220, 512)
    noise = np.random.default_rng(0).integers(0, 25, (512, 512))
    pixels = np.stack([ramp + noise, ramp[::-1] + noise, ramp[:, None] + noise], -1).astype(np.uint8)
    made = picture(pixels, "")
    kind, content = decoded(made.uri)
    assert kind == "data:image/jpeg"
    assert len(made.uri) < pixels.size / 2
    assert np.abs(content.astype(int) - pixels).mean() < 8


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("turns", [0, 1, 3])
def test_images_stand_as_in_the_evaluations_picture(channels, turns):
    images = np.random.default_rng(0).integers(0, 256, (2, channels, 20, 20), np.uint8)
    shown = upright(images, turns)
    drawn = draw_rows([FigureRow("", torch.from_numpy(images) / 255)], "", turns)
    first = drawn[22 : 22 + 60 : 3, 4 : 4 + 60 : 3]  # below the label, behind the gap, three times enlarged
    np.testing.assert_array_equal(shown[0] if channels > 2 else np.stack([shown[0]] * 3, -1), first)


def test_errors_of_grey_images_are_signed():
    images = np.full((2, 1, 8, 8), 100, np.uint8)
    reconstructions = images.copy()
    reconstructions[0, 0, :4] += 51  # 0.2 too bright in the upper half
    reconstructions[1, 0] -= 51
    maps = error_maps(images, reconstructions, 1)
    assert (maps.low, maps.high) == (pytest.approx(-0.2), pytest.approx(0.2))
    colours = colormaps["RdBu_r"]([0.0, 0.5, 1.0], bytes=True)[:, :3]
    np.testing.assert_array_equal(maps.maps[1], np.broadcast_to(colours[0], (8, 8, 3)))
    # a quarter turn anticlockwise brings the upper half to the left
    np.testing.assert_array_equal(maps.maps[0][:, :4], np.broadcast_to(colours[2], (8, 4, 3)))
    np.testing.assert_array_equal(maps.maps[0][:, 4:], np.broadcast_to(colours[1], (8, 4, 3)))
    np.testing.assert_array_equal(maps.bar[0, [0, -1]], colours[[0, 2]])


def test_errors_of_colours_are_root_mean_squares():
    images = np.zeros((1, 3, 4, 4), np.uint8)
    reconstructions = images.copy()
    reconstructions[0, :, :2] = np.array([0, 153, 204])[:, None, None]  # 0, 0.6, 0.8 in the upper half
    maps = error_maps(images, reconstructions, 0)
    assert (maps.low, maps.high) == (0, pytest.approx(0.6))  # √(1 / 3) to the next 0.05
    expected = colormaps["viridis"](np.sqrt(1 / 3) / 0.6, bytes=True)[:3]
    np.testing.assert_array_equal(maps.maps[0, :2], np.broadcast_to(expected, (2, 4, 3)))
    np.testing.assert_array_equal(maps.maps[0, 2:], np.broadcast_to(maps.bar[0, 0], (2, 4, 3)))
    assert "root mean square" in maps.meaning


def test_equal_images_have_no_error():
    images = np.zeros((1, 1, 4, 4), np.uint8)
    maps = error_maps(images, images, 0)
    assert maps.high == pytest.approx(0.05)
    assert len(np.unique(maps.maps.reshape(-1, 3), axis=0)) == 1


def test_kernels_are_relative_to_their_maximum():
    kernel = np.array([[0.0, 0.1, 0.2], [0.0, 0.4, 0.0], [-0.1, 0.0, 0.0]])
    np.testing.assert_array_equal(kernel_pixels(kernel, 0), [[0, 64, 128], [0, 255, 0], [0, 0, 0]])
    np.testing.assert_array_equal(kernel_pixels(kernel, 1), np.rot90(kernel_pixels(kernel, 0)))
    assert not kernel_pixels(np.zeros((3, 3)), 0).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_rows_of_a_figure_without_their_labels(channels):
    images = torch.rand(3, 4, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    rows = [FigureRow(f"row {i}", x) for i, x in enumerate(images)]
    buffer = io.BytesIO()
    Image.fromarray(draw_rows(rows)).save(buffer, "PNG")
    found = strips(buffer.getvalue(), 3)
    for strip, row in zip(found, images, strict=True):
        assert strip.ndim == (2 if channels == 1 else 3)
        alone = draw_rows([FigureRow("", row)])[22:]
        np.testing.assert_array_equal(strip, alone if channels == 3 else alone[..., 0])
