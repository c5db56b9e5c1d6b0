import logging
import multiprocessing
import os
import pickle
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from monai.data import PILReader
from monai.transforms import Compose, Flipd, Lambdad, LoadImaged, ScaleIntensityRanged
from PIL import Image

from monai_blurvae.data import store as image_store
from monai_blurvae.data.store import ImageStore
from monai_blurvae.errors import DataError, RunFolderError
from monai_blurvae.transforms.prepare_image import PrepareImaged

SIZE = 4
NO_FORK = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")


class Counting(PrepareImaged):
    """Notes what it prepares, which is no part of its description."""

    def __init__(self, size, **options):
        super().__init__("image", size, **options)
        self._made = []

    @property
    def made(self):
        return self._made

    def __call__(self, data):
        self._made.append(data["image"])
        return super().__call__(data)


def pixels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def make_images(folder, count=6, seed=0):
    """Paths and, as (count, 3, SIZE, SIZE), what their files hold."""
    folder.mkdir(exist_ok=True)
    paths = []
    for i, image in enumerate(pixels(count, seed)):
        paths.append(str(folder / f"{i}.png"))
        Image.fromarray(image).save(paths[-1])
    return paths, pixels(count, seed).transpose(0, 3, 1, 2)


@pytest.fixture
def images(tmp_path):
    return make_images(tmp_path / "images")


def open_store(tmp_path, paths, **options):
    transform = Counting(SIZE, **options)
    return ImageStore(tmp_path / "cache", paths, transform), transform


def write_byte(store, index, value=None):
    """Flip the lowest bit of an image's first byte in the file, or set the byte."""
    content = np.load(store.folder / "images.npy", mmap_mode="r+")
    content[index].flat[0] = content[index].flat[0] ^ 1 if value is None else value
    content.flush()


def test_images_are_prepared_once_and_when_they_are_asked_for(tmp_path, images):
    paths, expected = images
    store, transform = open_store(tmp_path, paths)
    assert (len(store), store.prepared(), transform.made) == (6, 0, [])
    for _ in range(2):
        np.testing.assert_array_equal(store[4], expected[4])
    assert (store.prepared(), transform.made) == (1, [paths[4]])
    np.testing.assert_array_equal(list(store), expected)
    assert transform.made == [paths[4], *paths[:4], paths[5]]
    assert store[0].dtype == np.uint8
    assert store[0].flags.writeable
    for index in (6, -1):
        with pytest.raises(IndexError):
            store[index]


def test_another_run_finds_what_is_there(tmp_path, images):
    paths, expected = images
    open_store(tmp_path, paths)[0].prepare([0, 3])
    store, transform = open_store(tmp_path, paths)
    assert store.prepared() == 2
    np.testing.assert_array_equal(store[3], expected[3])
    assert transform.made == []


def test_no_file_is_read_before_its_image_is_asked_for(tmp_path):
    paths = [str(tmp_path / f"{i}.jpg") for i in range(3)]
    for path in paths:
        with open(path, "w") as handle:  # noqa: PTH123
            handle.write("no image")
    store, transform = open_store(tmp_path, paths)
    assert transform.made == []
    with pytest.raises(DataError, match=r"1\.jpg cannot be read"):
        store[1]
    assert store.prepared() == 0


def test_the_store_is_sparse(tmp_path, images):
    paths, _ = images
    store = ImageStore(tmp_path / "cache", paths, PrepareImaged("image", 1024))
    store[0]
    whole = 6 * 3 * 1024**2
    status = (store.folder / "images.npy").stat()
    assert status.st_size > whole
    if hasattr(status, "st_blocks"):
        assert 512 * status.st_blocks < whole / 4


def test_key_depends_on_files_and_preprocessing(tmp_path, images):
    paths, _ = images
    folders = [open_store(tmp_path, paths)[0].folder]
    assert open_store(tmp_path, paths)[0].folder == folders[0]
    folders.append(open_store(tmp_path, paths, channels=1)[0].folder)
    folders.append(open_store(tmp_path, paths[:5])[0].folder)
    folders.append(open_store(tmp_path, paths[::-1])[0].folder)
    os.utime(paths[2], ns=(1, 1))
    folders.append(open_store(tmp_path, paths)[0].folder)
    assert len(set(folders)) == len(folders)


