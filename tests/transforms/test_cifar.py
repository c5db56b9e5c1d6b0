import pickle

import pytest
from torchvision.datasets import CIFAR10

from monai_blurvae.errors import DataError
from monai_blurvae.transforms import prepare_image
from monai_blurvae.transforms.prepare_image import CIFAR_MD5, is_cifar_row, read_cifar_batch, read_cifar_image
from tests.cifar import random_rows, save_batch


def save(tmp_path, rows):
    return save_batch(tmp_path / "data_batch_1", rows)


def test_the_checksums_are_those_of_torchvision():
    assert {checksum for _, checksum in CIFAR10.train_list + CIFAR10.test_list} <= CIFAR_MD5


class Trap:
    def __reduce__(self):
        return pytest.fail, ("something was unpickled",)


def test_what_is_not_as_it_was_distributed_is_not_unpickled(tmp_path):
    path = tmp_path / "data_batch_1"
    for content in (pickle.dumps({b"data": Trap()}), save(tmp_path, random_rows(3)).read_bytes()[:-9], b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"data_batch_1 is no batch of .* \({len(content)} bytes"):
            read_cifar_batch(path)


def test_an_image_is_one_row_red_green_and_blue_one_after_the_other(tmp_path):
    rows = random_rows(20)
    path = save(tmp_path, rows)
    image = read_cifar_image(f"{path}#17")
    assert (image.mode, image.size) == ("RGB", (32, 32))
    for x, y in [(0, 0), (31, 0), (0, 31), (5, 9)]:
        assert image.getpixel((x, y)) == tuple(rows[17, channel * 1024 + y * 32 + x] for channel in range(3))


def test_a_batch_is_read_once_and_again_when_it_changed(tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(prepare_image, "read_cifar_batch", lambda path: (reads.append(path), read_cifar_batch(path))[1])
    rows = random_rows(3)
    path = save(tmp_path, rows)
    for row in (0, 1, 2, 0):
        read_cifar_image(f"{path}#{row}")
    assert len(reads) == 1
    save(tmp_path, 255 - random_rows(4))
    assert read_cifar_image(f"{path}#0").getpixel((0, 0))[0] == 255 - rows[0, 0]
    assert len(reads) == 2


@pytest.mark.parametrize(
    "name", ["data_batch_1", "data_batch_1#", "data_batch_1#x", "data_batch_1#-1", "#3", "a#1.png"]
)
def test_what_names_no_row(tmp_path, name):
    assert not is_cifar_row(name)
    with pytest.raises(DataError, match="does not name a row"):
        read_cifar_image(name)


def test_a_row_that_is_not_there(tmp_path):
    path = save(tmp_path, random_rows(3))
    assert read_cifar_image(f"{path}#2").size == (32, 32)
    with pytest.raises(DataError, match=r"data_batch_1#3 names a row that is not there: .* the rows 0 to 2"):
        read_cifar_image(f"{path}#3")


def test_a_row_of_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_cifar_image(f"{tmp_path / 'data_batch_1'}#0")
