"""Watch a long training with all handlers: private memory, open files, threads and the size of the TensorBoard files.

Linux only: it reads /proc/self. The first tenth of the iterations is not judged, since libraries fill their caches.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
from pathlib import Path

from ignite.engine import Events
from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).resolve().parents[1]
ALLOWED_GROWTH_MB = 20.0


def private_memory() -> float:
    """Memory of this process alone, in MB."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return sum(int(n) for n in re.findall(r"^Private_\w+:\s+(\d+) kB", text, flags=re.MULTILINE)) / 1024


def count(name: str) -> int:
    """Entries of a folder of /proc/self."""
    return len(list(Path("/proc/self", name).iterdir()))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--image_pattern", default="*/T1w/T1w_acpc_dc_restore_brain.nii.gz")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--num_workers", type=int, default=2)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as work:
        workflow = ConfigWorkflow(
            config_file=str(ROOT / "bundles/hcp/train.json"),
            run_id="training",
            dataset_dir=options.dataset_dir,
            image_pattern=options.image_pattern,
            cache_dir=f"{work}/cache",
            run_dir=f"{work}/run",
            patch_size=32,
            channels=[8, 16, 32],
            latent_size=16,
            batch_size=8,
            warmup_epochs=1,
            val_interval=2,
            checkpoint_minutes=0.05,
            num_workers=options.num_workers,
            device="cpu",
            max_epochs=1,
        )
        workflow.initialize()
        trainer = workflow.parser.get_parsed_content("train#trainer")
        trainer.state.max_epochs = -(-options.iterations // trainer.state.epoch_length)
        every = max(1, options.iterations // 40)
        rows: list[tuple[float, int, int]] = []

        @trainer.on(Events.ITERATION_COMPLETED(every=every))
        def watch() -> None:
            rows.append((private_memory(), count("fd"), count("task")))

        trainer.run()
        events = sum(p.stat().st_size for p in Path(work, "run", "tensorboard").iterdir()) / 1e6

    judged = rows[len(rows) // 10 :]
    third = len(judged) // 3
    growth = statistics.median(r[0] for r in judged[-third:]) - statistics.median(r[0] for r in judged[:third])
    print(f"{trainer.state.iteration} iterations, {trainer.state.epoch} epochs, {options.num_workers} workers")
    print(f"private memory  {judged[0][0]:.0f} to {judged[-1][0]:.0f} MB; last third less first {growth:+.1f} MB")
    print(f"open files      {min(r[1] for r in judged)} to {max(r[1] for r in judged)}")
    print(f"threads         {min(r[2] for r in judged)} to {max(r[2] for r in judged)}")
    print(f"TensorBoard     {events:.1f} MB")
    flat = growth < ALLOWED_GROWTH_MB and judged[-1][1] <= judged[0][1] + 1 and judged[-1][2] <= judged[0][2] + 1
    print("flat" if flat else "GROWING")
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
