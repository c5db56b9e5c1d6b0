"""Small photographs-like images, and the settings of the smallest run of the bundles for images."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.volumes import ROOT, TINY

CELEBA = str(ROOT / "bundles/celeba/train.json")
CIFAR = [CELEBA, str(ROOT / "configs/cifar10.yaml")]
VOLUME_KEYS = ("patches_per_volume", "eval_patches_per_volume")
TINY_IMAGES = {
    **{name: value for name, value in TINY.items() if name not in VOLUME_KEYS},
    "crop_size": "null",  # as a command line gives it; MONAI drops None
    "eval_images": "null",
    "lr_final": 1.0,  # the learning rate of a run of more epochs would fall more slowly
    "lr_warmup": 0.0,
}


def photograph(seed=0, size=(40, 36)):
    """Smooth colours with an edge and some noise, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [np.sin(rng.uniform(1, 9) * x + rng.uniform(1, 9) * y + rng.uniform(0, 6)) for _ in range(3)]
    edge = 60 * (x > rng.uniform(0.2, 0.8))
    image = 128 + 60 * np.stack(waves, -1) + edge[..., None] + rng.normal(0, 8, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)


def make_photographs(folder, count=10, **arguments):
    """A folder of PNG files."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(photograph(i, **arguments)).save(Path(folder) / f"{i:06d}.png")
    return Path(folder)


def write_partition(folder, parts):
    """CelebA's file for images that :func:`make_photographs` made: how many of training, validation and test."""
    values = [value for value, count in enumerate(parts) for _ in range(count)]
    lines = [f"{i:06d}.png {value}\n" for i, value in enumerate(values)]
    (Path(folder) / "list_eval_partition.txt").write_text("".join(lines))
