"""Small batches that are read as CIFAR-10's."""

import hashlib
import pickle

import numpy as np

from monai_blurvae.data.image_list import TEST_BATCH, TRAINING_BATCHES
from monai_blurvae.transforms.prepare_image import CIFAR_MD5


def random_rows(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def save_batch(path, rows):
    """Write a batch, whose checksum is known from now on."""
    content = pickle.dumps({b"data": rows, b"labels": [0] * len(rows)})
    CIFAR_MD5.add(hashlib.md5(content).hexdigest())
    path.write_bytes(content)
    return path


def make_cifar(folder, rows=4):
    """The six batches in a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate((*TRAINING_BATCHES, TEST_BATCH)):
        save_batch(folder / name, random_rows(rows, seed))
    return folder
