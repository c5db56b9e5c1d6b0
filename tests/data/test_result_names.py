"""Names of results by BIDS, and of all others."""

import json

import pytest

from monai_blurvae.data import ResultFolder
from monai_blurvae.errors import DataError


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("sub-01_T1w.nii.gz", "sub-01/sub-01_desc-blurWidth_T1w.nii.gz"),
        ("anat/sub-01_ses-a_T1w.mgz", "sub-01/ses-a/anat/sub-01_ses-a_desc-blurWidth_T1w.nii.gz"),
        ("x/sub-1_acq-high_run-2_T2w.nii", "sub-1/sub-1_acq-high_run-2_desc-blurWidth_T2w.nii.gz"),
        ("sub-1_desc-brain_T1w.nii", "sub-1/sub-1_desc-brainBlurWidth_T1w.nii.gz"),
        ("a/b.nii.gz", "a/b/b_blur_width.nii.gz"),
        ("sub-1.nii.gz", "sub-1/sub-1_blur_width.nii.gz"),
        ("sub-1/T1.nii.gz", "sub-1/T1/T1_blur_width.nii.gz"),
    ],
)
def test_names(tmp_path, source, expected):
    names = ResultFolder(tmp_path / "out", tmp_path / "in").names(tmp_path / "in" / source)
    assert names.path("blur_width").relative_to(tmp_path / "out").as_posix() == expected


def test_no_two_volumes_share_a_name(tmp_path):
    folder = ResultFolder(tmp_path / "out", tmp_path)
    first, second = folder.names(tmp_path / "a.nii"), folder.names(tmp_path / "a.mgz")
    assert first.path("error") != second.path("error")
    assert folder.names(tmp_path / "a.nii") == first
    folder.names(tmp_path / "x" / "sub-1_T1w.nii")
    with pytest.raises(DataError, match="have one name in BIDS, sub-1_desc-reconstruction_T1w"):
        folder.names(tmp_path / "y" / "sub-1_T1w.nii")


def test_a_description_that_is_there_is_kept(tmp_path):
    folder = ResultFolder(tmp_path, tmp_path)
    folder.describe()
    assert json.loads((tmp_path / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    (tmp_path / "dataset_description.json").write_text("mine")
    folder.describe()
    assert (tmp_path / "dataset_description.json").read_text() == "mine"
