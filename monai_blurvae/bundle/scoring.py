"""How unusual scans are under a trained run, beside its validation subjects."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from monai_blurvae import __version__
from monai_blurvae.bundle.densities import fit_densities
from monai_blurvae.bundle.volume_results import is_there, warn_of_voxel_size, writing_results
from monai_blurvae.data.facts import facts_of
from monai_blurvae.data.header import read_header
from monai_blurvae.data.patches import flatten
from monai_blurvae.data.results import ResultFolder, ResultNames, digest_of, require_same, write_like
from monai_blurvae.errors import DataError, RunFolderError, SettingsError
from monai_blurvae.files import make_folder, read_object, sha256_of, write_json, write_text
from monai_blurvae.handlers.checkpoint import load_weights
from monai_blurvae.handlers.evaluation import csv_text
from monai_blurvae.inferers import PreparedScan, SliceScoresInferer, VolumeScores, prepare_scan
from monai_blurvae.metrics.scoring import DENSITIES, SCORES, PatchScorer, standing
from monai_blurvae.run_files import REFERENCE, SCORES_CSV, SCORES_JSON
from monai_blurvae.runs.run import Run
from monai_blurvae.yardstick import LinearModels

logger = logging.getLogger(__name__)

ABOUT = "score"
"""Kind of a volume's JSON, written last."""

MAPS = ("neg_log_prob", "neg_log_prob_z")

RECORD = ("slices", "volume", "voxels")
"""Keys of :func:`record_of`."""

WHOLE = "volume"
"""In the column of the slices, in the row of a volume."""

COLUMNS = (
    *("scan", "slice", "patches"),
    *(
        column
        for name in SCORES
        for column in (name, f"{name}_z", f"{name}_percentile", *([f"{name}_typicality"] if name in DENSITIES else []))
    ),
    "distance",
)
"""Of the table, see :func:`rows_of`."""


DISTANT = ("elbo", "l2", "linear")
"""Scores whose common distance is told; the two bounds say nearly the same."""


