"""The names of the files in a run's folder and in a packed bundle, and how those come out of its zip."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from pathlib import Path

from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import make_folder

CONFIG = "config.json"
"""The merged config as it was run, every plain setting with its value."""
DATALIST = "datalist.json"
VERSIONS = "versions.json"
INFERENCE = "inference.json"
METADATA = "metadata.json"
CHECKPOINT = "checkpoint.pt"
"""Everything needed to resume."""
MODEL = "model.pt"
"""The weights of the best model on the validation images."""
SETTINGS = "settings.json"
"""What the model was trained with, as the built parts had it; beside the weights, also in a packed bundle."""
LINEAR = "linear.pt"
"""The linear VAEs that the network was held against, for evaluations without the training's images."""
DENSITIES = "densities.pt"
"""In a packed bundle beside the weights: the Gaussians fitted around the decoder, whose images it comes without."""
PACKED_REFERENCE = "reference.json"
"""Likewise: the scores of the run's validation subjects, without anything that tells who they are."""
MODEL_CARD = "model_card.md"
SUMMARY = "summary.json"
"""Written at the end of a training, so that without it a run is unfinished."""
LAUNCH = ".launch"
"""What tells the launch by torchrun that writes to the run, and goes on with it when it starts its processes again."""
TENSORBOARD = "tensorboard"
"""The folder of the event files."""
REPORT = "report.html"

TEST = "test"
"""The folder of the evaluation at the end of a training; that and any later one's hold the files below."""
EVALUATION = "evaluation"
"""The folder of later evaluations, one numbered folder each."""
METRICS_CSV = "metrics.csv"
METRICS_MD = "metrics.md"
MEASURES_JSON = "measures.json"
MEASURES_MD = "measures.md"
COPYING_JSON = "copying.json"
NEAREST_PNG = "nearest_training.png"
YARDSTICK_JSON = "yardstick.json"
YARDSTICK_MD = "yardstick.md"
EVALUATION_NPZ = "evaluation.npz"
RECONSTRUCTIONS = "reconstructions.png"
SAMPLES = "samples.png"

DENOISING_NPZ = "denoising.npz"
"""Of the evaluation of a learned prior, in place of ``evaluation.npz``."""
RECONSTRUCTION_NPZ = "reconstruction.npz"
CONVERGENCE_CSV = "convergence.csv"
"""In the folder of a reconstructed file, beside ``metrics.csv``."""

REFERENCE = "scoring"
"""The folder of the scores of a run's validation subjects, beside which those of other scans stand."""
SCORES_CSV = "scores.csv"
SCORES_JSON = "scores.json"
"""In a folder of scored scans: the table, and the settings that all of its rows share."""


PACKED = ("configs/train.json", f"models/{MODEL}")
"""Config and weights."""
PACKED_INFERENCE, PACKED_METADATA = f"configs/{INFERENCE}", f"configs/{METADATA}"
PACKED_CARD = f"docs/{MODEL_CARD}"

FILES = (
    *(*PACKED, PACKED_INFERENCE, PACKED_METADATA, PACKED_CARD),
    *(f"models/{name}" for name in (SETTINGS, DENSITIES, LINEAR, PACKED_REFERENCE)),
)
"""All that is taken out of a zip."""


def is_packed_zip(path: Path) -> bool:
    """Whether a file is the zip of a packed bundle; torch's own files of weights are zips, too."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(_ends(name, PACKED[1]) for name in archive.namelist())


def unpack(path: Path, folder: Path) -> Path:
    """Take the :data:`FILES` of a packed bundle out of its zip.

    They are written under their own names, whatever else the zip holds or calls them: nothing of it gets out of the
    folder, and nothing is run.

    Args:
        path: of the zip.
        folder: an empty one.

    Returns:
        The folder.

    Raises:
        RunFolderError: if it is no zip, is broken, or holds no packed bundle.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            present = set(archive.namelist())
            root = next((name.removesuffix(PACKED[0]) for name in sorted(present) if _ends(name, PACKED[0])), "")
            for name in PACKED:
                if root + name not in present:
                    raise RunFolderError(f"{path} holds no {name}; give the zip that scripts/pack_bundle.py wrote.")
            for name in FILES:
                if root + name in present:
                    target = folder / name
                    make_folder(target.parent)
                    with archive.open(root + name) as source, target.open("wb") as copy:
                        shutil.copyfileobj(source, copy)
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # RuntimeError: it is encrypted
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(f"{path} cannot be read as a zip ({error}); pack the run again.") from error
    return folder


def _ends(name: str, end: str) -> bool:
    return f"/{name}".endswith(f"/{end}")
