import gzip
import json
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_blurvae.data import Datalist, VolumeStore, prepare_volumes
from monai_blurvae.data.store import FOREGROUND_THRESHOLD
from monai_blurvae.errors import DataError
from monai_blurvae.transforms import PrepareVolume
from tests.volumes import brain, save


def oblique(shape=(20, 24, 28)):
    """A volume stored as (P, S, L) with anisotropic voxels, and the same in RAS order."""
    array = brain(1, shape)
    affine = np.array([[0, 0, -3.0, 10], [-1.0, 0, 0, 20], [0, 2.0, 0, 30], [0, 0, 0, 1]])
    return array, affine, array.transpose(2, 0, 1)[::-1, ::-1]


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_preprocessing_against_numpy(tmp_path, slice_axis):
    array, affine, ras = oblique()
    path = save(tmp_path / "a.nii.gz", array, affine=affine)
    prepared = PrepareVolume(slice_axis)(path)
    low, high = np.percentile(ras.astype(float), [1, 99])
    expected = np.moveaxis(np.clip((ras - low) / (high - low), 0, 1), slice_axis, 0)
    assert prepared.array.dtype == np.float16
    np.testing.assert_allclose(prepared.array.astype(float), expected, atol=3e-4)  # half a unit in the last place
    canonical = nib.as_closest_canonical(nib.load(path))
    spacing = canonical.header.get_zooms()
    assert prepared.header.shape == expected.shape
    assert prepared.header.voxel_size == (spacing[slice_axis], *np.delete(spacing, slice_axis))


def test_volume_size_pads_before_the_percentiles(tmp_path):
    array = brain(2, (20, 20, 20)) + 100
    prepared = PrepareVolume(2, volume_size=[24, 16, 20])(save(tmp_path / "a.nii", array))
    padded = np.pad(array[:, 2:18], ((2, 2), (0, 0), (0, 0)))
    low, high = np.percentile(padded, [1, 99])
    expected = np.moveaxis(np.clip((padded - low) / (high - low), 0, 1), 2, 0)
    assert prepared.array.shape == prepared.header.shape == (20, 24, 16)
    np.testing.assert_allclose(prepared.array.astype(float), expected, atol=3e-4)


def write_truncated(path):
    save(path, brain())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_corrupt(path):
    path.write_bytes(gzip.compress(b"not NIfTI" * 100))


def write_value(value):
    def write(path):
        array = brain().astype(np.float32)
        array[20, 20, 20] = value
        save(path, array)

    return write


def write_array(array):
    return lambda path: save(path, array)


def write_outlier(path):
    array = np.zeros((40, 40, 40), np.int16)
    array[20, 20, 20] = 1
    save(path, array)


BAD = {
    "truncated": (write_truncated, "cannot be read"),
    "corrupt": (write_corrupt, "cannot be read"),
    "empty_file": (lambda path: path.write_bytes(b""), "cannot be read"),
    "nan": (write_value(np.nan), "NaN or infinite"),
    "infinite": (write_value(np.inf), "NaN or infinite"),
    "constant": (write_array(np.full((40, 40, 40), 7, np.int16)), "single value 7"),
    "zero": (write_array(np.zeros((40, 40, 40), np.int16)), "single value 0"),
    "nearly_constant": (write_outlier, "all but constant"),
    "4d": (write_array(np.zeros((40, 40, 40, 2), np.int16)), "4 dimensions"),
    "2d": (write_array(np.zeros((40, 40), np.int16)), "2 dimensions"),
    "small_slice": (write_array(brain(0, (48, 40, 20))), "smaller than the patch_size 32"),
    "no_foreground": (
        write_array(np.pad(brain(0, (9, 40, 9)), ((20, 20), (0, 0), (20, 20)))),
        "no 32×32 patch with 90%",
    ),
}


def datalist(folder, names):
    entries = [{"image": name, "subject": name} for name in names]
    return Datalist(folder, entries[:-1], entries[-1:], [])


