"""What all cells of a study share: the split, the stores, the schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_blurvae.data import Datalist, read_datalist
from monai_blurvae.data.datalist import SPLITS
from monai_blurvae.data.facts import facts_of
from monai_blurvae.errors import RunFolderError, user_error
from monai_blurvae.files import write_json
from monai_blurvae.runs import prepare as fill_stores
from study.configs import RowConfigs
from study.folder import StudyFolder, read_json
from study.options import StudyOptions
from study.plan import differences, evaluation_settings, merged_config, schedule

SPLIT_SEED = 0
"""One split for the cells of all seeds."""


def prepare(options: StudyOptions, folder: StudyFolder) -> RowConfigs:
    """Fill the stores, and write down what the cells share.

    Args:
        options: of the study.
        folder: of the study.

    Raises:
        RunFolderError: if the folder holds a study with other data or settings.
        BlurVAEError: for a config or data that cannot be used.
    """
    config = merged_config([options.config(file) for file in options.base_files], _overrides(options))
    parser = ConfigParser(config | {"bundle_root": str(options.config(options.base_files[0]).parent)})
    settings = {**options.budget.settings, **options.settings}
    try:
        if "initialize" in config:
            parser.get_parsed_content("initialize")  # says what is mistyped, and makes the sample where it is used
        datalist: Datalist = parser.get_parsed_content("data")
        datalist.require()
        _require_same_split(datalist, folder)
        datasets = [parser.get_parsed_content(f"{section}#dataset") for section in ("train", "validate", "test")]
        fill_stores(*datasets)
    except Exception as error:
        shown = user_error(error)
        if shown is None:
            raise
        raise shown from None
    steps = schedule(options.budget, len(datasets[0]), config["max_epochs"], config["batch_size"])
    content = {
        "files": list(options.base_files),
        "settings": {**settings, **steps, **options.settings},
        "data": evaluation_settings(config),
        "remark": facts_of(datasets[0]).remark,
        "patches": len(datasets[0]),
    }
    _require_same_study(folder, content)
    datalist.write(folder.datalist)
    # Until all are trained nobody sees a test subject, the cells included.
    without_test = {split: getattr(datalist, split) for split in SPLITS if split != "test"}
    Datalist.of(datalist.dataset_dir, without_test, datalist.description, datalist.remark).write(
        folder.training_datalist
    )
    write_json(folder.study, content)
    return RowConfigs(options, steps)


def _overrides(options: StudyOptions) -> dict[str, Any]:
    given = {
        "image_pattern": options.image_pattern,
        "dataset_dir": _text(options.dataset_dir),
        "datalist": _text(options.datalist),
    }
    return {
        **options.budget.settings,
        **options.settings,
        # a list has its folder with it, whatever the environment names
        **({"dataset_dir": None} if options.datalist is not None else {}),
        **{name: value for name, value in given.items() if value is not None},
        "cache_dir": str(options.cache_dir),
        "seed": SPLIT_SEED,
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _require_same_split(datalist: Datalist, folder: StudyFolder) -> None:
    if not folder.datalist.is_file():
        return
    before = read_datalist(folder.datalist, datalist.dataset_dir)
    if any(getattr(before, split) != getattr(datalist, split) for split in SPLITS):
        raise RunFolderError(
            f"{folder.path} holds a study of other files or with another split; choose another folder, or give its "
            f"{folder.datalist} as the data list."
        )


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
        raise RunFolderError(f"{folder.path} holds another study ({changed[0]}); choose another folder.")
