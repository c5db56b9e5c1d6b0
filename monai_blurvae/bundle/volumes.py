"""Reconstruct whole scans with a trained run, in their own space and units."""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm

from monai_blurvae import __version__
from monai_blurvae.bundle.densities import fit_densities
from monai_blurvae.bundle.volume_results import is_there, warn_of_voxel_size, writing_results
from monai_blurvae.data.header import PLANES, along_patch, read_header
from monai_blurvae.data.patches import flatten
from monai_blurvae.data.results import ResultFolder, ResultNames, digest_of, write_like
from monai_blurvae.errors import BlurVAEError, SettingsError
from monai_blurvae.files import replacing, sha256_of, write_json
from monai_blurvae.handlers.checkpoint import load_weights
from monai_blurvae.inferers import (
    CubeMapsInferer,
    PreparedScan,
    SliceMapsInferer,
    VolumeMaps,
    prepare_scan,
    with_resampling,
)
from monai_blurvae.metrics.likelihood import VarianceLikelihood
from monai_blurvae.report.scans import VolumeResults, write_volume_page
from monai_blurvae.runs.run import Run
from monai_blurvae.runs.training import versions

logger = logging.getLogger(__name__)

MAPS = ("reconstruction", "error", "absolute_error", "blur_width", "neg_log_prob")
OTHER = {"latents": ".npz", "report": ".html"}
ABOUT = "reconstruction"
"""The JSON of a volume is named like its reconstruction, as BIDS has it; written last, it says that all is done."""

NO_RUN = "the model came without its run, which tells {}"


@dataclass(frozen=True)
class _Model:
    """What a run tells of its model.

    Attributes:
        sha256: of its weights.
        voxel_size: of the training along the axes of a patch, in mm; zeros if it is unknown.
        variance: s² of its likelihood N(x̂, s² I) on [−1, 1], or None.
        about_variance: where it is from, or why there is none.
        has_kernel: whether its kernels are those of its likelihood.
    """

    sha256: str
    voxel_size: tuple[float, ...]
    variance: float | None
    about_variance: str
    has_kernel: bool


