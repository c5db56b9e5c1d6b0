"""What the bundles' configs call: settings, run folders, the last wiring. Nothing else imports from here."""

from monai_blurvae.bundle.measures import MeasuresHandler
from monai_blurvae.bundle.run_folder import (
    FinishedRun,
    RunFolder,
    TrainedObjective,
    new_numbered_folder,
)
from monai_blurvae.bundle.run_handlers import RunKeepingHandlers, RunRecordHandler, RunShowingHandlers
from monai_blurvae.bundle.settings import SECTIONS, SETTINGS, begin, boolean, check_settings, default_cache_dir
from monai_blurvae.bundle.wiring import (
    check_headers,
    check_voxel_size,
    inference_images,
    inference_items,
    load_weights,
    parameter_groups,
    prepare_network,
    report_run,
)

__all__ = [
    "SECTIONS",
    "SETTINGS",
    "FinishedRun",
    "MeasuresHandler",
    "RunFolder",
    "RunKeepingHandlers",
    "RunRecordHandler",
    "RunShowingHandlers",
    "TrainedObjective",
    "begin",
    "boolean",
    "check_headers",
    "check_settings",
    "check_voxel_size",
    "default_cache_dir",
    "inference_images",
    "inference_items",
    "load_weights",
    "new_numbered_folder",
    "parameter_groups",
    "prepare_network",
    "report_run",
]
