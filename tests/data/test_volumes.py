import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, Lambdad, ScaleIntensityd, Spacingd

from monai_blurvae.data import VolumeStore, read_header
from monai_blurvae.data.patches import expected_shape
from monai_blurvae.errors import DataError
from tests.pipelines import patches, prepare
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
    entry = VolumeStore(tmp_path / "cache", prepare(), slice_axis).add(path, "a")
    low, high = np.percentile(ras.astype(float), [1, 99])
    expected = np.clip((ras - low) / (high - low), 0, 1) * 2 - 1
    assert entry.slices().dtype == np.float16
    np.testing.assert_allclose(entry.image()[0].astype(float), expected, atol=3e-4)  # half a unit in the last place
    assert entry.slices().flags.c_contiguous
    np.testing.assert_array_equal(np.moveaxis(entry.image(), slice_axis + 1, 0), entry.slices())
    canonical = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_allclose(entry.affine, canonical.affine)
    np.testing.assert_array_equal(entry.tensor().numpy(), entry.image().astype(np.float32))
    spacing = canonical.header.get_zooms()
    assert entry.voxel_size == (spacing[slice_axis], *np.delete(spacing, slice_axis))
    header = read_header(path)
    assert (header.shape, header.voxel_size) == (ras.shape, spacing)
    assert expected_shape(prepare(), header.shape) == ras.shape


def test_padding_is_background_also_of_a_z_scored_volume(tmp_path):
    array = brain(2, (20, 20, 20)).astype(np.float32)
    array = (array - array.mean()) / array.std()
    transform = prepare([24, 16, 20])
    entry = VolumeStore(tmp_path, transform, 2).add(save(tmp_path / "a.nii", array), "a")
    cropped = array[:, 2:18]
    low, high = np.percentile(cropped, [1, 99])
    scaled = np.clip((cropped - low) / (high - low), 0, 1) * 2 - 1
    expected = np.pad(scaled, ((2, 2), (0, 0), (0, 0)), constant_values=-1)
    assert entry.image().shape[1:] == expected_shape(transform, (20, 20, 20)) == (24, 16, 20)
    np.testing.assert_allclose(entry.image()[0], expected, atol=5e-4)


def test_voxel_sizes_are_those_after_the_transform(tmp_path):
    transform = Compose([prepare(), Spacingd("image", (2.0, 4.0, 1.0))])
    entry = VolumeStore(tmp_path, transform, 1).add(save(tmp_path / "a.nii", brain()), "a")
    assert entry.voxel_size == (4.0, 2.0, 1.0)
    assert expected_shape(transform, (48, 40, 44)) is None


def write_truncated(path):
    save(path, brain())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_value(value):
    array = brain().astype(np.float32)
    array[20, 20, 20] = value
    return write_array(array)


def write_array(array):
    return lambda path: save(path, array)


def write_flat_affine(path):
    save(path, brain(), affine=np.diag([1.0, 0.0, 1.0, 1.0]))


BAD = {
    "missing": (lambda path: path.unlink(missing_ok=True), "is not there; correct the path"),
    "link": (lambda path: path.symlink_to(".git/annex/objects/x"), "is a link to .*which is not there; fetch it with"),
    "annex": (lambda path: path.write_text("/annex/objects/SHA256E-s9--0.nii.gz"), "pointer .* with 'git annex get'"),
    "lfs": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "with 'git lfs pull'"),
    "truncated": (write_truncated, "cannot be read to its end"),
    "corrupt": (lambda path: path.write_bytes(gzip.compress(b"not NIfTI" * 100)), "cannot be read"),
    "empty_file": (lambda path: path.write_bytes(b""), "cannot be read"),
    "nan": (write_array(np.full((40, 40, 40), np.nan, np.float32)), "NaN alone"),
    "infinite": (write_value(np.inf), "1 infinite value"),
    "infinite_and_nan": (write_array(np.array([np.nan, -np.inf] * 32000).reshape(40, 40, 40)), "32000 infinite value"),
    "constant": (write_array(np.full((40, 40, 40), 7, np.int16)), "single value 7"),
    "4d": (write_array(np.zeros((40, 40, 40, 2), np.int16)), "4 dimensions"),
    "2d": (write_array(np.zeros((40, 40), np.int16)), "2 dimensions"),
    "complex": (write_array(np.ones((40, 40, 40), np.complex64)), "where real numbers are expected"),
    "small_slice": (write_array(brain(0, (48, 40, 20))), "smaller than the patch_size 32"),
    "no_foreground": (
        write_array(np.pad(brain(0, (9, 40, 9)), ((20, 20), (0, 0), (20, 20)))),
        "no 32×32 patch with 25% foreground, the best has [0-9]%",
    ),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_a_bad_file_stops_naming_it_or_is_skipped(tmp_path, kind):
    write, message = BAD[kind]
    items = [{"image": str(tmp_path / f"{name}.nii.gz"), "subject": name} for name in "abc"]
    for name in "ac":
        save(tmp_path / f"{name}.nii.gz", brain())
    write(tmp_path / "b.nii.gz")
    with pytest.raises(DataError, match=message) as error:
        patches(items, tmp_path / "cache")
    assert items[1]["image"] in str(error.value)
    facts = patches(items, tmp_path / "cache", skip_bad_files=True).facts()
    assert [entry["subject"] for entry in facts.entries] == ["a", "c"]
    assert len(facts.skipped) == 1
    assert items[1]["image"] in facts.skipped[0]


