"""How well scores of unusualness tell artefacts and lesions, put into held-out scans, from the scans as they are.

For each score of ``bundles/hcp/score.json`` and a few made of them: AUROC with bootstrap intervals over subjects, of
whole volumes and of the slices that were changed. What is scored is kept, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.bundle import ConfigParser
from monai.transforms import (
    Compose,
    GibbsNoise,
    KSpaceSpikeNoise,
    RandBiasField,
    RandRicianNoise,
    ScaleIntensityRangePercentilesd,
)
from scipy.ndimage import gaussian_filter
from torch import Tensor
from tqdm import tqdm

from monai_blurvae.bundle import VolumeScorer, default_cache_dir
from monai_blurvae.bundle.scoring import Reference, record_of
from monai_blurvae.data import input_datalist, read_datalist
from monai_blurvae.errors import SettingsError, user_error
from monai_blurvae.files import make_folder, read_object, sha256_of, write_json, write_text
from monai_blurvae.handlers.evaluation import csv_text
from monai_blurvae.metrics.scoring import auroc
from monai_blurvae.seeding import derive_seed, numpy_rng

SCORE = Path(__file__).resolve().parents[1] / "bundles/hcp/score.json"
CLEAN = "clean"
WORST_SHARE = 0.01
LESION_RADIUS = 5.0
"""Of planted lesions, in voxels."""
CONTRAST = 0.4
"""Of planted lesions, in shares of the 99th percentile."""

Numbers = npt.NDArray[np.float64]
Change = Callable[[Numbers, np.random.Generator], Numbers]
"""Takes a volume ``(X, Y, Z)`` whose 99th percentile is 1, slices along the last axis."""


def lesion(sign: float) -> Change:
    """A ball with a soft edge, brighter or darker than what was there, around a voxel of the anatomy."""

    def change(volume: Numbers, rng: np.random.Generator) -> Numbers:
        inside = np.argwhere(gaussian_filter((volume > 0).astype(float), LESION_RADIUS) > 0.9)
        centre = inside[rng.integers(len(inside))]
        grid = np.indices(volume.shape) - centre[:, None, None, None]
        ball = 1 / (1 + np.exp(2 * (np.sqrt((grid**2).sum(0)) - LESION_RADIUS)))
        return np.maximum(volume + sign * CONTRAST * np.where(ball > 1e-3, ball, 0), 0)

    return change


def motion(volume: Numbers, rng: np.random.Generator) -> Numbers:
    """Two moves of up to 2 voxels, after which the remaining lines of k-space are those of the moved object."""
    kspace = np.fft.fft2(volume, axes=(0, 1))
    order = np.fft.fftshift(np.arange(volume.shape[0]))  # lines are sampled from one end to the other
    frequencies = [np.fft.fftfreq(size) for size in volume.shape[:2]]
    for start in np.sort(rng.choice(volume.shape[0], 2, replace=False)):
        lines = order[start:]
        shift = rng.uniform(-2, 2, 2)
        phase = frequencies[0][lines, None] * shift[0] + frequencies[1] * shift[1]
        kspace[lines] *= np.exp(-2j * np.pi * phase)[..., None]
    return np.abs(np.fft.ifft2(kspace, axes=(0, 1)))


def ghosting(volume: Numbers, rng: np.random.Generator) -> Numbers:
    """Every second line of k-space is 15 % too weak, but for the centre."""
    kspace = np.fft.fft2(volume, axes=(0, 1))
    lines = np.arange(1, volume.shape[0], 2)
    kspace[lines[np.abs(np.fft.fftfreq(volume.shape[0]))[lines] > 0.02]] *= 0.85
    return np.abs(np.fft.ifft2(kspace, axes=(0, 1)))


def of_monai(make: Callable[[], Any]) -> Change:
    """A transform of MONAI, by slice, with a seed of its own."""

    def change(volume: Numbers, rng: np.random.Generator) -> Numbers:
        transform = make()
        if hasattr(transform, "set_random_state"):
            transform.set_random_state(int(rng.integers(2**31)))
        return np.asarray(transform(torch.as_tensor(volume)[None].float()))[0].astype(np.float64)

    return change


def spike(volume: Numbers, rng: np.random.Generator) -> Numbers:
    """One frequency in the plane is too strong in every slice."""
    place = [size // 2 + int(rng.integers(8, 20)) for size in volume.shape[:2]]
    slices = []
    for slice_ in np.moveaxis(volume, 2, 0):
        if slice_.any():
            image = torch.as_tensor(slice_)[None].float()
            spectrum = float(np.log(np.abs(np.fft.fftn(slice_)).max() + 1e-10))
            slice_ = np.asarray(KSpaceSpikeNoise([(0, *place)], [spectrum - 2.0])(image))[0]
        slices.append(slice_)
    return np.stack(slices, 2)


CHANGES: dict[str, Change] = {
    "bright lesion": lesion(1),
    "dark lesion": lesion(-1),
    "motion": motion,
    "ghosting": ghosting,
    "noise": of_monai(lambda: RandRicianNoise(prob=1, std=0.05, relative=False, sample_std=False)),
    "bias field": of_monai(lambda: RandBiasField(prob=1, degree=3, coeff_range=(0.1, 0.2))),
    "Gibbs ringing": of_monai(lambda: GibbsNoise(alpha=0.6)),
    "k-space spike": spike,
    "blurred": lambda volume, rng: gaussian_filter(volume, (1.5, 1.5, 0)),
}

SCORES: dict[str, str] = {
    "elbo": "−ELBO",
    "importance": "−importance-weighted bound",
    "typicality": "typicality of the ELBO",
    "l2": "L2 error",
    "linear": "−log p, linear model",
    "worst": "1 % highest voxels of −log p",
    "ratio": "linear log p − ELBO",
    "distance": "Mahalanobis distance of ELBO, L2, linear",
}


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run_dir", type=Path, required=True, help="folder of a training")
    add("--output", type=Path, required=True, help="folder of tables and of what was scored")
    add("--datalist", type=Path, help="whose test subjects are taken; default: the run's own")
    add("--input", help="scans in their place: a file, a folder or a glob")
    add("--changes", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    add("--subjects", type=int, help="the first; default: all")
    add("--every", type=int, default=1, help="score each n-th slice (default: %(default)s)")
    add("--overlap", type=float, default=0.5, help="of patches (default: %(default)s)")
    add("--importance_samples", type=int, default=16, help="latents of each patch (default: %(default)s)")
    add("--likelihood", choices=("spectrum", "variance", "kernel"), default="spectrum")
    add("--bootstrap", type=int, default=1000, help="draws of subjects (default: %(default)s)")
    add("--cache_dir", type=Path, default=default_cache_dir())
    add("--seed", type=int, default=0)
    return parser


def check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End the program with a sentence where an option is out of its range."""
    for name in ("subjects", "every", "importance_samples", "bootstrap"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name} is {value}, but has to be at least 1.")
    if not 0 <= arguments.overlap < 1:
        parser.error(f"--overlap is {arguments.overlap}, but has to be at least 0 and below 1.")


