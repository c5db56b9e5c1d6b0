import sys
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("pandas")

from study.figures import (
    _style,
    draw_kernels,
    draw_rate_distortion,
    draw_spectra,
    draw_spectrum_images,
    save,
)
from study.frames import cells_frame
from study.kernels import KernelHistory
from study.plan import TABLES


def measured(row, beta, seed=0, **values):
    return {"row": row, "beta": beta, "seed": seed, "split": "test", **values}


def needs_matplotlib():
    pytest.importorskip("matplotlib")


def test_lines_go_through_the_means_of_each_beta():
    needs_matplotlib()
    cells = [measured("l2", 1.0, s, kl=10.0 + 2 * s, psnr=20.0 + s) for s in (0, 1)]
    cells += [measured("l2", 0.1, s, kl=40.0, psnr=25.0) for s in (0, 1)]
    figure = draw_rate_distortion({"L2": cells_frame(cells)}, "Test subjects", 20.0)
    axis = figure.axes[0]
    assert axis.get_xscale() == "log"
    assert np.array_equal(axis.lines[0].get_xydata(), [[11.0, 20.5], [40.0, 25.0]])
    assert axis.lines[-1].get_xdata()[0] == 20.0
    assert len(axis.collections[0].get_offsets()) == 4
    assert [text.get_text() for text in figure.axes[1].texts] == ["not measured"]
    assert [text.get_text() for text in figure.axes[5].get_legend().get_texts()] == ["L2"]


def test_every_row_of_a_table_has_a_style_of_its_own():
    most = max(len(table.rows) for table in TABLES.values())
    styles = [(s["color"], s["marker"], s["linestyle"]) for s in map(_style, range(most))]
    assert len(set(styles)) == most
    markers = [s[1:] for s in styles]
    assert len(set(markers)) == most  # also without colours


def test_spectra_are_drawn_with_their_difference():
    needs_matplotlib()
    spectra = {"images": [0.0, -1.0], "reconstruction": [0.0, -3.0], "sample": [1.0, -1.5]}
    figure = draw_spectra({"L2": spectra}, "Test subjects")
    reconstruction, sample, _, reconstruction_difference, sample_difference = figure.axes[:5]
    assert np.array_equal(reconstruction.lines[0].get_ydata(), [0.0, -1.0])
    assert np.array_equal(reconstruction.lines[1].get_xydata(), [[0.25, 0.0], [0.5, -3.0]])
    assert np.array_equal(sample.lines[1].get_ydata(), [1.0, -1.5])
    assert np.array_equal(reconstruction_difference.lines[0].get_ydata(), [0.0, -2.0])
    assert np.array_equal(sample_difference.lines[0].get_ydata(), [1.0, -0.5])


def test_kernels_are_drawn_over_the_epochs_and_their_widths_below():
    needs_matplotlib()
    pictures = {epoch: np.full((4, 8), epoch, np.uint8) for epoch in range(1, 11)}
    images = np.full((4, 8), 77, np.uint8)
    first = KernelHistory(pictures, {e: 5.0 - e / 10 for e in range(1, 11)}, {1: 4.0, 10: 3.0}, pictures, images)
    second = KernelHistory({10: pictures[10]}, first.training, {10: 2.0})
    figure = draw_kernels({"L2\nβ = 0.1": first, "W": second}, "Kernels", warmup=2)
    *grid, widths = figure.axes
    # images once, then reconstructions and kernels of the first row, then kernels of the second
    assert [[int(image.get_array().max()) for image in axis.images] for axis in grid] == [
        *([77], [], [], []),
        *([e] for e in (1, 4, 7, 10)),
        *([e] for e in (1, 4, 7, 10)),
        *([], [], [], [10]),
    ]
    assert [axis.get_title() for axis in grid[4:8]] == ["epoch 1", "epoch 4", "epoch 7", "epoch 10"]
    labels = [axis.get_ylabel() for axis in grid[::4]]
    assert labels == ["images", "L2\nβ = 0.1\nreconstructions", "L2\nβ = 0.1\nkernels", "W\nkernels"]
    assert np.allclose(widths.lines[0].get_ydata(), 5 - np.arange(1, 11) / 10)
    assert np.array_equal(widths.lines[1].get_xydata(), [[1, 4.0], [10, 3.0]])
    assert np.array_equal(widths.lines[4].get_xydata(), [[10, 2.0]])
    assert widths.lines[-1].get_xdata()[0] == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["L2, β = 0.1", "W"]


def test_spectrum_images_stand_with_their_distance_from_the_images():
    needs_matplotlib()
    images = np.zeros((2, 2), np.float32)
    figure = draw_spectrum_images({"L2": np.stack([images, images + 0.5, images - [[1, 0], [0, 0]]])}, "T")
    reconstruction, data, sample = figure.axes[:3]
    assert reconstruction.get_xlabel() == "mean |Δ| 0.500"
    assert sample.get_xlabel() == "mean |Δ| 0.250"
    assert np.array_equal(data.images[0].get_array(), images)


def test_rates_are_numbers_that_do_not_touch():
    needs_matplotlib()
    cells = cells_frame(measured("l2", b, kl=kl, psnr=1.0) for b, kl in ((1, 55), (2, 420)))
    figure = draw_rate_distortion({"L2": cells}, "T", 9)
    axis = figure.axes[0]
    figure.draw_without_rendering()
    low, high = axis.get_xlim()
    labels = {t.get_position()[0]: t.get_text() for t in axis.get_xticklabels()}
    assert {text for place, text in labels.items() if low <= place <= high} >= {"100", "200"}
    boxes = [t.get_window_extent() for t in axis.get_xticklabels() if low <= t.get_position()[0] <= high]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert not any(t.get_text() for t in axis.get_xticklabels(minor=True))


def test_figures_are_png_and_pdf(tmp_path):
    needs_matplotlib()
    save(draw_rate_distortion({"L2": cells_frame([measured("l2", 1.0, kl=1.0, psnr=2.0)])}, "T", None), tmp_path, "x")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
    assert len(list(tmp_path.iterdir())) == 2


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"monai-blurvae\[study\]"):
        draw_rate_distortion({}, "T", None)