def test_relative_paths_count_from_the_working_folder(tmp_path, images, monkeypatch):
    paths, _ = images
    absolute = open_store(tmp_path, paths)[0].folder
    monkeypatch.chdir(tmp_path)
    assert open_store(tmp_path, [os.path.relpath(path) for path in paths])[0].folder == absolute


def test_a_changed_file_is_refused_and_gets_a_new_store(tmp_path, images):
    paths, _ = images
    store, _ = open_store(tmp_path, paths)
    fresh = pixels(1, seed=1)[0]
    Image.fromarray(fresh).save(paths[2])
    os.utime(paths[2], ns=(7, 7))
    with pytest.raises(DataError, match=r"2\.png has changed since the images were listed"):
        store[2]
    assert store.prepared() == 0
    again, _ = open_store(tmp_path, paths)
    assert again.folder != store.folder
    np.testing.assert_array_equal(again[2], fresh.transpose(2, 0, 1))


def test_a_file_that_vanishes(tmp_path, images):
    paths, expected = images
    store, _ = open_store(tmp_path, paths)
    store[1]
    for i in (1, 2):
        os.unlink(paths[i])  # noqa: PTH108
    np.testing.assert_array_equal(store[1], expected[1])
    with pytest.raises(DataError, match=r"2\.png is not there"):
        store[2]


def test_a_file_that_was_missing_from_the_start(tmp_path, images):
    paths, expected = images
    store, _ = open_store(tmp_path, [*paths, str(tmp_path / "gone.png")])
    assert store.sizes.tolist() == [*(os.path.getsize(path) for path in paths), -1]  # noqa: PTH202
    np.testing.assert_array_equal(store[5], expected[5])
    with pytest.raises(DataError, match=r"gone\.png is not there"):
        store[6]


def read_row(path):
    name, _, row = path.rpartition("#")
    return Image.fromarray(np.load(name)[int(row)])


def test_many_images_in_one_file(tmp_path, monkeypatch):
    np.save(tmp_path / "batch.npy", pixels(3))
    sources = [f"{tmp_path / 'batch.npy'}#{i}" for i in range(3)]
    asked = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **k: (asked.append(str(path)), real(path, **k))[1])
    store = ImageStore(tmp_path / "cache", sources, PrepareImaged("image", SIZE, load=read_row))
    assert [path for path in asked if "batch" in path] == [str(tmp_path / "batch.npy")]
    np.testing.assert_array_equal(list(store), pixels(3).transpose(0, 3, 1, 2))
    assert store.sizes.tolist() == [(tmp_path / "batch.npy").stat().st_size] * 3


def test_a_flipped_bit_is_found_and_mended(tmp_path, images):
    paths, expected = images
    store, transform = open_store(tmp_path, paths)
    store.prepare(range(6))
    write_byte(store, 3)
    transform.made.clear()
    np.testing.assert_array_equal(list(store), expected)
    assert transform.made == [paths[3]]
    np.testing.assert_array_equal(np.load(store.folder / "images.npy"), expected)


def test_a_flipped_check_is_found_and_mended(tmp_path, images):
    paths, expected = images
    store, transform = open_store(tmp_path, paths)
    store.prepare(range(6))
    checks = np.load(store.folder / "checks.npy", mmap_mode="r+")
    checks[2] ^= 1 << 20
    checks.flush()
    np.testing.assert_array_equal(store[2], expected[2])
    assert transform.made[6:] == [paths[2]]
    store[2]
    assert transform.made[6:] == [paths[2]]


def test_an_image_that_cannot_be_mended_is_no_longer_there(tmp_path, images):
    paths, _ = images
    store, _ = open_store(tmp_path, paths)
    store.prepare(range(6))
    write_byte(store, 0)
    os.unlink(paths[0])  # noqa: PTH108
    with pytest.raises(DataError, match=r"0\.png is not there"):
        store[0]
    assert store.prepared() == 5


def test_an_image_whose_crc_is_zero(tmp_path, images, monkeypatch):
    monkeypatch.setattr(image_store, "zlib", SimpleNamespace(crc32=lambda data: 0))
    paths, expected = images
    store, transform = open_store(tmp_path, paths)
    for _ in range(2):
        np.testing.assert_array_equal(store[0], expected[0])
    assert (store.prepared(), len(transform.made)) == (1, 1)


