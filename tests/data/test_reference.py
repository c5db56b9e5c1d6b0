import numpy as np
import pytest
import torch
from PIL import Image

from monai_blurvae.data import ImageDataset, reference_images
from monai_blurvae.errors import DataError
from monai_blurvae.transforms import PrepareImaged
from tests.pipelines import patches
from tests.volumes import brain, save

MUCH = 2**30


def photographs(folder, number, seed, shuffle=True, **options):
    data = []
    for i in range(number):
        path = folder / f"{i}.png"
        if not path.exists():
            Image.fromarray(np.full((16, 16), 10 * i, np.uint8)).save(path)
        data.append({"image": str(path)})
    prepare = PrepareImaged("image", 16, channels=1)
    scale = lambda item: {**item, "image": item["image"] / 127.5 - 1}  # noqa: E731
    return ImageDataset(data, prepare, scale, folder / "cache", seed=seed, shuffle=shuffle, **options)


def grey_levels(images):
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    return [{"image": str(save(folder / f"{i}.nii.gz", brain(i))), "subject": f"s{i}"} for i in range(3)]


def test_patches_are_the_same_for_every_seed_and_as_many_of_each_volume(items, tmp_path):
    datasets = [patches(items, tmp_path, patches_per_volume=2, shuffle=True, seed=seed) for seed in (0, 1)]
    first, second = (reference_images(dataset, 12, MUCH) for dataset in datasets)
    assert first.shape == (12, 1, 32, 32)
    assert torch.equal(first, second)
    evaluated = patches(items, tmp_path, patches_per_volume=4, shuffle=False)
    assert torch.equal(first, torch.stack([evaluated[i]["image"] for i in range(12)]))
    assert len(datasets[0]) == 6  # which goes on as it was
    assert datasets[0].shuffle


def test_images_are_spread_over_the_list_and_as_many_as_fit(tmp_path):
    assert grey_levels(reference_images(photographs(tmp_path, 8, 0), 100, MUCH)) == [10 * i for i in range(8)]
    assert grey_levels(reference_images(photographs(tmp_path, 8, 1), 4, MUCH)) == [0, 20, 40, 60]
    assert grey_levels(reference_images(photographs(tmp_path, 8, 2), 100, 2 * 16 * 16)) == [0, 40]
    assert len(reference_images(photographs(tmp_path, 8, 0), 100, 1)) == 1


def test_what_a_training_skips_is_left_out(tmp_path):
    photographs(tmp_path, 4, 0)
    (tmp_path / "0.png").write_bytes(b"no image")
    assert grey_levels(reference_images(photographs(tmp_path, 4, 0, skip_bad_files=True), 4, MUCH)) == [10, 20, 30]
    with pytest.raises(DataError, match=r"0\.png"):
        reference_images(photographs(tmp_path, 4, 0), 4, MUCH)


def test_a_dataset_of_ones_own_is_a_list_of_items():
    items = [{"image": torch.full((1, 4, 4), float(i))} for i in range(6)]
    assert reference_images(items, 3, MUCH)[:, 0, 0, 0].tolist() == [0, 2, 4]
    with pytest.raises(DataError, match="has no images"):
        reference_images([], 3, MUCH)
