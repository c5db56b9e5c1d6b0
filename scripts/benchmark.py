"""What training costs, as ratios of paired runs that take turns, so that what else the machine does hits both alike.

``iteration`` (the default) compares an alternating iteration with a plain L2 one on the same batch, ``patches`` the
patches that this package draws in one process with those of MONAI's datasets under the same transforms. ``memory``
draws patches of many large volumes and tells the memory that belongs to the process alone.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, PersistentDataset
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
)

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from monai_blurvae.data import SlicePatchDataset, TrainLoader
from monai_blurvae.engines import BlurVAETrainer
from monai_blurvae.engines.precision import PRECISIONS
from monai_blurvae.losses import ELBOLoss, L2Loss, WienerLoss
from monai_blurvae.networks import BlurVAE
from monai_blurvae.transforms import CheckVolumed, RandSlicePatchd

TERMS = {"l2": L2Loss, "wiener": WienerLoss}


def make_trainer(loss: str, options: argparse.Namespace) -> BlurVAETrainer:
    """A trainer whose every run is one more epoch of one iteration."""
    torch.manual_seed(0)
    network = BlurVAE(
        in_channels=options.in_channels,
        channels=options.channels,
        image_size=options.image_size,
        kernel_size=options.kernel_size,
    )
    network = network.to(options.device)
    batch = torch.rand(options.batch_size, options.in_channels, options.image_size, options.image_size) * 2 - 1
    return BlurVAETrainer(
        device=options.device,
        max_epochs=0,
        train_data_loader=[{"image": batch}],
        network=network,
        optimizer=torch.optim.Adam(network.vae_parameters(), 1e-4, fused=True),
        kernel_optimizer=torch.optim.Adam(network.kernel_parameters(), 1e-4, fused=True),
        loss_function=ELBOLoss(TERMS[loss]()),
        precision=options.precision,
    )


def time_iteration(trainer: BlurVAETrainer) -> float:
    """Seconds of one more iteration."""
    trainer.state.max_epochs += 1
    if trainer.state.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    trainer.run()
    if trainer.state.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(device: str) -> str:
    """The most memory that this process has held so far, where the system tells."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB on the device"
    if resource is None:
        return "unknown here"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB, the program included"


def write_volumes(folder: Path, shape: tuple[int, int, int], count: int) -> list[dict[str, str]]:
    """Uncompressed int16 volumes with noise in an ellipsoid, and what a data list says of them."""
    noise = np.random.default_rng(0).normal(600, 100, (16, *shape[1:]))
    grid = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    volume = (np.resize(noise, shape) * (sum(axis**2 for axis in grid) < 0.7)).clip(0).astype(np.int16)
    items = []
    for i in range(count):
        volume[0, 0, 0] = i  # a file of its own to the store
        path = folder / f"{'x'.join(map(str, shape))}-{i:03d}.nii"
        nib.save(nib.Nifti1Image(volume, np.eye(4)), path)
        items.append({"image": str(path), "subject": str(i)})
    return items


def prepare_volume(quick: bool = False) -> Compose:
    """The deterministic transform of the bundle, or one without percentiles, which are slow."""
    load: list[Any] = [
        LoadImaged(keys="image", reader="NibabelReader"),
        EnsureChannelFirstd(keys="image", channel_dim="no_channel"),
    ]
    if quick:
        return Compose([*load, ScaleIntensityRanged(keys="image", a_min=0, a_max=900, b_min=-1, b_max=1, clip=True)])
    return Compose(
        [
            *load,
            Orientationd(keys="image", axcodes="RAS", labels=None),
            CheckVolumed(keys="image"),
            ScaleIntensityRangePercentilesd(keys="image", lower=1, upper=99, b_min=-1.0, b_max=1.0, clip=True),
        ]
    )


def patch_dataset(
    items: list[dict[str, str]], cut: RandSlicePatchd, folder: Path, quick: bool = False
) -> SlicePatchDataset:
    """Ours, for training."""
    return SlicePatchDataset(
        items, prepare_volume(quick), Compose([cut]), folder / "cache", patches_per_volume=64, shuffle=True
    )


def endless(loader: Any) -> Iterator[Any]:
    """Batches without end."""
    while True:
        yield from loader


def patches_per_second(stream: Iterator[Any], batches: int) -> float:
    """Patches of the next batches, by the clock."""
    start = time.perf_counter()
    count = sum(len(batch["image"]) for batch in itertools.islice(stream, batches))
    return count / (time.perf_counter() - start)