class VolumeReconstructor:
    """Reconstruct every volume, and write what the model says of it beside the reconstruction.

    For each volume there are, on its grid and in its units, ``reconstruction``, ``error`` (reconstruction − scan),
    ``absolute_error``, ``blur_width`` (RMS radius of the predicted kernel, mm), ``neg_log_prob`` (−log N(x; x̂, s²) of
    each pixel in nats, of intensities on [−1, 1], s² as fitted on the run's validation images), ``latents.npz``, a page
    and a JSON, which is written last. What is finished is not made again, and nothing is overwritten.

    Args:
        network: takes the run's weights.
        run: that the weights are of.
        items: the volumes, dictionaries with a path under ``image``.
        root: folder that they lie below.
        output_dir: folder of the results.
        inferer: of slices, with their axis and the size of the patches, or of cubes.
        transforms: of the training.
        model_file: weights in place of the run's.
        cache_dir: of the store, for the run's validation images.
        resample: bring slices or volumes to the voxel size of the training, and the results back.
        output_type: of the voxels of reconstruction and errors, a name of numpy's, or ``"input"`` for the scan's.
        variance: s² of the likelihood on [−1, 1] in place of fitting it.
        device: that the network is on.
    """

    def __init__(
        self,
        network: nn.Module,
        run: Run,
        items: Sequence[Mapping[str, str]],
        root: str | Path,
        output_dir: str | Path,
        inferer: SliceMapsInferer | CubeMapsInferer,
        transforms: Any,
        cache_dir: str | Path,
        model_file: str | Path | None = None,
        resample: bool = False,
        output_type: str = "float32",
        variance: float | None = None,
        device: str = "cpu",
    ) -> None:
        self.network: Any = network
        self.finished_run = run
        self.items = list(items)
        self.results = ResultFolder(output_dir, root)
        self.inferer = inferer
        self.transforms = flatten(transforms)
        self.cache_dir = cache_dir
        self.model_file = model_file
        self.resample = resample
        self.output_type = output_type
        self.variance = variance
        self.device = device
        if variance is not None and not (variance > 0 and math.isfinite(variance)):
            raise SettingsError(f"variance must be a positive number, but is {variance!r}.")

    def run(self) -> list[Path]:
        """Reconstruct all volumes that are not finished.

        Returns:
            The JSON of each.

        Raises:
            DataError: naming the volume, if one cannot be used.
            RunFolderError: if weights or results cannot be read or written, or results of other settings are there.
            SettingsError: if the transforms of the training cannot be taken back.
        """
        paths = [str(item["image"]) for item in self.items]
        named = {path: self.results.names(path) for path in paths}
        counts = {path: self.inferer.steps(read_header(path).shape) for path in paths}
        model_file = Path(self.model_file or self.finished_run.model_file).expanduser()
        load_weights(self.network, model_file)
        self.network.eval()
        sha256 = sha256_of(model_file)
        settings = {path: self._settings(path, sha256) for path in paths}
        left = [path for path in paths if not is_there(named[path], ABOUT, _targets(named[path]), settings[path])]
        if left:
            self._warn_of_axis()
            model = self._model(sha256)
            with tqdm(total=sum(counts[path] for path in left), unit="cube" if self._axis is None else "slice") as bar:
                for number, path in enumerate(left, 1):
                    bar.set_description(f"volume {number} of {len(left)}")
                    self._reconstruct(path, named[path], settings[path], model, bar, counts[path])
        if any(names.suffix for names in named.values()):
            self.results.describe()
        return [names.path(ABOUT, ".json") for names in named.values()]

    @property
    def _axis(self) -> int | None:
        """Across which the slices lie; None for cubes."""
        axis: int | None = self.inferer.spatial_dim
        return axis

    def _settings(self, path: str, sha256: str) -> dict[str, Any]:
        """What the results of a volume depend on."""
        inferer = self.inferer
        return {
            "input": Path(path).name,
            "input_sha256": digest_of(path),
            "model_sha256": sha256,
            "slice_axis": self._axis,
            "patch_size": list(inferer.patch_size),
            "overlap": inferer.overlap,
            "blending": str(inferer.mode),
            "resample": self.resample,
            "output_type": self.output_type,
            "variance": self.variance,
        }

    def _warn_of_axis(self) -> None:
        trained = self.finished_run.setting("slice_axis", None)
        if self._axis is not None and trained in (0, 1, 2) and trained != self._axis:
            logger.warning(
                f"The model was trained on {PLANES[trained]} slices, but slice_axis is {self._axis}, which makes "
                f"{PLANES[self._axis]} ones; leave slice_axis out, or expect worse reconstructions."
            )

    def _model(self, sha256: str) -> _Model:
        voxel_size = tuple(float(size) for size in self.network.get_buffer("voxel_size").cpu())
        variance, about = self._fitted_variance()
        known = bool(self.finished_run.config.get("train"))
        has_kernel = known and self.finished_run.objective().has_kernel
        return _Model(sha256, voxel_size, variance, about, has_kernel)

    def _fitted_variance(self) -> tuple[float | None, str]:
        """s², and where it is from or why there is none."""
        if self.variance is not None:
            return self.variance, "given as variance"
        if not self.finished_run.config.get("train"):
            reason = NO_RUN.format("the images that a likelihood is fitted on") + "; give variance"
            logger.warning(f"No −log p: {reason}.")
            return None, reason
        try:
            densities = fit_densities(self.finished_run, self.network, self.cache_dir)
        except BlurVAEError as error:
            logger.warning(f"No −log p: {error} Or give variance, which stands in the JSON of an earlier result.")
            return None, str(error)
        fitted = densities.likelihoods["variance"]
        assert isinstance(fitted, VarianceLikelihood)
        return fitted.variance, f"fitted on the run's validation images, {densities.fitted_on}"

    def _reconstruct(
        self, path: str, names: ResultNames, settings: Mapping[str, Any], model: _Model, bar: Any, expected: int
    ) -> None:
        started = time.monotonic()
        prepared = prepare_scan(path, self._transforms(model))
        prepared.require_way_back()
        warn_of_voxel_size(path, prepared, model.voxel_size, self._axis, "; set resample to true")
        _say_clipped(path, prepared)
        image = prepared.image.as_tensor()[0]
        bar.total += self.inferer.steps(image.shape) - expected  # of a training that pads or resamples
        spacing = along_patch(prepared.voxel_size, self._axis)
        maps = self.inferer.maps(
            image, self.network, self.device, spacing if model.has_kernel else None, lambda: bar.update()
        )
        with writing_results(names, _targets(names)):
            results = self._write_maps(path, names, prepared, maps, model)
            _write_latents(names.path("latents", ".npz"), maps)
            about = {"settings": dict(settings), **self._about(prepared, model)}
            del prepared, image, maps  # half a gigabyte of a volume of 256³
            _write_page(names.path("report", ".html"), results)
            about["files"] = [file.name for file in _targets(names) if file.is_file()]
            about["seconds"] = round(time.monotonic() - started, 1)
            write_json(names.path(ABOUT, ".json"), about)

    def _transforms(self, model: _Model) -> list[Any]:
        if not self.resample:
            return self.transforms
        if not min(model.voxel_size) > 0:
            raise SettingsError("resample is true, but the model does not know the voxel size of its training.")
        return with_resampling(self.transforms, model.voxel_size, self._axis)

    def _write_maps(
        self, path: str, names: ResultNames, prepared: PreparedScan, maps: VolumeMaps, model: _Model
    ) -> VolumeResults:
        """Write the volumes one by one, and give what the page shows."""
        scan = prepared.scan.as_tensor().numpy()
        reconstruction = prepared.intensities(maps.reconstruction[None])[0].numpy()
        write_like(names.path("reconstruction"), reconstruction, path, self.output_type)
        shown = [reconstruction.astype(np.float32)]
        error = np.subtract(reconstruction, scan, out=reconstruction)  # in place, for volumes are large
        write_like(names.path("error"), error, path, self.output_type)
        shown.append(error.astype(np.float32))
        write_like(names.path("absolute_error"), np.abs(error, out=error), path, self.output_type)
        del reconstruction, error
        if maps.blur_width is not None:
            write_like(names.path("blur_width"), prepared.to_scan(maps.blur_width[None])[0].numpy(), path)
        surprise = None
        if model.variance is not None:
            residual = maps.reconstruction - prepared.image.as_tensor()[0]
            found = prepared.to_scan(pixel_neg_log_prob(residual, model.variance)[None])[0].numpy()
            write_like(names.path("neg_log_prob"), found, path)
            surprise = found.astype(np.float32)
        return VolumeResults(
            name=Path(path).name,
            affine=prepared.scan.affine.numpy(),
            scan=scan,
            reconstruction=shown[0],
            error=shown[1],
            neg_log_prob=surprise,
            slice_axis=self._axis,
        )

    def _about(self, prepared: PreparedScan, model: _Model) -> dict[str, Any]:
        scaling = prepared.scaling
        kernel = "the loss of the training has no kernel" if self.finished_run.config.get("train") else None
        return {
            "generated_by": {"name": "monai_blurvae", "version": __version__},
            "for": "research; this is no medical device",
            "model": {"sha256": model.sha256, "voxel_size_mm": list(model.voxel_size)},
            "intensities": {
                "meaning": "model = slope · scan + offset, cut off below low and above high",
                "slope": scaling.slope,
                "offset": scaling.offset,
                "low": scaling.low if math.isfinite(scaling.low) else None,
                "high": scaling.high if math.isfinite(scaling.high) else None,
                "clipped_below": scaling.below,
                "clipped_above": scaling.above,
                "voxels": prepared.scan.numel(),
            },
            "voxel_size_mm": list(prepared.voxel_size),
            "neg_log_prob": {
                "meaning": "-log N(x; reconstruction, variance) of each pixel, in nats, intensities on [-1, 1]",
                "likelihood": "one variance",
                "variance": model.variance,
                "about": model.about_variance,
            },
            "blur_width": {
                "meaning": "RMS radius of the predicted blur kernel in mm",
                "missing": None if model.has_kernel else kernel or NO_RUN.format("whether a kernel was trained"),
            },
            "versions": versions(),
        }


