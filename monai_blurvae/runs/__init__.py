"""What a training leaves: a run being written or finished, a folder or a packed zip."""

from monai_blurvae.runs.run import Run
from monai_blurvae.runs.settings import TrainedObjective, settings_of
from monai_blurvae.runs.training import RunRecordHandler, TrainingRun, log_skipped, prepare

__all__ = ["Run", "RunRecordHandler", "TrainedObjective", "TrainingRun", "log_skipped", "prepare", "settings_of"]
