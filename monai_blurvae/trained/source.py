"""Reading what a finished run or a packed bundle holds, without running anything from it."""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from monai_blurvae import __version__
from monai_blurvae.bundle.densities import fit_densities
from monai_blurvae.bundle.finished_run import PACKED, FinishedRun
from monai_blurvae.bundle.run_folder import versions
from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import read_object
from monai_blurvae.handlers.checkpoint import load_safely, save_whole
from monai_blurvae.metrics.likelihood import SpectrumLikelihood, VarianceLikelihood
from monai_blurvae.networks import BlurVAE
from monai_blurvae.run_files import CONFIG, DENSITIES, METADATA, SUMMARY, VERSIONS
from monai_blurvae.trained import scriptable

PACKAGE = "monai-blurvae"


class Densities(NamedTuple):
    """The Gaussians that were fitted around a decoder, as a file keeps them.

    Attributes:
        variances: half spectra of float64 by the names in :data:`~monai_blurvae.trained.scriptable.DENSITIES`.
        fitted_on: which images, in words.
    """

    variances: Mapping[str, Tensor]
    fitted_on: str

    @classmethod
    def fit(cls, run: FinishedRun, network: BlurVAE, cache_dir: str | Path) -> Densities:
        """Fit them on the run's own validation images, which runs its config.

        Args:
            run: that the network is of.
            network: in evaluation mode.
            cache_dir: of the store of prepared images.

        Raises:
            DataError: if an image is not there any more, is another one, or there are none.
            RunFolderError: if the run has no data list.
        """
        fitted = fit_densities(run, network, run.validation_dataset(cache_dir))
        variance, spectrum = (fitted.likelihoods[name] for name in scriptable.DENSITIES)
        assert isinstance(variance, VarianceLikelihood)
        assert isinstance(spectrum, SpectrumLikelihood)
        values = spectrum.variance.double().cpu()
        return cls({"variance": values.new_full(values.shape, variance.variance), "spectrum": values}, fitted.fitted_on)

    @classmethod
    def read(cls, path: Path, image_shape: list[int]) -> Densities:
        """Read a file of :meth:`write`.

        Args:
            path: of the file.
            image_shape: (C, *image_size) of the network.

        Raises:
            RunFolderError: if it is broken, or of other images.
        """
        content = load_safely(path)
        channels, *size = image_shape
        half = (1, channels, *size[:-1], size[-1] // 2 + 1)
        variances = content.get("variances") if isinstance(content, dict) else None
        if not isinstance(variances, dict) or any(
            not isinstance(variances.get(name), Tensor)
            or variances[name].shape != half
            or not bool((variances[name] > 0).all())
            for name in scriptable.DENSITIES
        ):
            raise RunFolderError(f"{path} holds no densities of images {image_shape}; pack the run again.")
        return cls(variances, str(content.get("fitted_on", "")))

    def write(self, path: Path) -> None:
        """Write a file, whole or not at all.

        Raises:
            RunFolderError: if it cannot be written.
        """
        save_whole({"variances": dict(self.variances), "fitted_on": self.fitted_on}, path)


class Source(NamedTuple):
    """What a model is built from.

    Attributes:
        name: to call it in messages.
        run: its folder, which a zip has only while it is read.
        config: of the training.
        weights: ``state_dict`` of the best model.
        densities_file: of a packed bundle; it need not be there.
    """

    name: Path
    run: FinishedRun
    config: Mapping[str, Any]
    weights: Mapping[str, Any]
    densities_file: Path


@contextmanager
def reading(path: str | Path) -> Iterator[Source]:
    """Around the reading of a run's folder, the folder of a packed bundle, or its zip.

    Nothing from it is run: its config is read as data, its weights with ``weights_only``.

    Args:
        path: of either.

    Raises:
        RunFolderError: if it is none of them, broken, unfinished, or of another version of this package.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        yield _of_folder(path, path)
        return
    if not path.is_file():
        raise RunFolderError(f"{path} is not there; give the folder of a finished run, or a packed bundle or its zip.")
    with tempfile.TemporaryDirectory() as folder:
        yield _of_folder(_unpacked(path, Path(folder)), path)


def _unpacked(path: Path, folder: Path) -> Path:
    """The folder with the files of a packed bundle that are needed, out of its zip."""
    needed = (*PACKED, f"configs/{METADATA}", f"models/{DENSITIES}")
    try:
        with zipfile.ZipFile(path) as archive:
            config = next((name for name in archive.namelist() if f"/{name}".endswith(f"/{PACKED[0]}")), None)
            if config is None:
                raise RunFolderError(f"{path} holds no {PACKED[0]}; give the zip that scripts/pack_bundle.py wrote.")
            root = config.removesuffix(PACKED[0])
            present = set(archive.namelist())
            for name in needed:
                if root + name in present:
                    archive.extract(root + name, folder)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(f"{path} cannot be read as a zip ({error}); pack the run again.") from error
    return folder / root


def _of_folder(folder: Path, name: Path) -> Source:
    run = FinishedRun(folder)
    packed = not (folder / CONFIG).is_file()
    if not packed:
        _require_finished(folder)
    weights_file = run.model_file
    _require_version(folder, packed, name)
    weights = load_safely(weights_file)
    if not isinstance(weights, dict):
        raise RunFolderError(f"{weights_file} holds no network weights; give a model.pt.")
    return Source(name, run, run.config, weights, weights_file.with_name(DENSITIES))


def _require_version(folder: Path, packed: bool, name: Path) -> None:
    """Refuse what another version wrote, whose files may mean something else; the last number may differ."""
    if packed:
        made_by = read_object(folder / "configs" / METADATA).get("required_packages_version", {}).get(PACKAGE)
    else:
        made_by = read_object(folder / VERSIONS).get(PACKAGE)
    if str(made_by).split(".")[:2] != __version__.split(".")[:2]:
        raise RunFolderError(
            f"{name} was made by {PACKAGE} {made_by or 'of no known version'}, and this is {__version__}; install that "
            "version, or train again."
        )


def summary_of(folder: Path) -> dict[str, Any]:
    """What a finished training found.

    Raises:
        RunFolderError: if it is not finished.
    """
    _require_finished(folder)
    return read_object(folder / SUMMARY)


def _require_finished(folder: Path) -> None:
    if not (folder / SUMMARY).is_file():
        raise RunFolderError(f"{folder} holds no {SUMMARY}, since its training is not finished; go on with it first.")


def release_metadata(metadata: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """MONAI's metadata of a model that leaves, with its test's metrics and the versions of this environment.

    Args:
        metadata: of the run.
        summary: of its training.
    """
    here = versions()
    required = {name: here.get(name) or version for name, version in metadata["required_packages_version"].items()}
    remark = {"data_remark": summary["remark"]} if summary["remark"] else {}
    return {
        **metadata,
        "eval_metrics": {name: round(value, 4) for name, value in summary["test"].items()},
        **remark,
        "version": __version__,
        "changelog": {**metadata["changelog"], __version__: "packed from a finished run"},
        "monai_version": here["monai"],
        "pytorch_version": str(here["torch"]).split("+")[0],
        "numpy_version": here["numpy"],
        "required_packages_version": required,
    }
