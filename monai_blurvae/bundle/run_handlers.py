"""The handlers that every training has, as two objects that a config attaches around its validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch.utils.data import Dataset

from monai_blurvae.bundle.run_folder import RunFolder
from monai_blurvae.data import Datalist, PreparedImages
from monai_blurvae.handlers import (
    BlurVAETensorBoardHandler,
    EpochProgressHandler,
    FinalValidationHandler,
    GracefulStopHandler,
    RestartCheckpointHandler,
)
from monai_blurvae.handlers.checkpoint import Stateful
from monai_blurvae.networks import BlurVAE


class RunRecordHandler:
    """Create the run's folder and record when the training starts. Attach it before every other handler.

    Args:
        run_folder: of the run.
        datalist: recorded.
        images: likewise.
    """

    def __init__(self, run_folder: RunFolder, datalist: Datalist, images: PreparedImages) -> None:
        self.run_folder = run_folder
        self.datalist = datalist
        self.images = images

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, lambda: self.run_folder.record(self.datalist, self.images))
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: self.run_folder.mark_unfinished())
        engine.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: self.run_folder.release())


class RunKeepingHandlers:
    """What keeps a run: its record, its checkpoints, and a clean end on a signal. Attach them before all others.

    Args:
        run_folder: of the run.
        datalist: recorded.
        images: likewise; a resumed run has to have the same.
        objects: what a checkpoint holds, see :class:`~monai_blurvae.handlers.RestartCheckpointHandler`.
        validator: whose best metric a checkpoint holds.
        interval: epochs between two checkpoints.
        minutes: between two checkpoints by the clock; None for none.
    """

    def __init__(
        self,
        run_folder: RunFolder,
        datalist: Datalist,
        images: PreparedImages,
        objects: Mapping[str, Stateful | None],
        validator: Engine,
        interval: int,
        minutes: float | None,
    ) -> None:
        self.record = RunRecordHandler(run_folder, datalist, images)
        self.checkpoint = RestartCheckpointHandler(
            path=run_folder.checkpoint_file,
            objects=objects,
            validator=validator,
            interval=interval,
            minutes=minutes,
            settings=lambda: run_folder.result_settings(images),
        )
        self.stop = GracefulStopHandler(self.checkpoint)

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        for handler in (self.record, self.checkpoint, self.stop):
            handler.attach(engine)


class RunShowingHandlers:
    """What shows a run: TensorBoard, a validation of the last epoch, the progress. Attach them after the validation.

    Args:
        run_folder: of the run.
        network: draws the pictures.
        images: dataset whose first images are shown.
        validator: whose metrics are shown.
        interval: epochs between two validations.
        quarter_turns: rotation of the pictures, see :func:`~monai_blurvae.handlers.reconstruction_figure`.
    """

    def __init__(
        self,
        run_folder: RunFolder,
        network: BlurVAE,
        images: Dataset[dict[str, Any]],
        validator: Evaluator,
        interval: int,
        quarter_turns: int = 0,
    ) -> None:
        self.tensorboard = BlurVAETensorBoardHandler(
            run_folder.tensorboard_dir, network, images, validator, interval, quarter_turns=quarter_turns
        )
        self.validation = FinalValidationHandler(validator, interval)
        self.progress = EpochProgressHandler(validator)

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        for handler in (self.tensorboard, self.validation, self.progress):
            handler.attach(engine)
