import nibabel as nib
import numpy as np
import pytest

from monai_blurvae.data import load_datalist, read_header, sample
from monai_blurvae.data.sample import make_sample, sample_dir
from monai_blurvae.errors import DataError
from tests.volumes import HCP

pytest.importorskip("nilearn")


@pytest.mark.slow
def test_the_sample_is_made_once_in_hcps_layout_and_marked_synthetic(tmp_path, monkeypatch):
    drawn, draw = [], sample._subject

    def draw_two(template, seed):
        """The others would differ from them by their seeds alone, and take as long."""
        drawn.append(draw(template, seed) if len(drawn) < 2 else np.ones((8, 8, 8), np.float32))
        return drawn[-1]

    monkeypatch.setattr(sample, "_subject", draw_two)
    folder = make_sample(sample_dir(tmp_path))
    datalist = load_datalist(folder, f"*/{HCP}", None, 0)
    assert datalist.remark == "SYNTHETIC images"
    assert [len(datalist.items(s)) for s in ("training", "validation", "test")] == [8, 2, 2]
    paths = sorted(folder.glob(f"*/{HCP}"))
    assert len(paths) == 12
    first, second = (nib.load(p) for p in paths[:2])
    assert read_header(paths[0]).synthetic
    assert first.header.get_zooms() == pytest.approx((0.7, 0.7, 0.7))  # HCP's
    assert nib.aff2axcodes(first.affine) == ("R", "A", "S")
    a, b = (np.asarray(image.dataobj, dtype=float) for image in (first, second))
    inside = a > 0
    assert 1.2e6 < inside.sum() * 0.7**3 < 2.4e6  # an adult brain in mm³
    assert not np.allclose(a, b)
    assert "Louis Collins" in (folder / "LICENSE.txt").read_text()
    stamps = [p.stat().st_mtime_ns for p in paths]
    assert make_sample(folder) == folder
    assert stamps == [p.stat().st_mtime_ns for p in paths]


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(DataError, match=r"already holds thesis\.docx"):
        make_sample(tmp_path)


def test_without_nilearn_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nilearn", None)
    with pytest.raises(DataError, match=r"monai-blurvae\[sample\]"):
        make_sample(tmp_path / "sample")
