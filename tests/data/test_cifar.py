import pytest

from monai_blurvae.data.image_list import find_cifar_batches, list_cifar_images
from monai_blurvae.errors import DataError
from tests.cifar import make_cifar


def test_the_batches_are_found_and_listed(tmp_path):
    folder = make_cifar(tmp_path / "cifar-10-batches-py", rows=3)
    assert find_cifar_batches(folder) == folder
    assert find_cifar_batches(tmp_path) == folder
    assert find_cifar_batches(tmp_path / "elsewhere") is None
    listed = list_cifar_images(folder)
    assert [entry["image"] for entry in listed["test"]] == ["test_batch#0", "test_batch#1", "test_batch#2"]
    assert len(listed["training"]) == 15
    assert listed["training"][4] == {"image": "data_batch_2#1", "subject": "data_batch_2#1"}


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch"])
def test_a_missing_batch_is_named(tmp_path, name):
    folder = make_cifar(tmp_path)
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"has no {name}, one of the six"):
        list_cifar_images(folder)


def test_a_broken_batch_is_found_when_the_images_are_listed(tmp_path):
    folder = make_cifar(tmp_path)
    (folder / "data_batch_4").write_bytes(b"\x80\x02}")
    with pytest.raises(DataError, match="data_batch_4 is no batch"):
        list_cifar_images(folder)
