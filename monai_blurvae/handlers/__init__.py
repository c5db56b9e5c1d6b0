"""Small Ignite handlers: progress, TensorBoard, pictures, checkpoints that are whole or not there."""

from monai_blurvae.handlers.checkpoint import (
    BestModelHandler,
    GracefulStopHandler,
    ModelCheckpointLoader,
    RestartCheckpointHandler,
)
from monai_blurvae.handlers.copying import CopyingHandler
from monai_blurvae.handlers.evaluation import EvaluationReportHandler
from monai_blurvae.handlers.monitoring import BlurVAETensorBoardHandler, EpochProgressHandler
from monai_blurvae.handlers.pictures import reconstruction_figure, sample_figure, save_figure
from monai_blurvae.handlers.schedules import (
    CosineLearningRateHandler,
    EarlyStoppingHandler,
    FinalValidationHandler,
    KLAnnealingHandler,
    WeightAveragingHandler,
)
from monai_blurvae.handlers.voxel_size import VoxelSizeCheckHandler, VoxelSizeHandler

__all__ = [
    "BestModelHandler",
    "BlurVAETensorBoardHandler",
    "CopyingHandler",
    "CosineLearningRateHandler",
    "EarlyStoppingHandler",
    "EpochProgressHandler",
    "EvaluationReportHandler",
    "FinalValidationHandler",
    "GracefulStopHandler",
    "KLAnnealingHandler",
    "ModelCheckpointLoader",
    "RestartCheckpointHandler",
    "VoxelSizeCheckHandler",
    "VoxelSizeHandler",
    "WeightAveragingHandler",
    "reconstruction_figure",
    "sample_figure",
    "save_figure",
]
