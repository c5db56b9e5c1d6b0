"""What the bundles' configs call: the first step, the folder of a run, what is found there. Nothing else imports it."""

from monai_blurvae.bundle.command_line import begin, default_cache_dir
from monai_blurvae.bundle.densities import fit_densities
from monai_blurvae.bundle.finished_run import FinishedRun, TrainedObjective
from monai_blurvae.bundle.measures import MeasuresHandler
from monai_blurvae.bundle.reconstruction import ScanReconstructor
from monai_blurvae.bundle.run_folder import RunFolder, RunRecordHandler, log_skipped, prepare
from monai_blurvae.bundle.run_report import report_run
from monai_blurvae.bundle.running import RunningConfig, running_config
from monai_blurvae.bundle.scoring import VolumeScorer
from monai_blurvae.bundle.volumes import VolumeReconstructor

__all__ = [
    "FinishedRun",
    "MeasuresHandler",
    "RunFolder",
    "RunRecordHandler",
    "RunningConfig",
    "ScanReconstructor",
    "TrainedObjective",
    "VolumeReconstructor",
    "VolumeScorer",
    "begin",
    "default_cache_dir",
    "fit_densities",
    "log_skipped",
    "prepare",
    "report_run",
    "running_config",
]
