"""Small Ignite handlers: progress, TensorBoard, pictures, checkpoints that are whole or not there."""

from monai_blurvae.handlers.annealing import KLAnnealingHandler
from monai_blurvae.handlers.averaging import WeightAveragingHandler
from monai_blurvae.handlers.checkpoint import BestModelHandler, ModelCheckpointLoader, RestartCheckpointHandler
from monai_blurvae.handlers.copying import CopyingHandler
from monai_blurvae.handlers.draws import FittedDensities
from monai_blurvae.handlers.early_stopping import EarlyStoppingHandler
from monai_blurvae.handlers.evaluation import EvaluationReportHandler
from monai_blurvae.handlers.graceful_stop import GracefulStopHandler
from monai_blurvae.handlers.learning_rate import CosineLearningRateHandler
from monai_blurvae.handlers.pictures import reconstruction_figure, sample_figure, save_figure
from monai_blurvae.handlers.progress import EpochProgressHandler
from monai_blurvae.handlers.tensorboard import BlurVAETensorBoardHandler
from monai_blurvae.handlers.validation import FinalValidationHandler
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
    "FittedDensities",
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