@pytest.mark.parametrize("name", ["images", "checks"])
@pytest.mark.parametrize("damage", ["gone", "cut", "garbage"])
def test_damaged_files_of_the_store(tmp_path, images, name, damage):
    paths, expected = images
    store, _ = open_store(tmp_path, paths)
    store.prepare(range(6))
    path = store.folder / f"{name}.npy"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] if damage == "cut" else b"garbage")
    again, _ = open_store(tmp_path, paths)
    np.testing.assert_array_equal(list(again), expected)
    assert again.prepared() == 6


def test_pickles_without_its_maps(tmp_path, images):
    paths, expected = images
    store = ImageStore(tmp_path / "cache", paths, PrepareImaged("image", SIZE))
    np.testing.assert_array_equal(store[1], expected[1])
    content = pickle.dumps(store)
    assert expected[1].tobytes() not in content
    again = pickle.loads(content)
    np.testing.assert_array_equal(list(again), expected)
    assert store.prepared() == 6  # the two see each other's images


def prepare_all(cache_dir, paths, start):
    start.wait()
    store = ImageStore(cache_dir, paths, Counting(SIZE))
    store.prepare(range(len(paths)))


@NO_FORK
def test_processes_share_the_store_from_its_creation(tmp_path):
    paths, expected = make_images(tmp_path / "images", 40)
    context = multiprocessing.get_context("fork")
    start = context.Event()
    processes = [context.Process(target=prepare_all, args=(tmp_path / "cache", paths, start)) for _ in range(3)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    store, transform = open_store(tmp_path, paths)
    assert store.prepared() == 40
    np.testing.assert_array_equal(list(store), expected)
    assert transform.made == []
    assert {path.name for path in store.folder.iterdir()} == {"images.npy", "checks.npy"}


def prepare_until_killed(cache_dir, paths, kill_at):
    store = ImageStore(cache_dir, paths, Counting(SIZE))
    write = store._write

    def half(name, array, index, value):
        if (name, index) == kill_at:
            with store._file(name).open("r+b") as handle:
                handle.seek(array.offset + index * value.nbytes)
                handle.write(value.tobytes()[: value.nbytes // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(name, array, index, value)

    store._write = half
    store.prepare(range(len(paths)))


@NO_FORK
@pytest.mark.parametrize("name", ["images", "checks"])
@pytest.mark.parametrize("stale", [False, True])
def test_killed_while_writing(tmp_path, images, name, stale):
    paths, expected = images
    if stale:  # the check of an image that was there, and was damaged since, must not vouch for half of a new one
        store, _ = open_store(tmp_path, paths)
        store.prepare(range(6))
        write_byte(store, 3)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=prepare_until_killed, args=(tmp_path / "cache", paths, (name, 3)))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store, transform = open_store(tmp_path, paths)
    np.testing.assert_array_equal(list(store), expected)
    assert paths[3] in transform.made
    assert paths[2] not in transform.made


def test_space_is_announced_and_checked_before_the_store_is_made(tmp_path, images, monkeypatch, caplog):
    paths, _ = images
    with caplog.at_level(logging.INFO):
        store, _ = open_store(tmp_path, paths)
        assert not caplog.records
        store[0]
    assert [record.getMessage() for record in caplog.records] == [
        f"6 images are prepared as they are needed, once: up to 0.0 MB in {store.folder}."
    ]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        open_store(tmp_path, paths)[0][1]
    assert not caplog.records
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=6 * (3 * 16**2 + 4) - 1))
    with pytest.raises(RunFolderError, match=r"0\.00 GB free, but the images need 0\.00 GB; set .*cache_dir"):
        ImageStore(tmp_path / "other", paths, PrepareImaged("image", 16))[0]
    assert not list((tmp_path / "other").rglob("*.npy"))


def test_a_full_disk_is_an_error_and_not_a_crash(tmp_path, images):
    resource = pytest.importorskip("resource")
    paths, expected = images
    store = ImageStore(tmp_path / "cache", paths, PrepareImaged("image", SIZE))
    store[0]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(RunFolderError, match=r"images\.npy cannot be written"):
            store[5]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    np.testing.assert_array_equal(store[5], expected[5])


def test_prepare_lists_or_raises_what_is_bad(tmp_path, images):
    paths, _ = images
    for i in (1, 4):
        with open(paths[i], "w") as handle:  # noqa: PTH123
            handle.write("no image")
    store, transform = open_store(tmp_path, paths)
    bad = store.prepare([0, 1, 4, 5], skip_bad_files=True)
    assert list(bad) == [1, 4]
    assert all(paths[i] in bad[i] for i in (1, 4))
    assert store.prepared() == 2
    transform.made.clear()
    with pytest.raises(DataError, match=r"1\.png"):
        store.prepare(range(6))
    assert transform.made == [paths[1]]