@dataclass(frozen=True)
class Reference:
    """The scores of a run's validation subjects.

    Attributes:
        volumes: by score, of each volume.
        slices: by score, of each slice of all of them.
        voxel_mean: mean of −log p over their voxels, in nats.
        voxel_std: its standard deviation.
    """

    volumes: Mapping[str, Sequence[float]]
    slices: Mapping[str, Sequence[float]]
    voxel_mean: float
    voxel_std: float

    def distances(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """Squared Mahalanobis distances of slices' scores :data:`DISTANT` from those of the validation slices.

        Scores that are usual one by one may not be so together. Morningstar et al. (Density of States Estimation for
        Out-of-Distribution Detection, AISTATS 2021) fit a density to several statistics; this is a Gaussian one.

        Args:
            rows: with the scores of slices.

        Returns:
            Of each, without a unit; their mean over the validation slices is about the number of scores, 3.
        """
        known = np.array([self.slices[name] for name in DISTANT])
        offsets = np.array([[row[name] for name in DISTANT] for row in rows]) - known.mean(1)
        precision = np.linalg.pinv(np.cov(known))  # of two equal scores, as of a single slice, there is no inverse
        return [float(value) for value in np.einsum("ni,ij,nj->n", offsets, precision, offsets)]

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> Reference:
        """Of the records of volumes, see :func:`record_of`."""
        voxels = [record["voxels"] for record in records]
        count = sum(part["count"] for part in voxels)
        mean = sum(part["count"] * part["mean"] for part in voxels) / count
        square = sum(part["count"] * part["mean_square"] for part in voxels) / count
        return cls(
            {name: [record["volume"][name] for record in records] for name in SCORES},
            {name: [row[name] for record in records for row in record["slices"]] for name in SCORES},
            mean,
            math.sqrt(max(square - mean**2, 0.0)),
        )


class VolumeScorer:
    """Score every volume: log-density by slice, volume and voxel, beside the run's validation subjects.

    For each volume there are, on its grid, ``neg_log_prob`` (−ELBO of each voxel in nats under the likelihood that was
    fitted on the run's validation images), ``neg_log_prob_z`` (in standard deviations of the validation subjects'
    voxels), and a JSON, which is written last; for all of them a table. What is finished is not made again, and nothing
    is overwritten. See :class:`~monai_blurvae.metrics.scoring.PatchScores` for the scores.

    Args:
        network: takes the run's weights.
        run: that the weights are of.
        items: the volumes, dictionaries with a path under ``image``.
        root: folder that they lie below.
        output_dir: folder of the results.
        inferer: of the slices, with their axis and the size of the patches.
        transforms: of the training.
        cache_dir: of the store, for the run's own images.
        reference_dir: keeps the scores of the validation subjects; None for ``scoring`` in the run's folder.
        likelihood: ``"spectrum"``, ``"variance"`` or ``"kernel"``, see :func:`~monai_blurvae.metrics.fit_likelihoods`.
        importance_samples: K ≥ 1, latents of each patch.
        device: that the network is on.

    Raises:
        SettingsError: for another likelihood, or ``importance_samples`` that is no whole number of at least 1.
    """

    def __init__(
        self,
        network: nn.Module,
        run: Run,
        items: Sequence[Mapping[str, str]],
        root: str | Path,
        output_dir: str | Path,
        inferer: SliceScoresInferer,
        transforms: Any,
        cache_dir: str | Path,
        reference_dir: str | Path | None = None,
        likelihood: str = "spectrum",
        importance_samples: int = 16,
        device: str = "cpu",
    ) -> None:
        if likelihood not in ("spectrum", "variance", "kernel"):
            raise SettingsError(f"likelihood is {likelihood!r}; choose spectrum, variance or kernel.")
        if isinstance(importance_samples, bool) or not isinstance(importance_samples, int) or importance_samples < 1:
            raise SettingsError(
                f"importance_samples is {importance_samples!r}, but has to be a whole number of at least 1."
            )
        self.network: Any = network
        self.finished_run = run
        self.items = list(items)
        self.root = Path(root).absolute()
        self.results = ResultFolder(output_dir, root)
        self.inferer = inferer
        self.transforms = flatten(transforms)
        self.cache_dir = cache_dir
        self.reference_dir = None if reference_dir is None else Path(reference_dir).expanduser()
        self.likelihood = likelihood
        self.importance_samples = importance_samples
        self.device = device
        self._scorer: PatchScorer | None = None

    def run(self) -> Path:
        """Score all volumes that are not finished, and write the table.

        Returns:
            The table.

        Raises:
            DataError: naming the volume, if one cannot be used, or if the run has fewer than two validation subjects.
            RunFolderError: if weights or results cannot be read or written, or results of other settings are there.
            SettingsError: if the model has no such likelihood.
        """
        paths = [str(item["image"]) for item in self.items]
        named = {path: self.results.names(path) for path in paths}
        for path in paths:
            read_header(path)
        common = self.load()
        kept = self._kept_rows(common)
        settings = {path: self._settings(path, common) for path in paths}
        left = [path for path in paths if not is_there(named[path], ABOUT, _targets(named[path]), settings[path])]
        reference = self.reference(common)
        make_folder(self.results.path)
        write_json(self.results.path / SCORES_JSON, {"settings": common, **_about()})
        for path in tqdm(left, unit="volume"):
            self._score(path, named[path], settings[path], reference)
        if any(names.suffix for names in named.values()):
            self.results.describe()
        rows = [row for path in paths for row in self._rows(path, named[path], reference)]
        scored = {row["scan"] for row in rows}
        table = self.results.path / SCORES_CSV
        write_text(table, csv_text([*(row for row in kept if row["scan"] not in scored), *rows], COLUMNS))
        return table

    def load(self) -> dict[str, Any]:
        """Take the run's weights.

        Returns:
            What all scores depend on.
        """
        load_weights(self.network, self.finished_run.model_file)
        self.network.eval()
        inferer = self.inferer
        return {
            "model_sha256": sha256_of(self.finished_run.model_file),
            "likelihood": self.likelihood,
            "importance_samples": self.importance_samples,
            "slice_axis": inferer.spatial_dim,
            "patch_size": list(inferer.orig_roi_size),
            "overlap": inferer.overlap,
            "blending": str(inferer.mode),
            "min_foreground": inferer.min_foreground,
        }

    def reference(self, common: Mapping[str, Any]) -> Reference:
        """The scores of the run's validation subjects; what was kept or packed of them is not made again.

        Args:
            common: of :meth:`load`.

        Raises:
            DataError: if there are fewer than two, or one is not there any more.
            RunFolderError: if they cannot be kept, or a bundle was packed without them.
            SettingsError: if it was packed with those of other settings.
        """
        packed = self.finished_run.is_packed
        return Reference.of(self._packed_records(common) if packed else self._validation_records(common))

    def pack_reference(self, path: str | Path) -> None:
        """Write the scores of the run's validation subjects, for a packed bundle: nothing in it tells who they are.

        Args:
            path: of the file.

        Raises:
            BlurVAEError: as of :meth:`load` and :meth:`reference`.
        """
        common = self.load()
        records = self._validation_records(common)
        write_json(path, {"settings": common, "volumes": [{name: one[name] for name in RECORD} for one in records]})

    def _packed_records(self, common: Mapping[str, Any]) -> list[dict[str, Any]]:
        run = self.finished_run
        content = read_object(run.reference_file, "pack the run again") if run.reference_file.is_file() else {}
        known, records = content.get("settings"), content.get("volumes")
        if not isinstance(known, Mapping) or not isinstance(records, list):
            raise RunFolderError(
                f"{run.name} was packed without the scores of its validation subjects, which say what is usual; pack "
                "the run again where these are, or take the run."
            )
        for name, value in common.items():
            if known.get(name) != value:
                raise SettingsError(
                    f"{run.name} holds the scores of its validation subjects with {name} {known.get(name)!r}, but it "
                    f"is {value!r} now; leave {name} as it was, or take the run."
                )
        return records

    def _validation_records(self, common: Mapping[str, Any]) -> list[dict[str, Any]]:
        entries = facts_of(self.finished_run.validation_dataset(self.cache_dir)).entries
        if len(entries) < 2:
            raise DataError(
                f"{self.finished_run.path} has {len(entries)} validation subject(s), where at least 2 are needed to "
                "say what is usual; take a run with more."
            )
        digest = hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()[:16]
        folder = make_folder((self.reference_dir or self.finished_run.path / REFERENCE) / digest)
        records = []
        for number, entry in enumerate(tqdm(entries, desc="validation", unit="volume")):
            path = folder / f"{number:04d}.json"
            settings = self._settings(entry["image"], common)
            if not path.is_file() or read_object(path).get("settings") != settings:
                scores = self.score(prepare_scan(entry["image"], self.transforms).image.as_tensor()[0], entry["image"])
                write_json(path, {"settings": settings, **record_of(scores)})
            records.append(read_object(path))
        return records

    def score(self, image: torch.Tensor, name: str) -> VolumeScores:
        """Score a prepared volume.

        Args:
            image: ``(X, Y, Z)``, prepared as in the training.
            name: of the volume, for the message.

        Raises:
            DataError: if no patch of it holds enough anatomy.
        """
        scores = self.inferer.scores(image, self._patch_scorer(), self.device)
        if not len(scores.slices):
            raise DataError(
                f"{name} has no {self.inferer.orig_roi_size[0]}×{self.inferer.orig_roi_size[1]} patch with "
                f"{self.inferer.min_foreground:.0%} foreground along slice_axis {self.inferer.spatial_dim}; lower "
                "min_foreground, or remove the file."
            )
        return scores

    def _settings(self, path: str, common: Mapping[str, Any]) -> dict[str, Any]:
        return {"input": Path(path).name, "input_sha256": digest_of(path), **common}

    def _patch_scorer(self) -> PatchScorer:
        """Fitted when it is first needed, for that takes longer than to read what was scored before."""
        if self._scorer is None:
            run = self.finished_run
            fitted = fit_densities(run, self.network, self.cache_dir).likelihoods
            if self.likelihood not in fitted:
                raise SettingsError(
                    f"likelihood is {self.likelihood!r}, but the model of {run.name} predicts no kernel of its "
                    f"likelihood; choose {' or '.join(name for name in fitted)}."
                )
            models = LinearModels(
                lambda: run.training_dataset(self.cache_dir),
                int(self.network.latent_size),
                self.cache_dir,
                run.linear_file,
            )
            self._scorer = PatchScorer(self.network, fitted[self.likelihood], models(None), self.importance_samples)
        return self._scorer

    def _score(self, path: str, names: ResultNames, settings: Mapping[str, Any], reference: Reference) -> None:
        prepared = prepare_scan(path, self.transforms)
        trained = self.network.get_buffer("voxel_size").tolist()
        warn_of_voxel_size(path, prepared, trained, self.inferer.spatial_dim, "; resample the scan")
        scores = self.score(prepared.image.as_tensor()[0], path)
        with writing_results(names, _targets(names)):
            self._write_maps(path, names, prepared, scores, reference)
            write_json(names.path(ABOUT, ".json"), {"settings": dict(settings), **record_of(scores), **_about()})

    def _write_maps(
        self, path: str, names: ResultNames, prepared: PreparedScan, scores: VolumeScores, reference: Reference
    ) -> None:
        found = prepared.to_scan(scores.neg_log_prob[None])[0].numpy()
        write_like(names.path("neg_log_prob"), found, path)
        write_like(names.path("neg_log_prob_z"), (found - reference.voxel_mean) / reference.voxel_std, path)

    def _rows(self, path: str, names: ResultNames, reference: Reference) -> Iterator[dict[str, Any]]:
        place = Path(path).absolute()
        scan = place.relative_to(self.root) if place.is_relative_to(self.root) else Path(place.name)
        yield from rows_of(read_object(names.path(ABOUT, ".json")), scan.as_posix(), reference)

    def _kept_rows(self, common: Mapping[str, Any]) -> list[dict[str, str]]:
        """Of an earlier table of the same folder, whose rows of other scans stay."""
        table, about = self.results.path / SCORES_CSV, self.results.path / SCORES_JSON
        if about.is_file():
            require_same(about, common)
        if not table.is_file():
            return []
        text = table.read_text(encoding="utf-8", errors="replace")
        reader = csv.DictReader(io.StringIO(text))
        if not about.is_file() or tuple(reader.fieldnames or ()) != COLUMNS:
            raise RunFolderError(f"{table} is there and was not made by this; choose another output_dir.")
        return list(reader)


def record_of(scores: VolumeScores) -> dict[str, Any]:
    """What is kept of a volume's scores, as JSON has it.

    Args:
        scores: of at least one patch.

    Returns:
        ``slices``, the mean scores of each slice that has patches; ``volume``, those over all patches; ``voxels``,
        count, mean and mean square of −log p of the voxels that patches reach.
    """
    voxels = scores.neg_log_prob[scores.neg_log_prob.isfinite()].double()
    return {
        "slices": [
            {"slice": int(index), **_means(scores.scores[scores.slices == index])} for index in scores.slices.unique()
        ],
        "volume": _means(scores.scores),
        "voxels": {
            "count": len(voxels),
            "mean": float(voxels.mean()),
            "mean_square": float(voxels.square().mean()),
        },
    }


def rows_of(record: Mapping[str, Any], scan: str, reference: Reference) -> Iterator[dict[str, Any]]:
    """The rows of a volume in the table: one for each slice, then one of the volume.

    Args:
        record: of :func:`record_of`.
        scan: its name.
        reference: to which the scores are compared, slices to slices and volumes to volumes.

    Yields:
        The columns of :data:`COLUMNS`: each score with its :class:`~monai_blurvae.metrics.scoring.Standing`, and the
        distance of a slice's scores, see :meth:`Reference.distances`, of a volume the mean over its slices. A z that
        has no value is empty.
    """
    distances = reference.distances(record["slices"])
    whole = {"slice": WHOLE, **record["volume"]}
    places = [(row, reference.slices, distance) for row, distance in zip(record["slices"], distances, strict=True)]
    for row, values, distance in (*places, (whole, reference.volumes, float(np.mean(distances)))):
        found: dict[str, Any] = {"scan": scan, "slice": row["slice"], "patches": row["patches"]}
        for name in SCORES:
            place = standing(row[name], values[name])
            found |= {
                name: row[name],
                f"{name}_z": "" if math.isnan(place.z) else place.z,
                f"{name}_percentile": place.percentile,
            }
            if name in DENSITIES:
                found[f"{name}_typicality"] = place.typicality
        yield {**found, "distance": distance}


def _means(scores: torch.Tensor) -> dict[str, Any]:
    return {"patches": len(scores), **dict(zip(SCORES, scores.mean(0).tolist(), strict=True))}


def _targets(names: ResultNames) -> list[Path]:
    return [names.path(kind) for kind in MAPS]


def _about() -> dict[str, Any]:
    return {
        "generated_by": {"name": "monai_blurvae", "version": __version__},
        "for": "research; this is no medical device",
    }
