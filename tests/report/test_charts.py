import builtins
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from monai_blurvae.report.charts import (
    BLUE,
    FONT_SIZE,
    ORANGE,
    Series,
    area_chart,
    histogram,
    late_range,
    line_chart,
    need_matplotlib,
)

SVG = "{http://www.w3.org/2000/svg}"


def draw(name="a", y=(1.0, 2.0, 4.0), **options):
    series = [Series("training", [1, 2, 3], list(y), BLUE), Series("validation", [2], [3.0], ORANGE, "o")]
    return line_chart(name, 'what "it" <is>', "epoch", "KL (nats)", series, **options)


def all_charts():
    rng = np.random.default_rng(0)
    return [
        draw(level=(2.5, "flat")),
        draw("b", from_zero=True),
        area_chart("c", "areas", "unit", "KL (nats)", np.arange(20.0)),
        histogram("d", "counts", "PSNR (dB)", "images", rng.normal(size=500)),
    ]


def test_charts_are_svg_with_text_and_names_of_their_own():
    names = []
    for svg in all_charts():
        root = ElementTree.fromstring(svg)
        assert root.tag == f"{SVG}svg"
        names += [e.get("id") for e in root.iter() if e.get("id")]
        texts = list(root.iter(f"{SVG}text"))
        assert texts
        for text in texts:
            assert float(re.search(r"font(?:-size)?: ?([\d.]+)px", text.get("style")).group(1)) >= FONT_SIZE
        references = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
        assert references <= {e.get("id") for e in root.iter()}
        assert "<!DOCTYPE" not in svg
        assert not re.findall(r'(?:src|href)="(?!#)', svg)
    assert len(names) == len(set(names))


def test_labels_and_descriptions_are_there():
    svg = draw(level=(2.5, "flat kernel"))
    assert ElementTree.fromstring(svg).get("aria-label") == 'what "it" <is>'
    text = [t.text for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert {"epoch", "KL (nats)", "training", "validation", "flat kernel"} <= set(text)


def test_epochs_are_whole():
    texts = [t.text for t in ElementTree.fromstring(draw()).iter(f"{SVG}text")]
    before = texts[: texts.index("epoch")]
    assert before
    assert all(text.isdigit() for text in before)


def test_the_same_chart_is_drawn_the_same():
    assert draw() == draw()


def test_no_state_of_matplotlib_is_changed():
    before = dict(matplotlib.rcParams)
    draw()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("values", [(1.0, np.nan, np.inf), (np.nan, np.nan, np.nan)])
def test_values_that_are_not_finite_are_left_out(values):
    assert "nan" not in draw(y=values).lower()
    histogram("h", "", "", "", values)


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


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def absent(name, *arguments, **options):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r'pip install "monai-blurvae\[report\]"'):
        need_matplotlib()
