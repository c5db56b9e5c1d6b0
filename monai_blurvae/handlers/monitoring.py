"""A training to look at: one bar over all of it, and scalars and images for TensorBoard."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from monai_blurvae.distributed import is_main_process
from monai_blurvae.files import FilePath, resolved, writing_to
from monai_blurvae.handlers.pictures import FigureRow, draw_rows, scale_kernels, section
from monai_blurvae.metrics import to_unit_range
from monai_blurvae.networks import unwrapped
from monai_blurvae.seeding import torch_rng


class EpochProgressHandler:
    """tqdm over all iterations: epoch, loss, last validation metric, time left.

    Args:
        validator: engine whose key metric is shown, if any.
    """

    def __init__(self, validator: Engine | None = None) -> None:
        self.validator = validator
        self._bar: tqdm[Any] | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._close)

    def _start(self, engine: Engine) -> None:
        state = engine.state
        if not is_main_process():
            return
        # A log file gets a line every half minute in place of a bar that redraws itself.
        interval = 0.5 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(
            total=state.max_epochs * state.epoch_length,
            initial=state.iteration,
            unit="it",
            mininterval=interval,
            maxinterval=max(10.0, interval),
            dynamic_ncols=True,
        )
        self._describe(engine)

    def _describe(self, engine: Engine) -> None:
        if self._bar is None:
            return
        epoch = min(engine.state.epoch, engine.state.max_epochs)
        self._bar.set_description(f"epoch {epoch}/{engine.state.max_epochs}", refresh=False)

    def _update(self, engine: Engine) -> None:
        if self._bar is None:
            return
        self._describe(engine)
        output = engine.state.output
        loss = (output[0] if isinstance(output, list) else output)[CommonKeys.LOSS]  # a list where it is decollated
        values = {"loss": f"{float(loss):.1f}"}
        metrics = {} if self.validator is None else self.validator.state.metrics
        if "psnr" in metrics:
            values["val_psnr"] = f"{metrics['psnr']:.2f} dB"
        self._bar.set_postfix(values, refresh=False)
        self._bar.update()

    def _close(self, engine: Engine, error: BaseException | None = None) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class BlurVAETensorBoardHandler:
    """Means of the training terms over each epoch, the validation's metrics, and pictures of the same few images.

    The step is the epoch everywhere. Pictures are drawn when a scheduled validation is completed, of
    cubes their middle :func:`~monai_blurvae.handlers.pictures.section`.

    Args:
        folder: of the event files, or a callable that gives it when the training starts.
        network: draws the pictures; whatever wraps it.
        images: dataset whose first images are shown; None for no pictures.
        validator: whose metrics are written.
        interval: epochs between two validations.
        count: number of images.
        seed: of the samples, which come from the same latents every time.
        quarter_turns: rotation of the pictures, see :func:`~monai_blurvae.handlers.reconstruction_figure`.
    """

    def __init__(
        self,
        folder: FilePath,
        network: nn.Module,
        images: Dataset[dict[str, Any]] | None,
        validator: Engine,
        interval: int,
        count: int = 4,
        seed: int = 0,
        quarter_turns: int = 0,
    ) -> None:
        self.folder = folder
        self.network = network
        self.images = images
        self.validator = validator
        self.interval = interval
        self.count = count
        self.seed = seed
        self.quarter_turns = quarter_turns
        self._writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer, after the handler that validates."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write_epoch)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self._write_validation)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._close)

    def _open(self, engine: Engine) -> None:
        if not is_main_process():
            return
        with self._writing():
            self._writer = open_event_file(resolved(self.folder), engine.state.epoch + 1)

    def _writing(self) -> AbstractContextManager[None]:
        return writing_to(resolved(self.folder))

    def _write_epoch(self, engine: Engine) -> None:
        if self._writer is None:
            return
        with self._writing():
            for name, value in engine.epoch_means.compute().items():
                self._writer.add_scalar(f"train/{name}", value, engine.state.epoch)

    def _write_validation(self, engine: Engine) -> None:
        if self._writer is None or (self.images is not None and not len(self.images)):  # type: ignore[arg-type]
            return
        with self._writing():
            for name, value in self.validator.state.metrics.items():
                self._writer.add_scalar(f"validation/{name}", float(value), engine.state.epoch)
            if self.images is not None:
                pictures, kernels = self._draw(self.images, engine.state.device)
                self._writer.add_image("input, reconstruction, sample", pictures, engine.state.epoch, dataformats="HWC")
                self._writer.add_image("kernels", kernels, engine.state.epoch, dataformats="HWC")
            self._writer.flush()

    @torch.no_grad()
    def _draw(self, dataset: Dataset[dict[str, Any]], device: torch.device) -> tuple[Any, Any]:
        count = min(self.count, len(dataset))  # type: ignore[arg-type]
        step = len(dataset) // count  # type: ignore[arg-type]
        images = torch.stack([dataset[i * step]["image"] for i in range(count)]).to(device)
        network = unwrapped(self.network).eval()
        output = network(images)
        rows = [
            FigureRow("input", _shown(images)),
            FigureRow("reconstruction", _shown(output.reconstruction)),
            FigureRow("sample", _shown(network.sample(count, torch_rng(self.seed, "pictures")))),
        ]
        kernels = scale_kernels(section(network.kernel(output.mu)), images.shape[-1])
        kernel_row = FigureRow("kernels of the same images", kernels)
        return draw_rows(rows, "", self.quarter_turns), draw_rows([kernel_row], "", self.quarter_turns)

    def _close(self, engine: Engine, error: BaseException | None = None) -> None:
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        if error is None:
            with self._writing():
                writer.close()
        else:  # what went wrong is known; a second error would hide it
            with suppress(OSError):
                writer.close()


def _shown(images: Tensor) -> Tensor:
    return to_unit_range(section(images))


def open_event_file(folder: Path, epoch: int) -> SummaryWriter:
    """A writer whose events follow those that are in the folder, and replace those of ``epoch`` and later.

    So a run that was cut loses what it wrote after its last checkpoint. TensorBoard reads event files in the order of
    their names, which begin with the second in which each was opened. Within that second the process numbers would
    decide, and the later curves might be lost: the new file waits for the next.
    """
    now = time.time()
    if any(folder.glob(f"events.out.tfevents.{int(now):010d}.*")):
        time.sleep(int(now) + 1 - now)
    return SummaryWriter(str(folder), purge_step=epoch)
