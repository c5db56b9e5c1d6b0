"""A small sample of photographs, for trying things out where no data set is.

Run ``python -m monai_blurvae.data.photographs FOLDER --image_size 64`` to make it anywhere. Its images are square
crops of six colour photographs that scikit-image ships in its wheels: a portrait, a motorcycle, a retina and a rocket
to train on, a cup of coffee for validation, a cat for the test. No photograph gives crops to two splits: a model is
tested on another scene than it saw, and six scenes are too few for results.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import skimage
from filelock import FileLock
from PIL import Image

from monai_blurvae.data.image_list import MARK_FILE, PARTITION_FILE
from monai_blurvae.errors import BlurVAEError, DataError, SettingsError
from monai_blurvae.files import make_folder, remove_leftovers, replacing, write_text
from monai_blurvae.seeding import numpy_rng

logger = logging.getLogger(__name__)

PHOTOGRAPHS = {
    "training": ("astronaut.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"),
    "validation": ("coffee.png",),
    "test": ("chelsea.png",),
}
CROPS = {"training": 256, "validation": 32, "test": 64}
LARGE_IMAGE_SIZE = 128
"""From which on fewer crops are made: a quarter for twice the size, as the photographs hold no more of them."""
SMALLEST_IMAGE_SIZE = 8
LARGEST_IMAGE_SIZE = 300
"""The shorter side of the smallest photograph."""
REGION_SHARE = 0.25
"""Smallest side of a region, as a share of the photograph's shorter side; the largest is twice that."""
THUMBNAIL_SIZE = 32
"""At which contrast is judged, so that crops of all sizes show the same regions where the photographs allow it."""
SMALLEST_CONTRAST = 12.0
"""Standard deviation of a thumbnail's luminance, 0 to 255, below which a region shows next to nothing."""
TRIES = 100
LICENSE_NOTE = """\
The images in this folder are crops, most of them at a reduced size, of photographs that scikit-image ships
(https://scikit-image.org, skimage.data). Their sources and terms:

astronaut   Eileen Collins, NASA Great Images database; no known copyright restrictions, released into the public
            domain.
motorcycle  Middlebury 2014 stereo benchmark, left image. Middlebury permits to use and publish the images of its
            stereo data sets and asks to cite: D. Scharstein, H. Hirschmueller, Y. Kitajima, G. Krathwohl, N. Nesic,
            X. Wang and P. Westling, High-resolution stereo datasets with subpixel-accurate ground truth, German
            Conference on Pattern Recognition (GCPR), 2014.
retina      Fundus photograph of a normal left eye by Mikael Häggström, Medical gallery of Mikael Häggström 2014,
            WikiJournal of Medicine 1 (2), doi:10.15347/wjm/2014.008; CC0 1.0.
rocket      Launch of DSCOVR on a Falcon 9, SpaceX; released into the public domain.
coffee      Photograph by Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0.
chelsea     Photograph by Stefan van der Walt; CC0.
"""


class Crop(NamedTuple):
    """A square region of a photograph: upper left corner and side, in pixels."""

    left: int
    top: int
    side: int


def sample_dir(cache_dir: str | Path, image_size: int) -> Path:
    """Where the sample of a size belongs in the cache."""
    return Path(cache_dir).expanduser() / f"photographs{image_size}"


def make_photographs(folder: str | Path, image_size: int, seed: int = 0) -> Path:
    """Make the sample, or find it made.

    Each crop is a random square of a photograph, reduced to ``image_size`` by an anti-aliasing filter and never
    enlarged. The side of the square is drawn log-uniformly from a quarter to half of the photograph's shorter side, or,
    where that is less than ``image_size``, from ``image_size`` to twice that, as far as the photograph reaches; so a
    crop of 32 shows as much as one of 64. Crops of next to no contrast are drawn again. Crops of one photograph may
    overlap.

    Args:
        folder: gets ``astronaut_000.png`` and so on, RGB: 256 crops for training, 32 for validation and 64 for the
            test up to an ``image_size`` of 128, above in proportion to 1 / ``image_size``² (at 256: 64, 8 and 16);
            ``list_eval_partition.txt``, as CelebA has it; ``LICENSE.txt`` with the credits; and ``sample.json``, which
            says what is there and whether it is whole.
        image_size: side of the crops in pixels, 8 to 300.
        seed: of the crops. The same seed and ``image_size`` give the same crops.

    Returns:
        The folder.

    Raises:
        SettingsError: if ``image_size`` is out of range.
        DataError: if the folder holds something else or another sample, or scikit-image lacks a photograph.
        RunFolderError: if the folder cannot be written.
    """
    if not SMALLEST_IMAGE_SIZE <= image_size <= LARGEST_IMAGE_SIZE:
        raise SettingsError(
            f"the built-in sample has no images of image_size {image_size}; give {SMALLEST_IMAGE_SIZE} to "
            f"{LARGEST_IMAGE_SIZE}, or your own images as dataset_dir."
        )
    folder = make_folder(Path(folder).expanduser())
    with FileLock(folder / ".lock"):
        if not _is_made(folder, image_size, seed):
            _make(folder, image_size, seed)
    return folder