def pixel_neg_log_prob(residual: Tensor, variance: float) -> Tensor:
    """−log N(r; 0, s²) of each pixel, in nats.

    Args:
        residual: r, of any shape.
        variance: s² > 0.
    """
    return 0.5 * residual.square() / variance + 0.5 * math.log(2 * math.pi * variance)


def _targets(names: ResultNames) -> list[Path]:
    return [*(names.path(kind) for kind in MAPS), *(names.path(kind, ending) for kind, ending in OTHER.items())]


def _write_latents(path: Path, maps: VolumeMaps) -> None:
    mu, log_var, position = (part.numpy() for part in maps.latents)
    content = io.BytesIO()
    np.savez_compressed(content, mu=mu, log_var=log_var, position=position)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def _write_page(path: Path, results: VolumeResults) -> None:
    """The page; a reconstruction does not fail for it."""
    try:
        write_volume_page(path, results)
    except ImportError as error:
        logger.warning(f"No page: {error}")


def _say_clipped(path: str, prepared: PreparedScan) -> None:
    scaling = prepared.scaling
    ends = ((scaling.below, "below", scaling.low), (scaling.above, "above", scaling.high))
    parts = [f"{count} {side} {limit:.6g}" for count, side, limit in ends if count]
    if parts:
        logger.info(
            f"{path}: of {prepared.scan.numel()} voxels {' and '.join(parts)} were cut off, as in the training; a "
            "reconstruction does not reach them."
        )
