"""Pack a finished run as a bundle of MONAI's model zoo: configs, weights, docs and licences in a folder and a zip.

    python scripts/pack_bundle.py outputs/hcp/0001 packed

writes ``packed/hcp`` and ``packed/hcp.zip``. From the unpacked folder training, evaluation and inference run without
further options, and MONAI's own checks pass on it; a learned prior comes with training and reconstruction. No path of
this machine and no subject's name goes into it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

from monai_blurvae.bundle.finished_run import FinishedRun
from monai_blurvae.bundle.run_configs import run_metadata, trains_blurvae, with_run_values
from monai_blurvae.errors import BlurVAEError, RunFolderError
from monai_blurvae.files import make_folder, read_object, replacing, write_json, write_text
from monai_blurvae.run_files import DENSITIES, INFERENCE, LINEAR, METADATA, MODEL_CARD
from monai_blurvae.trained import TrainedModel
from monai_blurvae.trained.card import model_card
from monai_blurvae.trained.source import Densities, release_metadata, summary_of

ROOT = Path(__file__).resolve().parents[1]
RECONSTRUCT = "reconstruct.json"
OF_THIS_MACHINE = (
    *("dataset_dir", "image_pattern", "subject_pattern", "datalist", "partition_file", "skip_bad_files"),
    *("cache_dir", "sample_dir"),
    *("output_dir", "run_dir", "resume", "num_workers", "device", "weights_dir", "checkpoint_minutes"),
)
"""Settings that the packed training takes from the bundle and not from the run."""


def pack(run_dir: Path, output: Path, bundle: Path | None = None, linear: bool = True) -> Path:
    """Write the folder of a bundle.

    Args:
        run_dir: of a finished run.
        output: gets the folder, whose name is that of the bundle.
        bundle: folder of the bundle that was trained; None to look where the run says.
        linear: with the linear models, which are larger than a narrow network.

    Returns:
        The folder.

    Raises:
        RunFolderError: if there is no finished run, or the folder is there already.
    """
    run = FinishedRun(run_dir)
    trained = run.config
    source = ROOT / str(trained["bundle_root"]) if bundle is None else bundle
    if not (source / INFERENCE).is_file():
        raise RunFolderError(f"{source} is no folder of a bundle; name the one that was trained by --bundle.")
    folder = output / source.name
    if folder.exists():
        raise RunFolderError(f"{folder} is there already; choose another folder, or remove it.")
    partial = make_folder(output / f".{source.name}.part")
    try:
        fill(partial, source, run)
        if not linear:
            (partial / "models" / LINEAR).unlink(missing_ok=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def fill(partial: Path, source: Path, run: FinishedRun) -> None:
    """Write all that is in the folder of a bundle.

    Args:
        partial: the folder.
        source: folder of the bundle that was trained.
        run: that is packed.
    """
    shutil.rmtree(partial)
    densities = TrainedModel.load(run.path).find_densities() if trains_blurvae(run.config) else None
    write_configs(make_folder(partial / "configs"), source, run, densities)
    shutil.copyfile(run.model_file, make_folder(partial / "models") / "model.pt")
    if run.linear_file.is_file():  # what its evaluation holds the network against, without the training's images
        shutil.copyfile(run.linear_file, partial / "models" / LINEAR)
    shutil.copytree(source / "docs", partial / "docs")
    if densities is not None:
        densities.write(partial / "models" / DENSITIES)
    if trains_blurvae(run.config):
        write_text(partial / "docs" / MODEL_CARD, model_card(run.path))
    shutil.copyfile(ROOT / "LICENSE", partial / "LICENSE")


def write_configs(configs: Path, source: Path, run: FinishedRun, densities: Densities | None) -> None:
    """Write the packed configs.

    Args:
        configs: folder.
        source: folder of the bundle.
        run: that is packed.
        densities: fitted around its decoder, whose variance inference takes, as it has no images to fit it on.
    """
    train, evaluate, inference, metadata = (
        read_object(source / name) for name in ("train.json", "evaluate.json", INFERENCE, METADATA)
    )
    kept = {name: train[name] for name in OF_THIS_MACHINE if name in train}
    pattern = {"image_pattern": train["image_pattern"]}
    write_json(configs / "train.json", {**run.config, **kept, "bundle_root": "."})
    if trains_blurvae(run.config):
        write_json(configs / "evaluate.json", with_run_values(evaluate, run.config) | pattern | {"bundle_root": "."})
        place: dict[str, Any] = {"bundle_root": ".", "model_file": "$@bundle_root + '/models/model.pt'"}
        if densities is not None and "variance" in inference:
            place["variance"] = float(densities.variances["variance"].flatten()[0])
        write_json(configs / INFERENCE, with_run_values(inference, run.config) | pattern | place)
    elif (source / RECONSTRUCT).is_file():
        write_json(configs / RECONSTRUCT, read_object(source / RECONSTRUCT) | {"bundle_root": "."})
    write_json(configs / METADATA, release_metadata(run_metadata(metadata, run.config), summary_of(run.path)))
    shutil.copyfile(source / "logging.conf", configs / "logging.conf")


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
        "--no_linear",
        action="store_true",
        help="leave the linear models out; evaluations then fit them on the training images",
    )
    options = parser.parse_args()
    try:
        print(zip_folder(pack(options.run_dir, options.output, options.bundle, not options.no_linear)))
    except (BlurVAEError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
