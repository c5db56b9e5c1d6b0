import numpy as np
import pytest

from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import Record


def test_a_record_comes_back(tmp_path):
    path = tmp_path / "a.npz"
    Record({"x": np.arange(3), "y": np.eye(2, dtype=np.float32)}, {"σ": [0.1], "name": "a"}).write(path)
    found = Record.read(path, ["x", "y"], ["σ"], "make it again")
    np.testing.assert_array_equal(found.arrays["x"], np.arange(3))
    assert found.arrays["y"].dtype == np.float32
    assert found.about == {"σ": [0.1], "name": "a"}
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize(("arrays", "about", "name"), [(["z"], [], "z"), (["x"], ["b"], "b")])
def test_what_is_missing_is_named(tmp_path, arrays, about, name):
    Record({"x": np.zeros(1)}, {"a": 1}).write(tmp_path / "a.npz")
    with pytest.raises(RunFolderError, match=rf"a.npz has no {name}; make it again\.$"):
        Record.read(tmp_path / "a.npz", arrays, about, "make it again")


@pytest.mark.parametrize("content", [b"x", b""])
def test_what_is_no_record(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"a.npz cannot be read .*; make it again\.$"):
        Record.read(tmp_path / "a.npz", [], [], "make it again")
