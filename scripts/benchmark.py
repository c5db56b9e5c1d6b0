"""What training costs, as ratios of runs that take turns, so that what else the machine does hits all alike.

``iteration`` (the default) compares an alternating iteration with a plain L2 one on the same batch, with MONAI's own
trainer on that objective, and with the loop that one would write first: two forward passes and full complex FFTs.
``cost`` writes what an iteration takes by the clock and in memory, over batch size, image size, kernel size, width of
the network, micro-batches, workers and volumes, with what the network and the patches take by themselves. ``patches``
compares the patches that this package draws in one process with those of MONAI's datasets under the same transforms.
``memory`` draws patches of many large volumes and tells the memory that belongs to the process alone.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, PersistentDataset
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
)
from torch import Tensor

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from monai_blurvae.data import TrainLoader, VolumePatchDataset
from monai_blurvae.engines import BlurVAETrainer
from monai_blurvae.engines.numerics import PRECISIONS, chosen_precision
from monai_blurvae.engines.parallel import in_micro_batches
from monai_blurvae.files import make_folder, write_text
from monai_blurvae.handlers.evaluation import csv_text
from monai_blurvae.losses import ELBOLoss, L2Loss, ReconstructionTerm, WienerLoss
from monai_blurvae.networks import BlurVAE, VAEOutput
from monai_blurvae.transforms import CheckVolumed, RandSlicePatchd
from study.figures import new_figure, save

CUDA_GRAPHS = "reduce-overhead"
COMPILE_MODES = ("default", CUDA_GRAPHS, "max-autotune")
"""What ``torch.compile`` knows; the second captures CUDA graphs."""

Run = Callable[[], object]
"""Does one iteration."""


def make_network(options: argparse.Namespace) -> BlurVAE:
    """The same for everybody."""
    torch.manual_seed(0)
    network = BlurVAE(
        in_channels=options.in_channels,
        channels=options.channels,
        image_size=options.image_size,
        kernel_size=options.kernel_size,
    )
    return network.to(options.device)


def make_batch(options: argparse.Namespace) -> Tensor:
    """Noise in [−1, 1]; what is in the images does not change the time."""
    return torch.rand(options.batch_size, options.in_channels, options.image_size, options.image_size) * 2 - 1


def ours(term: ReconstructionTerm, options: argparse.Namespace, batches: Any = None) -> Run:
    """A trainer as the bundles have it, of one batch an epoch: always the same without ``batches``."""
    network = make_network(options)
    if options.compile is not None:
        network.compile(mode=options.compile)
    trainer = BlurVAETrainer(
        device=options.device,
        max_epochs=0,
        train_data_loader=batches or [{"image": make_batch(options)}],
        network=network,
        optimizer=torch.optim.Adam(network.vae_parameters(), 1e-4, fused=True),
        kernel_optimizer=torch.optim.Adam(network.kernel_parameters(), 1e-4, fused=True),
        loss_function=ELBOLoss(term),
        precision=options.precision,
        accumulation=options.accumulation,
    )
    return partial(one_more, trainer)


def monais(options: argparse.Namespace) -> Run:
    """MONAI's trainer on the ELBO with L2, in float32, as its users have it: no kernel, torch's default Adam."""
    network = make_network(options)
    objective = ELBOLoss(L2Loss())
    batch = make_batch(options)
    trainer = SupervisedTrainer(
        device=torch.device(options.device),
        max_epochs=0,
        train_data_loader=[{"image": batch, "label": batch}],
        network=network,
        optimizer=torch.optim.Adam(network.vae_parameters(), 1e-4),
        loss_function=lambda output, images: objective(output, images, None).loss,
        decollate=False,
    )
    return partial(one_more, trainer)


def one_more(trainer: SupervisedTrainer) -> None:
    """Let a trainer run one more epoch, which is one iteration."""
    trainer.state.max_epochs = (trainer.state.max_epochs or 0) + 1
    trainer.run()


def twice(options: argparse.Namespace) -> Run:
    """The alternating training as it is written down first: each step with a forward pass and full FFTs of its own."""
    network = make_network(options).train()
    images = make_batch(options).to(options.device)
    optimizers = [torch.optim.Adam(part, 1e-4) for part in (network.kernel_parameters(), network.vae_parameters())]

    def iteration() -> None:
        for objective, optimizer in zip((full_kernel_loss, full_elbo), optimizers, strict=True):
            output = network(images)
            loss = objective(output, images, network.kernel(output.z.detach()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return iteration


def full_kernel_loss(output: VAEOutput, images: Tensor, kernel: Tensor) -> Tensor:
    """Of eq. 10, by FFTs of all frequencies, over the pixels that the kernel reaches from inside the image."""
    blurred = torch.fft.ifft2(torch.fft.fft2(images) * full_otf(kernel, images)).real
    margin = kernel.shape[-1] // 2
    valid = slice(margin, images.shape[-1] - margin)
    return (blurred - output.reconstruction.detach())[..., valid, valid].square().flatten(1).sum(1).mean()


def full_elbo(output: VAEOutput, images: Tensor, kernel: Tensor) -> Tensor:
    """Of eq. 11, with β = 1 and C = 0.025, likewise."""
    otf = full_otf(kernel.detach(), images)
    weight = otf.conj() / (otf.abs().square() + 0.025)
    error = torch.fft.ifft2(torch.fft.fft2(images - output.reconstruction) * weight).real
    kl = 0.5 * (output.mu.square() + output.log_var.exp() - output.log_var - 1).sum(1)
    return (0.5 * error.square().flatten(1).sum(1) + kl).mean()


def full_otf(kernel: Tensor, images: Tensor) -> Tensor:
    """The optical transfer function at all frequencies, the kernel's middle at the origin."""
    padded = torch.zeros(len(kernel), 1, *images.shape[2:], device=images.device)
    padded[..., : kernel.shape[-2], : kernel.shape[-1]] = kernel
    return torch.fft.fft2(padded.roll([-(size // 2) for size in kernel.shape[2:]], (2, 3)))


def seconds_of(run: Run, device: str) -> float:
    """By the clock, with what the device has still to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if torch.device(device).type == "cuda":
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
    """Uncompressed int16 volumes with noise in an ellipsoid, unless they are there; their data list."""
    noise = np.random.default_rng(0).normal(600, 100, (16, *shape[1:]))
    grid = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    volume = (np.resize(noise, shape) * (sum(axis**2 for axis in grid) < 0.7)).clip(0).astype(np.int16)
    items = []
    for i in range(count):
        volume[0, 0, 0] = i  # a file of its own to the store
        path = folder / f"{'x'.join(map(str, shape))}-{i:03d}.nii"
        if not path.is_file():
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
) -> VolumePatchDataset:
    """Ours, for training."""
    return VolumePatchDataset(
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


STEPS_OF_COST: dict[str, list[Any]] = {
    "batch_size": [4, 8, 16, 32, 64],
    "image_size": [32, 64, 128],
    "kernel_size": [3, 5, 11, 21, 41],
    "channels": [[8, 16, 32, 64], [16, 32, 64, 128], [32, 64, 128, 256], [64, 128, 256, 512]],
    "accumulation": [1, 2, 4, 8, 16],
    "num_workers": [0, 1, 2, 4],
    "volumes": [4, 16, 64],
}
"""What is varied, one at a time, the others being those of the options."""
OF_DATA = {"num_workers": 2, "volumes": 16}
"""Those of them that are with patches of volumes, and what they are while another one is varied."""
SHAPE_OF_COST = (260, 311, 260)
"""Of these volumes, HCP's."""

GIGABYTE = 1e9


def network_alone(options: argparse.Namespace) -> Run:
    """Forward and backward pass of the squared error without any trainer or optimizer: what nothing can go below."""
    network = make_network(options).train()
    images = make_batch(options).to(options.device)

    def iteration() -> None:
        network.zero_grad()
        (network(images).reconstruction - images).square().sum().backward()

    return iteration


def memory_of(options: argparse.Namespace) -> dict[str, float]:
    """Bytes that a training step holds at once: ``weights`` with gradients and Adam's moments, and ``activations``.

    Activations are what autograd saves for the backward pass of the VAE step, each storage once, without the weights;
    with accumulation what it saves for the whole batch, and for the largest micro-batch when its turn comes.
    """
    network = make_network(options).train()
    images = make_batch(options).to(options.device)
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage  # held, so that its place is not given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if options.accumulation == 1:
            output = network(images)
        else:
            network(images.tensor_split(options.accumulation)[0])
            noise = torch.zeros(network.noise_shape(images.shape), device=images.device)
            output = in_micro_batches(SimpleInferer(), network, images, noise, options.accumulation)
        kernel = network.kernel(output.z.detach()).detach()
        ELBOLoss(WienerLoss(), kernel_size=options.kernel_size)(output, images, kernel)
    own = sum(p.numel() * p.element_size() for p in network.parameters())
    return {"weights": 4.0 * own, "activations": float(sum(storage.nbytes() for storage in saved.values()))}


class OneBatch:
    """What a trainer of one batch an epoch reads: the next of a stream."""

    def __init__(self, stream: Iterator[Any]) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        yield next(self.stream)


def benchmark_cost(options: argparse.Namespace) -> None:
    """Write ``cost.csv``, ``cost.png`` and ``cost.pdf``."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for varied, values in STEPS_OF_COST.items():
            for value in values:
                changed = argparse.Namespace(**vars(options) | OF_DATA | {varied: value})
                if changed.kernel_size > changed.image_size:
                    continue
                shown = value if isinstance(value, int) else value[0]
                rows.append({"varied": varied, "value": shown, **cost_of(changed, varied in OF_DATA, Path(name))})
                print("  ".join(f"{k} {v if isinstance(v, str) else f'{v:.4g}'}" for k, v in rows[-1].items()))
    folder = make_folder(options.output)
    write_text(folder / "cost.csv", csv_text(rows))
    save(draw_cost(rows), folder, "cost")
    print(f"The table and the figure are in {folder}.")


def cost_of(options: argparse.Namespace, with_data: bool, folder: Path) -> dict[str, Any]:
    """Milliseconds an image of an iteration and of what bounds it, and bytes.

    Args:
        options: of the training.
        with_data: with patches of volumes, not with one batch again and again.
        folder: for the volumes.
    """
    contenders = {"network": network_alone(options)}
    if with_data:
        stream = stream_of(options, folder)
        contenders["iteration"] = ours(WienerLoss(), options, OneBatch(stream))
        contenders["patches"] = partial(next, stream)
    else:
        contenders["iteration"] = ours(WienerLoss(), options)
    for run in contenders.values():
        run()
    rounds = [{kind: seconds_of(run, options.device) for kind, run in contenders.items()} for _ in range(options.pairs)]
    found: dict[str, Any] = dict.fromkeys(("iteration", "network", "patches"), 0.0)
    for kind in contenders:
        found[kind] = 1e3 * statistics.median(seconds[kind] for seconds in rounds) / options.batch_size
    bound = max(("network", "patches"), key=lambda kind: found[kind])
    ratio = statistics.median(seconds["iteration"] / seconds[bound] for seconds in rounds)
    return {**found, "bound": bound, "iteration_over_bound": ratio, **memory_of(options)}


def stream_of(options: argparse.Namespace, folder: Path) -> Iterator[Any]:
    """Batches of patches without end, of volumes that are written when they are first asked for."""
    cut = RandSlicePatchd(keys="image", patch_size=options.image_size)
    dataset = patch_dataset(write_volumes(folder, SHAPE_OF_COST, options.volumes), cut, folder, quick=True)
    return endless(TrainLoader(dataset, options.batch_size, num_workers=options.num_workers))


def draw_cost(rows: list[dict[str, Any]]) -> Any:
    """Milliseconds an image, and below them memory, which the data does not change."""
    parts = {name: [row for row in rows if row["varied"] == name] for name in STEPS_OF_COST}
    times = {"iteration": "alternating iteration", "network": "network alone, one pass", "patches": "patches alone"}
    memory = {"activations": "activations", "weights": "weights, moments"}
    first, second = list(parts)[:4], list(parts)[4:]
    panels = [(times, name) for name in first] + [(memory, name) for name in first] + [(times, name) for name in second]
    panels += [(memory, name) for name in second if name not in OF_DATA]
    figure = new_figure((12, 8))
    for axes, (lines, name) in zip(figure.subplots(3, 4).flat, panels, strict=False):
        x = [row["value"] for row in parts[name]]
        for (key, label), style in zip(lines.items(), ("o-", "s--", "^:"), strict=False):
            y = [row[key] / (1 if lines is times else GIGABYTE) for row in parts[name]]
            if any(y):
                axes.plot(x, y, style, label=label)
        axes.set_xlabel(name.replace("_", " ") + (", first" if name == "channels" else ""))
        axes.set_ylabel("ms an image" if lines is times else "GB")
        axes.set_xscale("symlog" if 0 in x else "log", base=2)
        axes.set_xticks(x, [str(value) for value in x])
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        axes.legend(frameon=False, fontsize=7)
    return figure


def benchmark_iteration(options: argparse.Namespace) -> None:
    """Print what an alternating iteration costs, and its ratio to others that take turns with it."""
    ahead = "alternating"
    contenders = {
        ahead: ours(WienerLoss(), options),
        "L2": ours(L2Loss(), options),
        "L2, MONAI's trainer": monais(options),
        "two forward passes": twice(options),
    }
    for run in contenders.values():
        run()  # the first iteration allocates
    found: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for _ in range(options.pairs):
        for name in order:
            found[name].append(seconds_of(contenders[name], options.device))
        order = [*order[1:], order[0]]
    rate = options.batch_size / statistics.median(found[ahead])
    size = f"{options.in_channels}×{options.image_size}×{options.image_size}"
    precision = chosen_precision(options.precision, options.device)
    print(
        f"device {options.device}, {precision}, channels {options.channels}, images {size}, kernel "
        f"{options.kernel_size}×{options.kernel_size}, batch {options.batch_size}, {torch.get_num_threads()} threads"
    )
    print(f"{ahead:20} {statistics.median(found[ahead]) * 1e3:8.1f} ms, {rate:.3g} images/s")
    for name in list(contenders)[1:]:
        ratios = [a / b for a, b in zip(found[ahead], found[name], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{name:20} {statistics.median(found[name]) * 1e3:8.1f} ms, {ahead} over it {middle:.3f} (quartiles "
            f"{low:.3f} to {high:.3f}, {len(ratios)} rounds)"
        )
    print(f"most memory, of all  {peak_memory(options.device)}")


MODES: dict[str, Callable[[argparse.Namespace], None]] = {
    "iteration": benchmark_iteration,
    "cost": benchmark_cost,
    "patches": benchmark_patches,
    "memory": benchmark_memory,
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", nargs="?", choices=tuple(MODES), default="iteration")
    parser.add_argument("--volumes", type=int, default=100, help="of 256³ voxels, for memory (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--in_channels", type=int, default=1)
    parser.add_argument("--kernel_size", type=int, default=11)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches of the alternating iteration")
    parser.add_argument("--compile", choices=COMPILE_MODES, help="ours by torch.compile; reduce-overhead: CUDA graphs")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark"), help="folder, of cost")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if options.compile == CUDA_GRAPHS and torch.device(options.device).type != "cuda":
        parser.error(f"--compile {CUDA_GRAPHS} takes CUDA graphs, and {options.device} is no GPU; leave it out.")
    MODES[options.mode](options)


if __name__ == "__main__":
    main()