@pytest.mark.parametrize("kind", sorted(BAD))
def test_a_bad_file_stops_naming_it_or_is_skipped(tmp_path, kind):
    write, message = BAD[kind]
    folder = tmp_path / "data"
    for name in ("a.nii.gz", "c.nii.gz"):
        save(folder / name, brain())
    write(folder / "b.nii.gz")
    listed = datalist(folder, ["a.nii.gz", "b.nii.gz", "c.nii.gz"])
    arguments = (tmp_path / "cache", PrepareVolume(1), 32, 0.9 if kind == "no_foreground" else 0.25)
    if kind == "no_foreground":
        for name in ("a.nii.gz", "c.nii.gz"):
            save(folder / name, brain() + 500)
    with pytest.raises(DataError, match=message) as error:
        prepare_volumes(listed, *arguments)
    assert str(folder / "b.nii.gz") in str(error.value)
    volumes = prepare_volumes(listed, *arguments, skip_bad_files=True)
    assert [v.subject for v in volumes] == ["a.nii.gz", "c.nii.gz"]
    assert len(volumes.skipped) == 1
    assert "b.nii.gz" in volumes.skipped[0]


def test_skipping_may_not_empty_a_split(tmp_path):
    save(tmp_path / "a.nii.gz", brain())
    (tmp_path / "b.nii.gz").write_bytes(b"")
    with pytest.raises(DataError, match="no usable volume is left for validation"):
        prepare_volumes(datalist(tmp_path, ["a.nii.gz", "b.nii.gz"]), tmp_path, PrepareVolume(1), 32, 0.25, True)


def test_the_store_is_built_once_and_shared_by_content(tmp_path):
    path = save(tmp_path / "a.nii.gz", brain())
    store = VolumeStore(tmp_path / "cache", PrepareVolume(1))
    assert store.get(path, "a") is None
    entry = store.add(path, "a")
    stamp = (tmp_path / "cache" / "volumes" / f"{entry.path}").stat().st_mtime_ns
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes(path.read_bytes())
    again = store.add(copy, "b")
    assert again.path == entry.path
    assert (tmp_path / "cache" / "volumes" / f"{entry.path}").stat().st_mtime_ns == stamp
    assert VolumeStore(tmp_path / "cache", PrepareVolume(2)).get(path, "a") is None
    assert VolumeStore(tmp_path / "cache", PrepareVolume(1, 40)).get(path, "a") is None
    assert not list((tmp_path / "cache").rglob("*.part"))
    save(path, brain(5))  # new content under the old name
    assert store.get(path, "a") is None


def test_a_damaged_entry_is_built_again(tmp_path):
    path = save(tmp_path / "a.nii.gz", brain())
    store = VolumeStore(tmp_path / "cache", PrepareVolume(1))
    entry = store.add(path, "a")
    whole = entry.array().copy()
    with Path(entry.path).open("r+b") as handle:
        handle.truncate(1000)
    assert store.get(path, "a") is None
    np.testing.assert_array_equal(store.add(path, "a").array(), whole)
    Path(entry.path).with_suffix(".json").write_text('{"header"')
    assert store.get(path, "a") is None
    assert store.add(path, "a").shape == whole.shape


def test_what_an_entry_knows(tmp_path):
    path = save(tmp_path / "a.nii.gz", brain(), (1.0, 3.0, 2.0), description=b"synthetic: for a test")
    entry = VolumeStore(tmp_path, PrepareVolume(1)).add(path, "a")
    assert entry.voxel_size == (3.0, 1.0, 2.0)
    assert entry.synthetic
    expected = (entry.array() > FOREGROUND_THRESHOLD).sum((1, 2))
    assert list(entry.foreground) == expected.tolist()
    assert len(pickle.dumps(entry)) < 20_000
    json.dumps(entry.__getstate__())


def test_voxel_size_of_a_run_is_the_median_in_plane(tmp_path):
    for name, size in (("a", (1, 1, 2)), ("b", (1, 1, 3)), ("c", (1, 1, 2)), ("d", (1, 9, 9))):
        save(tmp_path / f"{name}.nii.gz", brain(), size)
    listed = datalist(tmp_path, [f"{name}.nii.gz" for name in "abcd"])
    volumes = prepare_volumes(listed, tmp_path / "cache", PrepareVolume(1), 32, 0.25)
    assert volumes.voxel_size == (1.0, 2.0)
    assert not volumes.synthetic
