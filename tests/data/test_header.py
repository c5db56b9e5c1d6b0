import os

import pytest

from monai_blurvae.data import VOLUME_SUFFIXES, distinct_volumes, is_volume, read_header
from monai_blurvae.data.header import volume_files
from monai_blurvae.errors import DataError, SettingsError
from monai_blurvae.files import default_cache_dir
from tests.dicom import write_series
from tests.volumes import brain


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
def test_volumes_are_known_by_their_suffix_in_any_case(tmp_path, suffix):
    assert is_volume(tmp_path / f"a{suffix}")
    assert is_volume(tmp_path / f"A{suffix.upper()}")
    assert not is_volume(tmp_path / suffix.replace(".", "a"))


def test_a_folder_is_a_volume_if_slices_lie_in_it(tmp_path):
    write_series(tmp_path / "a" / "scan", brain(0, (9, 8, 3)))
    for i, path in enumerate(sorted((tmp_path / "a" / "scan").iterdir())):
        path.rename(path.with_name(f"IM{i}"))
    (tmp_path / "b").mkdir()
    assert [is_volume(tmp_path / name) for name in ("a", "a/scan", "b", "a/scan/IM0")] == [False, True, False, False]
    assert len(volume_files(tmp_path / "a" / "scan")) == 3
    with pytest.raises(DataError, match="b is a folder without a DICOM series; give a file, or"):
        read_header(tmp_path / "b")


def test_a_pair_is_one_volume(tmp_path):
    paths = [tmp_path / name for name in ("a.hdr", "a.img", "b.hdr", "c.nii", "c.json")]
    assert distinct_volumes(paths) == [paths[1], paths[2], paths[3]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.hdr", b"", "needs a.img beside it"),
        ("a.img", b"", "needs a.hdr beside it"),
        ("a.mhd", b"NDims = 3\nElementDataFile = a.raw\n", "names 'a.raw' as the file with its voxels"),
        ("a.nhdr", b"NRRD0004\ndimension: 3\n", "does not name the file with its voxels"),
    ],
)
def test_a_part_alone_says_which_other_is_missing(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        volume_files(tmp_path / name)


def test_no_home_folder(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "BLURVAE_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: os.fspath(path))  # a user whom the system does not know
    with pytest.raises(SettingsError, match="no home folder for the cache; set cache_dir or BLURVAE_CACHE_DIR"):
        default_cache_dir()
