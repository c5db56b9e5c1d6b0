"""What all cells of a study share: the split, the volume store, the schedule."""

from __future__ import annotations

import json
from typing import Any

from monai_blurvae.data import Datalist, load_datalist, prepare_volumes, read_datalist
from monai_blurvae.data.datalist import SPLITS
from monai_blurvae.errors import RunFolderError, SettingsError
from monai_blurvae.files import write_json
from monai_blurvae.study.configs import RowConfigs
from monai_blurvae.study.folder import StudyFolder, read_json
from monai_blurvae.study.measure import DATA_SETTINGS
from monai_blurvae.study.options import StudyOptions
from monai_blurvae.study.plan import differences, read_config, read_settings, schedule
from monai_blurvae.transforms import PrepareVolume

SPLIT_SEED = 0
"""One split for the cells of all seeds."""


def prepare(options: StudyOptions, folder: StudyFolder) -> RowConfigs:
    """Fill the volume store, and write down what the cells share.

    Args:
        options: of the study.
        folder: of the study.

    Raises:
        SettingsError: for a bundle that is not of volumes.
        RunFolderError: if the folder holds a study with other data or settings.
        DataError: for data that cannot be used.
    """
    settings = read_settings([options.config(file) for file in options.base_files])
    settings |= {**options.budget.settings, **options.settings}
    missing = [name for name in DATA_SETTINGS if name not in settings]
    if missing:
        raise SettingsError(
            f"bundles/{options.bundle} has no {missing[0]}: a study compares losses on patches of volumes; choose a "
            "--bundle of volumes, such as hcp."
        )
    data = {name: settings[name] for name in DATA_SETTINGS}
    datalist = _datalist(options, folder)
    volumes = prepare_volumes(
        datalist,
        options.cache_dir,
        PrepareVolume(data["slice_axis"], data["volume_size"]),
        data["patch_size"],
        data["min_foreground"],
    )
    steps = schedule(options.budget, len(volumes.training), settings["patches_per_volume"])
    content = {
        "files": list(options.base_files),
        "settings": {**options.budget.settings, **steps, **options.settings},
        "data": data,
        "synthetic": volumes.synthetic,
    }
    _require_same_study(folder, json.loads(json.dumps(content)))
    datalist.write(folder.datalist)
    # Until all are trained nobody sees a test subject, the cells included.
    without_test = Datalist(datalist.dataset_dir, datalist.training, datalist.validation, [], datalist.description)
    without_test.write(folder.training_datalist)
    write_json(folder.study, content)
    return RowConfigs(options, steps)


def _datalist(options: StudyOptions, folder: StudyFolder) -> Datalist:
    pattern = options.image_pattern or read_config(options.config(options.base_files[0]))["image_pattern"]
    datalist = load_datalist(options.dataset_dir, pattern, options.datalist, options.cache_dir, SPLIT_SEED)
    if folder.datalist.is_file():
        before = read_datalist(folder.datalist, datalist.dataset_dir)
        if any(getattr(before, split) != getattr(datalist, split) for split in SPLITS):
            raise RunFolderError(
                f"{folder.path} holds a study of other files or with another split; choose another --output, or keep "
                f"its split with --datalist {folder.datalist}."
            )
    return datalist


def _require_same_study(folder: StudyFolder, content: dict[str, Any]) -> None:
    if not folder.study.is_file():
        return
    before = read_json(folder.study)
    names = before["settings"].keys() ^ content["settings"].keys()
    changed = [
        *differences({"files": before["files"]}, content),
        *differences(before["settings"], content["settings"]),
        *differences(before["data"], content["data"]),
        *(f"{name} is {'new' if name in content['settings'] else 'gone'}" for name in sorted(names)),
    ]
    if changed:
        raise RunFolderError(f"{folder.path} holds another study ({changed[0]}); choose another --output.")
