"""The page of a volume: regions where the errors are, planes as radiographs of the body lie."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from monai_blurvae.report.scans import VolumeResults, unusual_regions, write_volume_page

pytest.importorskip("matplotlib")

SHAPE = (40, 36, 30)
AFFINE = np.array([[0, 0, -1.5, 10], [-1.0, 0, 0, 20], [0, 2.0, 0, 30], [0, 0, 0, 1]])
"""Axes of the file run to the back, up and to the left."""


def results(place, neg_log_prob=True):
    scan = np.full(SHAPE, 100.0, np.float32)
    scan[:3], scan[-3:] = 0, 0
    error = np.zeros(SHAPE, np.float32)
    x, y, z = place
    error[x - 3 : x + 4, y - 2 : y + 2, z - 2 : z + 3] = 30
    surprise = error**2 if neg_log_prob else None
    return VolumeResults("a <scan>", AFFINE, scan, scan + error, error, surprise, 1)


def pictures(page):
    found = re.findall(r"data:image/(?:png|jpeg);base64,([^\"]+)", page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))) for content in found]


def test_a_planted_error_is_the_most_unusual_region(tmp_path):
    place = (12, 20, 8)
    write_volume_page(tmp_path / "a.html", results(place))
    page = (tmp_path / "a.html").read_text()
    assert "a &lt;scan&gt;" in page
    row = re.search(r"<tr>\s*<td>1</td>\s*<td>([^<]*)</td>\s*<td>([^<]*)</td>", page)
    found = np.array([float(value) for value in row[1].split(",")])
    expected = (AFFINE @ [*place, 1])[:3]
    assert np.abs(found - expected).max() <= 4  # half a cube
    voxel = np.array([int(value) for value in row[2].split(",")])
    np.testing.assert_allclose((AFFINE @ [*voxel, 1])[:3], found, atol=0.76)


def test_left_is_left_and_up_is_up(tmp_path):
    """An error high up at the left: R is small, S is large."""
    write_volume_page(tmp_path / "a.html", results((20, 30, 25), neg_log_prob=False))
    page = (tmp_path / "a.html").read_text()
    coronal = pictures(page)[1 + 3 + 2].astype(int)  # after the bar and the three of the sagittal plane
    red = np.argwhere((coronal[..., 0] - coronal[..., 2]) > 40)
    row, column = red.mean(0) / coronal.shape[:2]
    assert row < 0.3
    assert column < 0.3
    assert coronal.shape[:2] == (48, 30)  # 36 voxels of 2 mm by 30 of 1.5 mm, in pixels of 1.5 mm
    assert "<td>–</td>" in page


def test_regions_lie_apart_and_nan_counts_as_no_error():
    error = np.zeros(SHAPE, np.float32)
    error[10, 10, 10], error[30, 30, 20], error[20, 20, 15] = 9, -8, np.nan
    regions = unusual_regions(error, None, (1.0, 1.0, 1.0))
    assert len(regions) == 2
    assert [
        np.abs(np.subtract(r.centre, p)).max() <= 4 for r, p in zip(regions, [(10,) * 3, (30, 30, 20)], strict=True)
    ]
    assert regions[0].rms_error == pytest.approx(np.sqrt(81 / 512))
    assert (regions[0].mean_error, regions[1].mean_error) == (pytest.approx(9 / 512), pytest.approx(-8 / 512))
    assert unusual_regions(np.zeros(SHAPE, np.float32), None, (1.0, 1.0, 1.0)) == []
