"""Charts that can be read, and pictures that show what is there."""

import base64
import io
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from monai_blurvae.handlers.pictures import FigureRow, draw_rows
from monai_blurvae.report.figures import (
    BLUE,
    FONT_SIZE,
    ORANGE,
    Curve,
    area_chart,
    error_maps,
    histogram,
    image,
    kernel_pixels,
    late_range,
    line_chart,
    strips,
    upright,
)

SVG = "{http://www.w3.org/2000/svg}"


def draw(caption='what "it" <is>', y=(1.0, 2.0, 4.0), **options):
    curves = [Curve("training", dict(zip((1, 2, 3), y, strict=True)), BLUE), Curve("validation", {2: 3.0}, ORANGE)]
    return line_chart(caption, "epoch", "KL (nats)", curves, **options)


def test_charts_are_svg_with_readable_text_and_names_of_their_own():
    before = dict(matplotlib.rcParams)
    charts = [
        draw(level=(2.5, "flat kernel")),
        draw("b", from_zero=True),
        area_chart("c", "unit", "KL (nats)", np.arange(20.0)),
        histogram("d", "PSNR (dB)", "images", [*np.arange(50.0), np.nan]),
    ]
    names = []
    for chart in charts:
        root = ElementTree.fromstring(chart).find(f"{SVG}svg")
        names += [e.get("id") for e in root.iter() if e.get("id")]
        texts = list(root.iter(f"{SVG}text"))
        sizes = [float(re.search(r"font(?:-size)?: ?([\d.]+)px", text.get("style")).group(1)) for text in texts]
        assert min(sizes) >= FONT_SIZE
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', chart)) <= {e.get("id") for e in root.iter()}
        assert "<!DOCTYPE" not in chart
        assert not re.findall(r'(?:src|href)="(?!#)', chart)
    assert len(names) == len(set(names))
    root = ElementTree.fromstring(charts[0])
    assert root.find(f"{SVG}svg").get("aria-label") == root.find("figcaption").text == 'what "it" <is>'
    texts = [t.text for t in root.iter(f"{SVG}text")]
    assert {"epoch", "KL (nats)", "training", "validation", "flat kernel"} <= set(texts)
    assert all(text.isdigit() for text in texts[: texts.index("epoch")])  # epochs are whole
    assert draw() == draw()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("values", [(1.0, np.nan, np.inf), (np.nan, np.nan, np.nan)])
def test_values_that_are_not_finite_are_left_out(values):
    assert "nan" not in draw(y=values).lower()
    histogram("h", "", "", values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1000.0, *range(20, 0, -1)], (1 - 0.05 * 18, 19 + 0.05 * 18)),  # the first two of 21 are left out
        ([40.0, *range(20, 0, -1)], (1 - 0.05 * 18, 19 + 0.05 * 18)),
        ([36.0, *range(20, 0, -1)], None),
        ([5.0], None),
        ([], None),
        ([np.nan, np.inf], None),
        ([9.0, 1.0, 1.0, 1.0], None),  # a range of nothing
    ],
)
def test_the_range_without_the_beginning(values, expected):
    found = late_range(values)
    assert found == (None if expected is None else pytest.approx(expected))


def decoded(img):
    kind, content = re.search(r'src="([^"]+)"', img)[1].split(";base64,")
    return kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_a_picture_holds_its_pixels(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    made = image(pixels, "what <it> is")
    kind, content = decoded(made)
    assert kind == "data:image/png"
    np.testing.assert_array_equal(content, pixels)
    assert made.endswith('width="7" height="5" alt="what &lt;it&gt; is">')


def test_a_large_picture_is_a_jpeg_that_looks_the_same():
    ramp = np.linspace(0, 220, 512)
    noise = np.random.default_rng(0).integers(0, 25, (512, 512))
    pixels = np.stack([ramp + noise, ramp[::-1] + noise, ramp[:, None] + noise], -1).astype(np.uint8)
    made = image(pixels, "")
    kind, content = decoded(made)
    assert kind == "data:image/jpeg"
    assert len(made) < pixels.size / 2
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
    assert [text in maps.scale for text in ("−0.20", "+0.20", "red is too bright")] == [True] * 3
    colours = colormaps["RdBu_r"]([0.0, 0.5, 1.0], bytes=True)[:, :3]
    np.testing.assert_array_equal(maps.maps[1], np.broadcast_to(colours[0], (8, 8, 3)))
    # a quarter turn anticlockwise brings the upper half to the left
    np.testing.assert_array_equal(maps.maps[0][:, :4], np.broadcast_to(colours[2], (8, 4, 3)))
    np.testing.assert_array_equal(maps.maps[0][:, 4:], np.broadcast_to(colours[1], (8, 4, 3)))
    np.testing.assert_array_equal(decoded(maps.scale)[1][0, [0, -1]], colours[[0, 2]])


def test_errors_of_colours_are_root_mean_squares():
    images = np.zeros((1, 3, 4, 4), np.uint8)
    reconstructions = images.copy()
    reconstructions[0, :, :2] = np.array([0, 153, 204])[:, None, None]  # 0, 0.6, 0.8 in the upper half
    maps = error_maps(images, reconstructions, 0)
    assert "<span>0</span>" in maps.scale
    assert "<span>+0.60</span>" in maps.scale  # √(1 / 3) to the next 0.05
    expected = colormaps["viridis"](np.sqrt(1 / 3) / 0.6, bytes=True)[:3]
    np.testing.assert_array_equal(maps.maps[0, :2], np.broadcast_to(expected, (2, 4, 3)))
    black = colormaps["viridis"](0.0, bytes=True)[:3]
    np.testing.assert_array_equal(maps.maps[0, 2:], np.broadcast_to(black, (2, 4, 3)))
    assert "root mean square" in maps.scale


def test_equal_images_have_no_error():
    images = np.zeros((1, 1, 4, 4), np.uint8)
    maps = error_maps(images, images, 0)
    assert "+0.05" in maps.scale
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
