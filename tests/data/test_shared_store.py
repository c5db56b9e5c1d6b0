"""A store that others made: complete and read-only, or shared by users."""

import os
import stat
import tempfile
import traceback
from pathlib import Path

import numpy as np
import pytest

from monai_blurvae.data import VolumeStore
from monai_blurvae.errors import RunFolderError
from tests.pipelines import patches, prepare
from tests.volumes import brain, save

NOBODY = 65534


@pytest.fixture
def folder():
    """A folder that other users reach; pytest's own are for one user."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def as_another_user(function):
    """What a function returns, as a text, when a user calls it who owns none of the files."""
    if os.geteuid():
        pytest.skip("only root can act as another user")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            result = str(function())
        except BaseException:
            result = traceback.format_exc()
        os.write(writing, result.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as handle:
        return handle.read()


def first_patch(items, cache):
    return lambda: float(patches(items, cache)[0]["image"].sum())


def test_a_complete_store_that_is_read_only_is_used(folder):
    items = [{"image": str(save(folder / f"{i}.nii", brain(i)))} for i in range(2)]
    expected = first_patch(items, folder / "cache")()
    for table in (folder / "cache" / "volumes").glob("*.*.npy"):
        table.unlink()  # of another patch size
    before = sorted(p.name for p in (folder / "cache").rglob("*"))
    assert as_another_user(first_patch(items, folder / "cache")) == str(expected)
    assert sorted(p.name for p in (folder / "cache").rglob("*")) == before


def test_a_store_that_may_not_be_written_says_which_file_it_lacks(folder):
    save(folder / "a.nii", brain())
    VolumeStore(folder / "cache", prepare(), 1).add(folder / "a.nii", "a")
    save(folder / "b.nii", brain(1))
    told = as_another_user(lambda: VolumeStore(folder / "cache", prepare(), 1).add(folder / "b.nii", "b"))
    assert RunFolderError.__name__ in told
    assert f"does not hold {folder / 'b.nii'} as this config prepares it; let its owner prepare it" in told


@pytest.mark.parametrize("mode", [0o666, 0o644])
def test_a_second_user_adds_to_a_store_whatever_the_first_ones_locks_are(folder, mode):
    save(folder / "a.nii", brain())
    entry = VolumeStore(folder / "cache", prepare(), 1).add(folder / "a.nii", "a")
    for path in (folder / "cache" / "volumes", folder / "cache" / "volumes" / "checksums"):
        path.chmod(0o777)
    key = Path(entry.path).stem
    lock = folder / "cache" / "volumes" / f"{key}.lock"
    lock.touch()
    lock.chmod(mode)
    whole = entry.slices().copy()
    Path(entry.path).write_bytes(b"damaged")
    told = as_another_user(
        lambda: VolumeStore(folder / "cache", prepare(), 1).add(folder / "a.nii", "a").slices().astype(float).sum()
    )
    assert float(told) == whole.astype(float).sum()
    np.testing.assert_array_equal(
        VolumeStore(folder / "cache", prepare(), 1).add(folder / "a.nii", "a").slices(), whole
    )


def test_locks_are_made_for_all_who_may_write_in_the_folder(folder):
    before = os.umask(0o077)
    try:
        save(folder / "a.nii", brain())
        store = VolumeStore(folder / "cache", prepare(), 1)
        with store._building("key", "a"):
            (lock,) = (folder / "cache" / "volumes").glob("*.lock")
            assert stat.S_IMODE(lock.stat().st_mode) == 0o666
    finally:
        os.umask(before)