def test_a_bad_header_stops_before_the_long_work(tmp_path):
    items = [{"image": str(save(tmp_path / "a.nii.gz", brain()))}, {"image": str(tmp_path / "b.nii.gz")}]
    with pytest.raises(DataError, match=r"b\.nii\.gz"):
        patches(items, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_skipping_may_not_leave_nothing(tmp_path):
    with pytest.raises(DataError, match=r"none of the 1 volumes can be used; .*b\.nii"):
        patches([{"image": str(tmp_path / "b.nii")}], tmp_path / "cache", skip_bad_files=True)


def test_space_is_checked_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(DataError, match="set cache_dir to a folder on a larger disk"):
        patches([{"image": str(save(tmp_path / "a.nii.gz", brain()))}], tmp_path / "cache")


def fail(volume):
    raise ArithmeticError("no such root")


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (Lambdad("image", fail), r"a\.nii cannot be prepared by Lambdad \(no such root\)"),
        (ScaleIntensityd("image", 0, 1e6), r"a\.nii has values .* float16 does not hold, the largest is 1e\+06"),
        (Lambdad("image", lambda volume: volume[0]), r"a\.nii has the shape \(48, 40, 44\) after the transform"),
    ],
)
def test_what_a_users_transform_does_wrong(tmp_path, transform, message):
    path = save(tmp_path / "a.nii", brain())
    with pytest.raises(DataError, match=message):
        VolumeStore(tmp_path, Compose([prepare(), transform])).add(path, "a")


def test_the_store_is_built_once_and_shared_by_content(tmp_path):
    path = save(tmp_path / "a.nii.gz", brain())
    store = VolumeStore(tmp_path / "cache", prepare(), 1)
    assert store.get(path, "a") is None
    entry = store.add(path, "a")
    stamp = Path(entry.path).stat().st_mtime_ns
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes(path.read_bytes())
    again = VolumeStore(tmp_path / "cache", prepare(), 1).add(copy, "b")
    assert (again.path, again.subject, again.source) == (entry.path, "b", str(copy))
    assert Path(entry.path).stat().st_mtime_ns == stamp
    assert VolumeStore(tmp_path / "cache", prepare(), 2).get(path, "a") is None
    assert VolumeStore(tmp_path / "cache", prepare(40), 1).get(path, "a") is None
    assert not list((tmp_path / "cache").rglob("*.part"))
    save(path, brain(5))  # new content under the old name
    assert store.get(path, "a") is None


def test_a_damaged_entry_is_built_again(tmp_path):
    path = save(tmp_path / "a.nii.gz", brain())
    store = VolumeStore(tmp_path / "cache", prepare(), 1)
    entry = store.add(path, "a")
    whole = entry.slices().copy()
    with Path(entry.path).open("r+b") as handle:
        handle.truncate(1000)
    assert store.get(path, "a") is None
    np.testing.assert_array_equal(store.add(path, "a").slices(), whole)
    Path(entry.path).with_suffix(".json").write_text('{"header"')
    assert store.get(path, "a") is None
    assert store.add(path, "a").slices().shape == whole.shape


def test_a_damaged_table_is_measured_again(tmp_path):
    items = [{"image": str(save(tmp_path / "a.nii.gz", brain()))}]
    position = patches(items, tmp_path / "cache")[0]["position"]
    (table,) = (tmp_path / "cache" / "volumes").glob("*.*.npy")
    rows = np.load(table)
    rows[0, 1] = 1000
    np.save(table, rows)
    assert patches(items, tmp_path / "cache")[0]["position"] == position
    assert np.load(table).max() < 1000
    table.write_bytes(b"")
    assert patches(items, tmp_path / "cache")[0]["position"] == position