def benchmark_patches(options: argparse.Namespace) -> None:
    """Print patches per second, ours and MONAI's."""
    for shape, axis in (((128, 128, 32), 2), ((260, 311, 260), 1)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            items = write_volumes(folder, shape, 4)
            cut = RandSlicePatchd(keys="image", patch_size=options.image_size, slice_axis=axis)
            # one Compose: to MONAI a nested one counts as random, and is not cached
            both, repeated = Compose([*prepare_volume().transforms, cut]), items * 16
            ours = endless(TrainLoader(patch_dataset(items, cut, folder), options.batch_size))
            theirs = {
                "CacheDataset": CacheDataset(repeated, both, progress=False, hash_as_key=True),
                "PersistentDataset": PersistentDataset(repeated, both, cache_dir=folder / "persistent"),
            }
            next(ours)
            print(f"patches of {options.image_size}² from {shape}, slice_axis {axis}, batch {options.batch_size}")
            for title, dataset in theirs.items():
                for i in range(len(items)):
                    dataset[i]  # PersistentDataset's first samples differ in type from later ones
                stream = endless(DataLoader(dataset, batch_size=options.batch_size, shuffle=True, num_workers=0))
                next(stream)
                pairs = [(patches_per_second(ours, 20), patches_per_second(stream, 1)) for _ in range(options.pairs)]
                ratios = [a / b for a, b in pairs]
                print(
                    f"  ours {max(a for a, _ in pairs):8.0f}/s at best, {title} {max(b for _, b in pairs):8.1f}/s at "
                    f"best, median ratio of pairs {statistics.median(ratios):.0f}"
                )


def anonymous_memory() -> float:
    """MB that belong to this process alone: without the files that it has mapped."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def benchmark_memory(options: argparse.Namespace) -> None:
    """Print anonymous memory while volumes of 256³ are prepared and patches of them drawn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"before: {anonymous_memory():.0f} MB")
        items = write_volumes(folder, (256, 256, 256), options.volumes)
        cut = RandSlicePatchd(keys="image", patch_size=options.image_size)
        dataset = patch_dataset(items, cut, folder, quick=True)
        print(f"{options.volumes} volumes prepared: {anonymous_memory():.0f} MB")
        stream = endless(TrainLoader(dataset, options.batch_size))
        for part in range(10):
            rate = patches_per_second(stream, len(dataset) // options.batch_size)
            print(f"epoch {part}: {anonymous_memory():.0f} MB, {rate:.0f} patches/s")


def benchmark_iteration(options: argparse.Namespace) -> None:
    """Print what an alternating iteration costs."""
    l2, wiener = make_trainer("l2", options), make_trainer("wiener", options)
    time_iteration(l2), time_iteration(wiener)  # the first iteration allocates
    pairs = []
    for i in range(options.pairs):
        if i % 2:
            b, a = time_iteration(wiener), time_iteration(l2)
        else:
            a, b = time_iteration(l2), time_iteration(wiener)
        pairs.append((a, b))
    ratios = [b / a for a, b in pairs]
    quartiles = statistics.quantiles(ratios, n=4)
    rate = options.batch_size / statistics.median(b for _, b in pairs)
    size = f"{options.in_channels}×{options.image_size}×{options.image_size}"
    print(
        f"device {options.device}, {options.precision}, channels {options.channels}, images {size}, batch "
        f"{options.batch_size}"
    )
    print(f"L2 iteration           {statistics.median(a for a, _ in pairs) * 1e3:8.1f} ms")
    print(f"alternating iteration  {statistics.median(b for _, b in pairs) * 1e3:8.1f} ms, {rate:.3g} images/s")
    print(
        f"ratio of pairs         {statistics.median(ratios):8.3f} (quartiles {quartiles[0]:.3f} to {quartiles[2]:.3f}, "
        f"{len(ratios)} pairs)"
    )
    print(f"most memory            {peak_memory(options.device)}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", nargs="?", choices=("iteration", "patches", "memory"), default="iteration")
    parser.add_argument("--volumes", type=int, default=100, help="of 256³ voxels, for memory (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--in_channels", type=int, default=1)
    parser.add_argument("--kernel_size", type=int, default=11)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    {"iteration": benchmark_iteration, "patches": benchmark_patches, "memory": benchmark_memory}[options.mode](options)


if __name__ == "__main__":
    main()
