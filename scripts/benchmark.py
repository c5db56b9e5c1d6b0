"""What an alternating iteration costs beside a plain L2 one, as the median ratio of paired runs.

The two kinds of iteration take turns on the same batch, so that whatever else the machine does hits both alike.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from monai_blurvae.engines import BlurVAETrainer
from monai_blurvae.engines.precision import PRECISIONS
from monai_blurvae.losses import ELBOLoss, make_reconstruction_term
from monai_blurvae.networks import BlurVAE


def make_trainer(loss: str, options: argparse.Namespace) -> BlurVAETrainer:
    """A trainer whose every run is one more epoch of one iteration."""
    torch.manual_seed(0)
    network = BlurVAE(
        in_channels=options.in_channels,
        channels=options.channels,
        image_size=options.image_size,
        kernel_size=options.kernel_size,
    )
    network = network.to(options.device).to(memory_format=torch.channels_last)
    batch = torch.rand(options.batch_size, options.in_channels, options.image_size, options.image_size) * 2 - 1
    return BlurVAETrainer(
        device=options.device,
        max_epochs=0,
        train_data_loader=[{"image": batch}],
        network=network,
        optimizer=torch.optim.Adam(network.vae_parameters(), 1e-4),
        kernel_optimizer=torch.optim.Adam(network.kernel_parameters(), 1e-4),
        loss_function=ELBOLoss(make_reconstruction_term(loss, channels=options.in_channels)),
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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--in_channels", type=int, default=1)
    parser.add_argument("--kernel_size", type=int, default=11)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

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


if __name__ == "__main__":
    main()
