"""What the bundles' configs call: the first step, the folder of a run, what is found there. Nothing else imports it."""

from monai_blurvae.bundle.densities import fit_densities
from monai_blurvae.bundle.measures import MeasuresHandler
from monai_blurvae.bundle.run_report import report_reconstructions, report_run
from monai_blurvae.bundle.scoring import VolumeScorer
from monai_blurvae.bundle.volumes import VolumeReconstructor
from monai_blurvae.command_line import begin, begin_in_parallel
from monai_blurvae.distributed import is_main_process
from monai_blurvae.engines.parallel import with_shared_norms
from monai_blurvae.files import default_cache_dir
from monai_blurvae.running import RunningConfig, running_config
from monai_blurvae.runs import Run, TrainedObjective
from monai_blurvae.runs.training import RunRecordHandler, TrainingRun, log_skipped, prepare

__all__ = [
    "MeasuresHandler",
    "Run",
    "RunRecordHandler",
    "RunningConfig",
    "TrainedObjective",
    "TrainingRun",
    "VolumeReconstructor",
    "VolumeScorer",
    "begin",
    "begin_in_parallel",
    "default_cache_dir",
    "fit_densities",
    "is_main_process",
    "log_skipped",
    "prepare",
    "report_reconstructions",
    "report_run",
    "running_config",
    "with_shared_norms",
]
