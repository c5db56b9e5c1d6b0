"""Pack a finished run as a bundle of MONAI's model zoo: configs, weights, docs and licences in a folder and a zip.

    python scripts/pack_bundle.py outputs/hcp/0001 packed

writes ``packed/hcp`` and ``packed/hcp.zip``. From the unpacked folder training, evaluation, inference and scoring run
without further options, and MONAI's own checks pass on it; the evaluation, inference and scoring of the repository take
it, or its zip, as ``--run_dir``. A learned prior comes with training, evaluation and reconstruction. No path of this
machine, no subject's name and no checksum of a scan goes into it. The scores of the validation subjects, beside which
others stand, are made unless the run has them, which takes as long as to score that many scans.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_blurvae.bundle.densities import write_densities
from monai_blurvae.errors import RunFolderError, user_error
from monai_blurvae.files import make_folder, read_object, replacing, write_json, write_text
from monai_blurvae.run_files import (
    DENSITIES,
    INFERENCE,
    LINEAR,
    METADATA,
    PACKED,
    PACKED_CARD,
    PACKED_METADATA,
    PACKED_REFERENCE,
    SETTINGS,
)
from monai_blurvae.runs.configs import MULTI_GPU, in_one_process, run_metadata, trains_images, with_run_values
from monai_blurvae.runs.run import Run
from monai_blurvae.trained import TrainedModel
from monai_blurvae.trained.card import model_card
from monai_blurvae.trained.source import release_metadata, summary_of
from monai_blurvae.yardstick.models import write_half

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
EVALUATE, SCORE, RECONSTRUCT = "evaluate.json", "score.json", "reconstruct.json"
OF_THIS_MACHINE = (
    *("dataset_dir", "image_pattern", "subject_pattern", "datalist", "partition_file", "skip_bad_files"),
    *("cache_dir", "sample_dir"),
    *("output_dir", "run_dir", "resume", "num_workers", "device", "weights_dir", "checkpoint_minutes"),
)
"""Settings that the packed training takes from the bundle and not from the run."""


def pack(run_dir: Path, output: Path, bundle: Path | None = None, linear: str = "whole", scores: bool = True) -> Path:
    """Write the folder of a bundle.

    Args:
        run_dir: of a finished run.
        output: gets the folder, whose name is that of the bundle.
        bundle: folder of the bundle that was trained; None to look where the run says.
        linear: a key of :data:`LINEAR_MODELS`.
        scores: with those of the validation subjects, see ``docs/scoring.md``.

    Returns:
        The folder.

    Raises:
        RunFolderError: if there is no finished run, or the folder is there already.
    """
    run = Run(run_dir)
    trained = run.config
    source = ROOT / str(trained["bundle_root"]) if bundle is None else bundle
    if not (source / METADATA).is_file():
        raise RunFolderError(f"{source} is no folder of a bundle; name the one that was trained by --bundle.")
    folder = output / source.name
    if folder.exists():
        raise RunFolderError(f"{folder} is there already; choose another folder, or remove it.")
    partial = make_folder(output / f".{source.name}.part")
    try:
        fill(partial, source, run, linear, scores)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def fill(partial: Path, source: Path, run: Run, linear: str = "whole", scores: bool = True) -> None:
    """Write all that is in the folder of a bundle.

    Args:
        partial: the folder.
        source: folder of the bundle that was trained.
        run: that is packed.
        linear: as of :func:`pack`.
        scores: as of :func:`pack`.
    """
    shutil.rmtree(partial)
    configs, models = make_folder(partial / "configs"), make_folder(partial / "models")
    write_configs(configs, source, run)
    shutil.copyfile(run.model_file, partial / PACKED[1])
    shutil.copyfile(run.settings_file, models / SETTINGS)
    shutil.copytree(source / "docs", partial / "docs")
    write_text(partial / PACKED_CARD, model_card(run.path))
    if run.linear_file.is_file():
        LINEAR_MODELS[linear](run.linear_file, models / LINEAR)
    if trains_images(run.config):
        densities = TrainedModel(run).find_densities()
        if densities is not None:
            write_densities(densities, models / DENSITIES)
        if scores and (configs / SCORE).is_file():
            write_reference(models / PACKED_REFERENCE, configs / SCORE, run)
    shutil.copyfile(ROOT / "LICENSE", partial / "LICENSE")


LINEAR_MODELS: dict[str, Callable[[Path, Path], object]] = {
    "whole": shutil.copyfile,
    "half": write_half,
    "none": lambda source, target: None,
}
"""How the linear models, which evaluations and scores hold the network against, go in: all of them, that of scores in
half precision, none. They are larger than a narrow network."""


def write_configs(configs: Path, source: Path, run: Run) -> None:
    """Write the packed configs, with the settings of the run in place of the bundle's.

    Args:
        configs: folder.
        source: folder of the bundle.
        run: that is packed.
    """
    train = read_object(source / "train.json")
    kept = {name: train[name] for name in OF_THIS_MACHINE if name in train}
    place: dict[str, Any] = {"bundle_root": "."}
    overlay = read_object(source / MULTI_GPU) if (source / MULTI_GPU).is_file() else {}
    write_json(configs / Path(PACKED[0]).name, {**in_one_process(run.config, train, overlay), **kept, **place})
    if overlay:
        write_json(configs / MULTI_GPU, overlay)
    for name in (EVALUATE, INFERENCE, SCORE):
        if (source / name).is_file():
            own = with_run_values(read_object(source / name), run.config)
            write_json(configs / name, own | {"image_pattern": train["image_pattern"]} | place)
    if (source / RECONSTRUCT).is_file():
        write_json(configs / RECONSTRUCT, read_object(source / RECONSTRUCT) | place)
    metadata = run_metadata(read_object(source / METADATA), run.config)
    write_json(configs / Path(PACKED_METADATA).name, release_metadata(metadata, summary_of(run.path)))
    shutil.copyfile(source / "logging.conf", configs / "logging.conf")


def write_reference(path: Path, score: Path, run: Run) -> None:
    """Write the scores of the run's validation subjects, or say why there are none.

    Args:
        path: of the file.
        score: the packed ``score.json``, whose settings they have.
        run: that is packed, which keeps what is scored.
    """
    parser = ConfigParser(read_object(score) | {"run_dir": str(run.path), "cache_dir": run.cache_dir, "data": []})
    try:
        parser.get_parsed_content("volumes").pack_reference(path)
    except Exception as error:  # MONAI wraps errors of ours in its own
        known = user_error(error)
        if known is None:
            raise
        logger.warning(f"run scoring will not take the bundle: {known}")


def zip_folder(folder: Path) -> Path:
    """Write ``FOLDER.zip`` beside a folder, whole or not at all.

    Args:
        folder: whose name is the first part of every name in the zip.

    Raises:
        RunFolderError: if the zip is there already.
    """
    path = folder.with_name(f"{folder.name}.zip")
    if path.exists():
        raise RunFolderError(f"{path} is there already; choose another folder, or remove it.")
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, Path(folder.name) / file.relative_to(folder))
    return path


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="folder of a finished run")
    parser.add_argument("output", type=Path, help="folder that gets the bundle and its zip")
    parser.add_argument("--bundle", type=Path, help="folder of the bundle that was trained, if it has moved")
    parser.add_argument(
        "--linear",
        choices=list(LINEAR_MODELS),
        default="whole",
        help="linear models: all of them, that of scores in half precision, or none (default: %(default)s)",
    )
    parser.add_argument("--no_scores", action="store_true", help="leave the scores of the validation subjects out")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        print(zip_folder(pack(options.run_dir, options.output, options.bundle, options.linear, not options.no_scores)))
    except Exception as error:
        known = error if isinstance(error, OSError) else user_error(error)
        if known is None:
            raise
        print(f"error: {known}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
