"""Prepare data ahead of a training: the store of a folder of volumes or of images, or the synthetic sample.

A training does all this by itself; on a cluster it is better done once, on the node that has the disk and the time.
"""

from __future__ import annotations

import argparse
import logging
import sys

from monai_blurvae.bundle import default_cache_dir
from monai_blurvae.data import (
    image_loader,
    load_datalist,
    load_image_datalist,
    log_skipped,
    prepare_images,
    prepare_volumes,
)
from monai_blurvae.data.sample import make_sample
from monai_blurvae.errors import BlurVAEError
from monai_blurvae.transforms import PrepareImage, PrepareVolume


def prepare_store(options: argparse.Namespace) -> None:
    """Fill the store with every volume of a folder."""
    datalist = load_datalist(
        options.dataset_dir, options.image_pattern, options.datalist, options.cache_dir, options.seed
    )
    volumes = prepare_volumes(
        datalist,
        options.cache_dir,
        PrepareVolume(options.slice_axis, options.volume_size),
        options.patch_size,
        options.min_foreground,
        options.skip_bad_files,
    )
    log_skipped(volumes)
    print(f"{len(list(volumes))} volumes are ready in {options.cache_dir}")


def prepare_image_store(options: argparse.Namespace) -> None:
    """Fill the store with every image of a folder, for bundles/celeba and bundles/cifar10."""
    size = options.patch_size
    datalist = load_image_datalist(
        options.dataset_dir,
        options.image_pattern,
        options.datalist,
        options.partition_file,
        options.cache_dir,
        options.seed,
        size,
    )
    transform = PrepareImage(size, options.crop_size or None, options.in_channels, image_loader(datalist))
    store = prepare_images(datalist, options.cache_dir, transform).training.store
    bad = store.prepare(range(len(store)), options.skip_bad_files)
    for sentence in bad.values():
        print(f"Skipping: {sentence}")
    print(f"{store.prepared()} of {len(store)} images are ready in {store.folder}")


def make_parser() -> argparse.ArgumentParser:
    """Options like the bundle's keys, with the same defaults."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    sample = commands.add_parser("sample", help="make the synthetic sample in HCP's layout")
    sample.add_argument("folder")
    sample.add_argument("--seed", type=int, default=0)
    sample.set_defaults(action=lambda options: print(make_sample(options.folder, options.seed)))
    store = commands.add_parser("store", help="prepare every volume of a folder")
    store.add_argument("--image_pattern", default="*/T1w/T1w_acpc_dc_restore_brain.nii.gz")
    store.add_argument("--slice_axis", type=int, default=1, choices=(0, 1, 2))
    store.add_argument("--volume_size", type=int, nargs=3)
    store.add_argument("--min_foreground", type=float, default=0.25)
    store.set_defaults(action=prepare_store)
    images = commands.add_parser("images", help="prepare every image of a folder")
    images.add_argument("--image_pattern", default="**/*")
    images.add_argument("--partition_file")
    images.add_argument("--crop_size", type=int, default=64, help="0 for the largest square (default: %(default)s)")
    images.add_argument("--in_channels", type=int, default=3, choices=(1, 3))
    images.set_defaults(action=prepare_image_store)
    for command in (store, images):
        command.add_argument("--dataset_dir", required=True)
        command.add_argument("--datalist")
        command.add_argument("--cache_dir", default=default_cache_dir())
        command.add_argument("--patch_size", type=int, default=64)
        command.add_argument("--skip_bad_files", action="store_true")
        command.add_argument("--seed", type=int, default=0)
    return parser


def main() -> int:
    """Command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    options = make_parser().parse_args()
    try:
        options.action(options)
    except BlurVAEError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