def _is_made(folder: Path, image_size: int, seed: int) -> bool:
    """Whether the folder holds this sample; if not, it is empty or holds the beginning of it.

    Raises:
        DataError: if it holds something else.
    """
    mark = folder / MARK_FILE
    if not mark.is_file():
        foreign = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if foreign:
            raise DataError(f"{folder} already holds {foreign[0]}; give an empty or new folder for the sample.")
        return False
    made = mark.read_text(encoding="utf-8", errors="replace")
    for whole in (True, False):
        if made == _mark(image_size, seed, whole):
            return whole
    raise DataError(
        f"{folder} holds another sample than the one of image_size {image_size} and seed {seed}; give an empty or new "
        "folder."
    )


def _mark(image_size: int, seed: int, whole: bool) -> str:
    return json.dumps({"image_size": image_size, "seed": seed, "whole": whole}) + "\n"


def _make(folder: Path, image_size: int, seed: int) -> None:
    logger.info(f"Making the sample of photographs in {folder}, once: less than 10 MB, a few seconds.")
    write_text(folder / MARK_FILE, _mark(image_size, seed, whole=False))
    remove_leftovers(folder)
    lines = []
    for partition, (split, names) in enumerate(PHOTOGRAPHS.items()):
        photographs = [(_stem(name), _read(name)) for name in names]
        for n in range(_count(split, image_size)):
            number, i = divmod(n, len(photographs))
            stem, photograph = photographs[i]
            path = folder / f"{stem}_{number:03d}.png"
            with replacing(path) as temporary:
                _draw(photograph, image_size, numpy_rng(seed, "photographs", stem, number)).save(temporary, "PNG")
            lines.append(f"{path.name} {partition}\n")
    write_text(folder / "LICENSE.txt", LICENSE_NOTE)
    write_text(folder / PARTITION_FILE, "".join(sorted(lines)))
    write_text(folder / MARK_FILE, _mark(image_size, seed, whole=True))


def _count(split: str, image_size: int) -> int:
    return round(CROPS[split] * min(1.0, (LARGE_IMAGE_SIZE / image_size) ** 2))


def _stem(name: str) -> str:
    return Path(name).stem.removesuffix("_left")


def _read(name: str) -> Image.Image:
    path = Path(skimage.__file__).parent / "data" / name
    try:
        return Image.open(path).convert("RGB")
    except OSError as error:
        raise DataError(
            f"{path}, a photograph of scikit-image, cannot be read ({error}); install scikit-image again, or give your "
            "own images as dataset_dir."
        ) from error


def _draw(photograph: Image.Image, image_size: int, rng: np.random.Generator) -> Image.Image:
    """A random crop, the first with some contrast."""
    for _ in range(TRIES):
        left, top, side = draw_crop(photograph.size, image_size, rng)
        box = (left, top, left + side, top + side)
        thumbnail = photograph.resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BOX, box=box)
        if np.asarray(thumbnail.convert("L")).std() >= SMALLEST_CONTRAST:
            break
    return photograph.resize((image_size, image_size), Image.Resampling.LANCZOS, box=box)


def draw_crop(size: tuple[int, int], image_size: int, rng: np.random.Generator) -> Crop:
    """A random region of a photograph, see :func:`make_photographs`.

    Args:
        size: of the photograph, (width, height).
        image_size: smallest side of the region.
        rng: of the draw.
    """
    shorter = min(size)
    smallest = max(image_size, round(REGION_SHARE * shorter))
    largest = min(shorter, 2 * smallest)
    side = round(float(np.exp(rng.uniform(np.log(smallest), np.log(largest)))))
    left, top = (int(rng.integers(0, n - side + 1)) for n in size)
    return Crop(left, top, side)


def main(arguments: list[str] | None = None) -> int:
    """Command line: make the sample in a folder."""
    parser = argparse.ArgumentParser(prog="python -m monai_blurvae.data.photographs", description=__doc__)
    parser.add_argument("folder", help="new or empty folder for the sample")
    parser.add_argument("--image_size", type=int, default=64, help="side of the crops in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the crops (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        folder = make_photographs(options.folder, options.image_size, options.seed)
    except (BlurVAEError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{folder} holds the sample of photographs; train on it with --dataset_dir {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