def test_record_of_bad_images(tmp_path, images):
    paths, _ = images
    store, _ = open_store(tmp_path, paths)
    assert store.bad() == {}
    assert store.note_bad(4, "four is bad")
    assert not store.note_bad(4, "four is bad")
    with (store.folder / "bad.jsonl").open("a") as handle:
        handle.write('{"index": 5, "err')  # a process was killed here
    again, _ = open_store(tmp_path, paths)
    assert again.note_bad(2, "two is\nbad ⚠")
    assert again.bad() == store.bad() == {2: "two is\nbad ⚠", 4: "four is bad"}
    again[4]
    assert store.bad() == {2: "two is\nbad ⚠"}


def test_an_empty_list(tmp_path):
    store = ImageStore(tmp_path / "cache", [], PrepareImaged("image", SIZE))
    assert (len(store), list(store), store.prepared(), store.bad(), store.prepare([])) == (0, [], 0, {}, {})
    assert not (tmp_path / "cache").exists()


def load(name):
    return LoadImaged(name, reader=PILReader(), ensure_channel_first=True)


def test_monais_transforms_are_stored_as_what_they_give(tmp_path, images):
    paths, expected = images
    transform = Compose([load("image"), ScaleIntensityRanged("image", 0, 255, -1, 1), Flipd("image", spatial_axis=1)])
    store = ImageStore(tmp_path / "cache", paths, transform)
    for _ in range(2):
        assert store[1].dtype == np.float32
        np.testing.assert_array_equal(store[1], transform({"image": paths[1]})["image"].numpy())
    assert np.load(store.folder / "images.npy").dtype == np.float32
    reopened = ImageStore(tmp_path / "cache", paths, Compose(transform.transforms[:2]))
    assert reopened.folder != store.folder
    # MONAI's reader gives columns before rows
    np.testing.assert_array_equal(reopened[1], expected[1].transpose(0, 2, 1).astype(np.float32) / 127.5 - 1)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int16])
def test_other_types_become_float32(tmp_path, images, dtype):
    paths, _ = images
    store = ImageStore(tmp_path / "cache", paths, lambda item: {"image": np.arange(6, dtype=dtype).reshape(1, 2, 3)})
    np.testing.assert_array_equal(store[2], np.arange(6, dtype=np.float32).reshape(1, 2, 3), strict=True)


def test_shape_and_type_are_those_of_the_first_image_that_can_be_prepared(tmp_path, images):
    paths, expected = images
    with open(paths[0], "w") as handle:  # noqa: PTH123
        handle.write("no image")
    store, transform = open_store(tmp_path, paths)
    assert list(store.prepare(range(2), skip_bad_files=True)) == [0]
    assert np.load(store.folder / "images.npy").shape == (6, 3, SIZE, SIZE)
    np.testing.assert_array_equal(store[1], expected[1])
    assert transform.made == paths[:2]


def test_images_of_several_shapes_are_refused(tmp_path, images):
    paths, _ = images
    Image.new("RGB", (SIZE, 2 * SIZE)).save(paths[3])
    store = ImageStore(tmp_path / "cache", paths, load("image"))
    store.prepare(range(3))
    message = r"3\.png was prepared as float32 \(3, 4, 8\), where the images before were float32 \(3, 4, 4\); let"
    with pytest.raises(DataError, match=message):
        store[3]
    assert store.prepared() == 3


def test_what_the_users_transforms_raise_names_the_file(tmp_path, images):
    paths, _ = images

    def fail(image):
        raise KeyError("modality")

    store = ImageStore(tmp_path / "cache", paths, Compose([load("image"), Lambdad("image", fail)]))
    with pytest.raises(DataError, match=r"4\.png cannot be prepared \('modality'\); replace or remove it, or mend"):
        store[4]
    with open(paths[4], "w") as handle:  # noqa: PTH123
        handle.write("no image")
    composed = ImageStore(tmp_path / "cache", paths, Compose([PrepareImaged("image", SIZE)]))
    with pytest.raises(DataError, match=r"^[^ ]*4\.png cannot be read as an image \([^\n]*\); replace or remove it\.$"):
        composed[4]