def make_scorer(arguments: argparse.Namespace) -> VolumeScorer:
    """The scorer of ``bundles/hcp/score.json``."""
    parser = ConfigParser(ConfigParser.load_config_file(str(SCORE)))
    for name in ("run_dir", "cache_dir", "overlap", "importance_samples", "likelihood"):
        value = getattr(arguments, name)
        parser[name] = str(value) if isinstance(value, Path) else value
    parser["reference_dir"] = str(arguments.output / "reference")
    parser["data"] = []
    scorer: VolumeScorer = parser.get_parsed_content("volumes")
    return scorer


def find_scans(arguments: argparse.Namespace) -> list[Path]:
    """The scans that are changed.

    Raises:
        DataError: if the list or a scan is not there.
        SettingsError: if there are fewer than two.
    """
    if arguments.input is not None:
        listed = input_datalist(arguments.input, None, "", arguments.output).require()
    else:
        listed = read_datalist(arguments.datalist or arguments.run_dir / "datalist.json")
    scans = [Path(item["image"]) for item in listed.items("test")][: arguments.subjects]
    if len(scans) < 2:
        raise SettingsError(
            f"there are {len(scans)} test scans, where an interval over subjects needs at least 2; give a --datalist "
            "with test subjects, or scans as --input."
        )
    return scans


def changed(path: Path, name: str, transforms: Sequence[Any], axis: int, seed: int) -> tuple[Tensor, Tensor]:
    """A changed scan, prepared, with its zeroed background as it was, and which of its slices were changed.

    The change is made before intensities are scaled, and inside the anatomy alone: background that is not black is
    found without any model.
    """
    scaling = next(i for i, step in enumerate(transforms) if isinstance(step, ScaleIntensityRangePercentilesd))
    data = Compose(transforms[:scaling])({"image": str(path)})
    raw = np.moveaxis(np.asarray(data["image"])[0].astype(np.float64), axis, 2)
    inside = raw > raw.min()
    scale = float(np.percentile(raw, 99)) - raw.min()
    unit = (raw - raw.min()) / scale
    made = unit
    if name != CLEAN:
        made = np.where(inside, CHANGES[name](unit, numpy_rng(seed, "change", name, path.name)), 0)
    touched = (np.abs(made - unit) > 0.02).any((0, 1))
    data["image"] = torch.as_tensor(np.moveaxis(made, 2, axis).copy())[None].float()
    return Compose(transforms[scaling:])(data)["image"], torch.as_tensor(touched)


def scored(scorer: VolumeScorer, path: Path, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The record of a changed scan, see :func:`~monai_blurvae.bundle.scoring.record_of`, with its worst voxels."""
    axis = scorer.inferer.spatial_dim
    image, touched = changed(path, name, scorer.transforms, axis, arguments.seed)
    chosen = torch.arange(0, image.shape[axis + 1], arguments.every)
    scores = scorer.score(image[0].index_select(axis, chosen), f"{path}, {name}")
    record = record_of(scores)
    maps = scores.neg_log_prob.movedim(axis, 0)
    for row in record["slices"]:
        row["worst"] = worst(maps[row["slice"]])
        row["touched"] = bool(touched[chosen[row["slice"]]])
    record["volume"] |= {"worst": worst(scores.neg_log_prob), "touched": True}
    return record


def worst(neg_log_prob: Tensor) -> float:
    """Mean of the highest of the values, a hundredth of them."""
    values = neg_log_prob[neg_log_prob.isfinite()]
    return float(values.topk(max(1, int(WORST_SHARE * len(values)))).values.mean())


def unusualness(record: Mapping[str, Any], reference: Reference) -> tuple[dict[str, float], list[dict[str, float]]]:
    """All scores of a volume and of its slices, higher for what is more unusual."""

    def of(row: Mapping[str, Any], typical: float, distance: float) -> dict[str, float]:
        return {
            "elbo": -row["elbo"],
            "importance": -row["importance"],
            "typicality": abs(row["elbo"] - typical),
            "l2": row["l2"],
            "linear": -row["linear"],
            "worst": row["worst"],
            "ratio": row["linear"] - row["elbo"],
            "distance": distance,
        }

    distances = reference.distances(record["slices"])
    typical = float(np.mean(reference.slices["elbo"]))
    slices = [of(row, typical, distance) for row, distance in zip(record["slices"], distances, strict=True)]
    return of(record["volume"], float(np.mean(reference.volumes["elbo"])), float(np.mean(distances))), slices


def interval(
    usual: Sequence[Sequence[float]], unusual: Sequence[Sequence[float]], draws: int, seed: int
) -> tuple[float, float, float]:
    """AUROC of each subject's against the other subjects', and the ends of its 95 % bootstrap interval over subjects.

    A changed scan is not held against itself: a scan in use comes without its unchanged self, and a bootstrap that drew
    a subject twice would hold it against itself too often.

    Args:
        usual: scores of each subject, two at least.
        unusual: likewise, in the same order; a subject may have none.
        draws: of the bootstrap.
        seed: of these.
    """
    count = len(usual)
    wins, pairs = np.zeros((count, count)), np.zeros((count, count))
    for i, j in itertools.permutations(range(count), 2):
        if len(unusual[i]) and len(usual[j]):
            pairs[i, j] = len(unusual[i]) * len(usual[j])
            wins[i, j] = pairs[i, j] * auroc(usual[j], unusual[i])
    rng = np.random.default_rng(derive_seed(seed, "bootstrap"))
    weights = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(float)
    compared = np.einsum("bi,ij,bj->b", weights, pairs, weights)
    found = np.einsum("bi,ij,bj->b", weights, wins, weights)[compared > 0] / compared[compared > 0]
    low, high = np.percentile(found, [2.5, 97.5]) if len(found) else (np.nan, np.nan)
    return float(wins.sum() / pairs.sum()), float(low), float(high)


def tables(
    records: Mapping[tuple[str, str], Mapping[str, Any]], reference: Reference, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each level, change and score."""
    subjects = list(dict.fromkeys(subject for subject, _ in records))
    found = {key: unusualness(record, reference) for key, record in records.items()}
    rows = []
    for change in arguments.changes:
        for name in SCORES:
            pairs = {
                "volume": (
                    [[found[subject, CLEAN][0][name]] for subject in subjects],
                    [[found[subject, change][0][name]] for subject in subjects],
                ),
                "slice": (
                    [[row[name] for row in found[subject, CLEAN][1]] for subject in subjects],
                    [_touched(records[subject, change], found[subject, change][1], name) for subject in subjects],
                ),
            }
            for level, (usual, unusual) in pairs.items():
                if not any(map(len, unusual)):  # none of the slices that were scored
                    continue
                value, low, high = interval(usual, unusual, arguments.bootstrap, arguments.seed)
                rows.append({"level": level, "change": change, "score": name, "auroc": value, "low": low, "high": high})
    return rows


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Tables for the eye, a line for each change and a column for each score."""
    lines = []
    for level in ("volume", "slice"):
        lines += [f"## By {level}", "", f"| {' | '.join(['', *SCORES.values()])} |", "|---" * (len(SCORES) + 1) + "|"]
        for change in dict.fromkeys(row["change"] for row in rows):
            cells = [
                f"{row['auroc']:.2f} ({row['low']:.2f}–{row['high']:.2f})"
                for row in rows
                if row["level"] == level and row["change"] == change
            ]
            lines.append(f"| {' | '.join([change, *cells])} |")
        lines.append("")
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> None:
    """The measurement."""
    folder = make_folder(arguments.output)
    scans = find_scans(arguments)
    scorer = make_scorer(arguments)
    common = scorer.load()
    settings = common | {"every": arguments.every, "seed": arguments.seed}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    records: dict[tuple[str, str], Mapping[str, Any]] = {}
    reference = scorer.reference(common)
    for path in tqdm(scans, unit="subject"):
        kept = make_folder(folder / "records" / digest / sha256_of(path)[:16])
        for name in (CLEAN, *arguments.changes):
            file = kept / f"{name.replace(' ', '_')}.json"
            if not file.is_file():
                write_json(file, scored(scorer, path, name, arguments))
            records[str(path), name] = read_object(file)
    rows = tables(records, reference, arguments)
    write_text(folder / "auroc.csv", csv_text(rows))
    write_text(folder / "auroc.md", to_markdown(rows))
    print(to_markdown(rows))
    print(f"The tables are in {folder}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = make_parser()
    parsed = parser.parse_args(arguments)
    check(parsed, parser)
    try:
        run(parsed)
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    except Exception as error:
        shown = user_error(error)
        if shown is None:
            raise
        print(f"error: {shown}", file=sys.stderr)
        return 1
    return 0


def _touched(record: Mapping[str, Any], scores: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [values[name] for row, values in zip(record["slices"], scores, strict=True) if row["touched"]]


if __name__ == "__main__":
    sys.exit(main())
