"""How well scores of unusualness tell artefacts and lesions, put into held-out scans, from the scans as they are.

For each score of ``bundles/hcp/score.json`` and a few made of them: AUROC with bootstrap intervals over subjects, of
whole volumes and of the slices that were changed, at each strength; of scans of another kind (``--others``) likewise.
For lesions also whether maps say where they are. What is scored is kept, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from scipy.ndimage import gaussian_filter
from torch import Tensor
from tqdm import tqdm

from monai_blurvae.bundle import VolumeScorer
from monai_blurvae.bundle.scoring import Reference, record_of
from monai_blurvae.data import input_datalist, read_datalist
from monai_blurvae.errors import SettingsError, user_error
from monai_blurvae.files import default_cache_dir, make_folder, read_object, sha256_of, write_json, write_text
from monai_blurvae.handlers.evaluation import csv_text
from monai_blurvae.inferers import VolumeScores
from monai_blurvae.metrics.scoring import auroc
from monai_blurvae.seeding import derive_seed, numpy_rng
from monai_blurvae.transforms import ScalePercentilesd
from study.planted import CHANGES, LESIONS

SCORE = Path(__file__).resolve().parents[1] / "bundles/hcp/score.json"
CLEAN = "clean"
OTHERS = "other scans"
WORST_SHARE = 0.01
SMOOTHING = 2.5
"""Standard deviation of the Gaussian, in voxels in the plane, that residuals are smoothed by."""

SCORES: dict[str, str] = {
    "elbo": "−ELBO",
    "importance": "−importance-weighted bound",
    "typicality": "typicality of the ELBO",
    "l2": "L2 error",
    "linear": "−log p, linear model",
    "worst": "1 % highest voxels of −log p",
    "ratio": "linear log p − ELBO",
    "residual": "1 % highest voxels of the smoothed residual",
    "distance": "Mahalanobis distance of ELBO, L2, linear",
}

MAPS: dict[str, str] = {
    "neg_log_prob": "−log p",
    "smoothed": "−log p, smoothed",
    "l2": "squared error",
    "residual": "smoothed residual",
    "intensity": "distance from the mean intensity",
}
"""What may show where a lesion is; the last knows no model."""


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run_dir", type=Path, required=True, help="folder of a training")
    add("--output", type=Path, required=True, help="folder of tables and of what was scored")
    add("--datalist", type=Path, help="whose test subjects are taken; default: the run's own")
    add("--input", help="scans in their place: a file, a folder or a glob")
    add("--changes", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    add("--strengths", nargs="+", type=float, default=[1.0], help="of each change (default: 1)")
    add("--others", help="scans of another kind, which are scored as they are: a file, a folder or a glob")
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
    if not all(0 < strength < float("inf") for strength in arguments.strengths):
        parser.error(f"--strengths are {arguments.strengths}, but have to be finite and above 0.")
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


def find_others(arguments: argparse.Namespace) -> list[Path]:
    """The scans of another kind.

    Raises:
        DataError: if they are not there.
    """
    if arguments.others is None:
        return []
    listed = input_datalist(arguments.others, None, "", arguments.output).require()
    return [Path(item["image"]) for item in listed.items("test")]


class Changed(NamedTuple):
    """A changed scan, prepared, with its zeroed background as it was.

    Attributes:
        image: ``(1, X, Y, Z)``.
        slices: which of its slices were changed, along the slice axis.
        mask: voxels that were changed by at least half of what a lesion is in its middle, ``(X, Y, Z)``.
    """

    image: Tensor
    slices: Tensor
    mask: Tensor


def changed(
    path: Path, name: str, transforms: Sequence[Any], axis: int, seed: int = 0, strength: float = 1.0
) -> Changed:
    """Change a scan and prepare it.

    The change is made before intensities are scaled, and inside the anatomy alone: background that is not black is
    found without any model. A change of another strength is made at the same place.
    """
    scaling = next(i for i, step in enumerate(transforms) if isinstance(step, ScalePercentilesd))
    data = Compose(transforms[:scaling])({"image": str(path)})
    raw = np.moveaxis(np.asarray(data["image"])[0].astype(np.float64), axis, 2)
    inside = raw > raw.min()
    scale = float(np.percentile(raw, 99)) - raw.min()
    unit = (raw - raw.min()) / scale
    made = unit
    if name != CLEAN:
        made = np.where(inside, CHANGES[name](unit, numpy_rng(seed, "change", name, path.name), strength), 0)
    difference = torch.as_tensor(np.abs(made - unit))
    data["image"] = torch.as_tensor(np.moveaxis(made, 2, axis).copy())[None].float()
    image = Compose(transforms[scaling:])(data)["image"]
    return Changed(image, (difference > 0.02).any(0).any(0), (difference > 0.2 * strength).movedim(2, axis))


def scored(scorer: VolumeScorer, path: Path, name: str, strength: float, arguments: argparse.Namespace) -> Any:
    """The record of a changed scan, see :func:`~monai_blurvae.bundle.scoring.record_of`, and what maps say of it."""
    axis = scorer.inferer.spatial_dim
    made = changed(path, name, scorer.transforms, axis, arguments.seed, strength)
    chosen = torch.arange(0, made.image.shape[axis + 1], arguments.every)
    image, mask = (volume.index_select(axis, chosen).movedim(axis, 0) for volume in (made.image[0], made.mask))
    scores = scorer.score(image.movedim(0, axis), f"{path}, {name}")
    record = record_of(scores)
    maps = maps_of(scores, image, axis)
    for row in record["slices"]:
        row |= {"worst": worst(maps["neg_log_prob"][row["slice"]]), "residual": worst(maps["residual"][row["slice"]])}
        row["touched"] = bool(made.slices[chosen[row["slice"]]])
    record["volume"] |= {"worst": worst(maps["neg_log_prob"]), "residual": worst(maps["residual"]), "touched": True}
    if name in LESIONS:
        record["located"] = {kind: located(found, mask) for kind, found in maps.items()}
    return record


def maps_of(scores: VolumeScores, image: Tensor, axis: int) -> dict[str, Tensor]:
    """The maps of :data:`MAPS`, ``(slices, H, W)``, NaN where no patch was scored.

    Args:
        scores: of the volume.
        image: as it was prepared, slices first.
        axis: of the slices, in the scores.
    """
    neg_log_prob, residual = (found.movedim(axis, 0) for found in (scores.neg_log_prob, scores.residual))
    reached = neg_log_prob.isfinite()

    def smoothed(found: Tensor) -> Tensor:
        blurred = gaussian_filter(found.nan_to_num().numpy(), (0, SMOOTHING, SMOOTHING))
        return torch.where(reached, torch.as_tensor(blurred), torch.nan)

    return {
        "neg_log_prob": neg_log_prob,
        "smoothed": smoothed(neg_log_prob),
        "l2": residual.square(),
        "residual": smoothed(residual).abs(),
        "intensity": torch.where(reached, (image - image[reached].mean()).abs(), torch.nan),
    }


def located(found: Tensor, mask: Tensor) -> dict[str, float] | None:
    """Whether a map ``(slices, H, W)`` is highest where the mask is.

    Returns:
        ``auroc`` over the voxels of the anatomy in the slices with a lesion, and ``hit``, 1 if the highest voxel of
        the volume is in it, else 0 (the pointing game of Zhang et al., 2016); None where no scored voxel is in one.
    """
    inside = found.isfinite() & mask
    if not inside.any():
        return None
    slices = inside.flatten(1).any(1)
    values, truth = found[slices], inside[slices]
    usual = values[values.isfinite() & ~truth]
    highest = int(found.nan_to_num(-torch.inf).argmax())
    return {"auroc": auroc(usual.numpy(), values[truth].numpy()), "hit": float(inside.flatten()[highest])}


def worst(found: Tensor) -> float:
    """Mean of the highest of a map's values, a hundredth of them."""
    values = found[found.isfinite()]
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
            "residual": row["residual"],
            "ratio": row["linear"] - row["elbo"],
            "distance": distance,
        }

    distances = reference.distances(record["slices"])
    typical = float(np.mean(reference.slices["elbo"]))
    slices = [of(row, typical, distance) for row, distance in zip(record["slices"], distances, strict=True)]
    return of(record["volume"], float(np.mean(reference.volumes["elbo"])), float(np.mean(distances))), slices


def interval(
    usual: Sequence[Sequence[float]],
    unusual: Sequence[Sequence[float]],
    draws: int,
    seed: int,
    same_subjects: bool = True,
) -> tuple[float, float, float]:
    """AUROC of subjects' scores against those of others, and the ends of its 95 % bootstrap interval over subjects.

    A changed scan is not held against itself: a scan in use comes without its unchanged self, and a bootstrap that drew
    a subject twice would hold it against itself too often.

    Args:
        usual: scores of each subject, two at least.
        unusual: likewise; a subject may have none.
        draws: of the bootstrap.
        seed: of these.
        same_subjects: both are of the same subjects, in the same order.
    """
    shape = len(unusual), len(usual)
    wins, pairs = np.zeros(shape), np.zeros(shape)
    for i, j in itertools.product(*map(range, shape)):
        if len(unusual[i]) and len(usual[j]) and not (same_subjects and i == j):
            pairs[i, j] = len(unusual[i]) * len(usual[j])
            wins[i, j] = pairs[i, j] * auroc(usual[j], unusual[i])
    rng = np.random.default_rng(derive_seed(seed, "bootstrap"))
    chosen = [rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(float) for count in shape]
    rows, columns = (chosen[1], chosen[1]) if same_subjects else chosen
    compared = np.einsum("bi,ij,bj->b", rows, pairs, columns)
    found = np.einsum("bi,ij,bj->b", rows, wins, columns)[compared > 0] / compared[compared > 0]
    low, high = np.percentile(found, [2.5, 97.5]) if len(found) else (np.nan, np.nan)
    return float(wins.sum() / pairs.sum()), float(low), float(high)


Records = Mapping[tuple[str, str, float], Any]
"""Of each scan, change and strength; unchanged scans have strength 0."""


def tables(records: Records, reference: Reference, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each level, change, strength and score."""
    found = {key: unusualness(record, reference) for key, record in records.items()}
    kinds = dict.fromkeys((change, strength) for _, change, strength in records if change != CLEAN)
    rows = []
    for (change, strength), name in itertools.product(kinds, SCORES):
        clean, made = ([key for key in records if key[1:] == kind] for kind in ((CLEAN, 0.0), (change, strength)))
        levels = {
            "volume": ([[found[key][0][name]] for key in part] for part in (clean, made)),
            "slice": (
                [[row[name] for row in found[key][1]] for key in clean],
                [_scores(records[key], found[key][1], name, change == OTHERS) for key in made],
            ),
        }
        for level, (usual, unusual) in levels.items():
            if not any(map(len, unusual)):  # none of the slices that were scored
                continue
            value, low, high = interval(usual, unusual, arguments.bootstrap, arguments.seed, change != OTHERS)
            row = {"level": level, "change": change, "strength": strength, "score": name}
            rows.append(row | {"auroc": value, "low": low, "high": high})
    return rows


def location_rows(records: Records, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each lesion, strength and map: means over subjects, with a 95 % bootstrap interval of the AUROC."""
    rng = np.random.default_rng(derive_seed(arguments.seed, "location"))
    kinds = dict.fromkeys(key[1:] for key, record in records.items() if "located" in record)
    rows = []
    for (change, strength), kind in itertools.product(kinds, MAPS):
        found = [record["located"][kind] for key, record in records.items() if key[1:] == (change, strength)]
        values = np.array([[one["auroc"], one["hit"]] for one in found if one is not None])
        if not len(values):
            continue
        means = values[rng.integers(len(values), size=(arguments.bootstrap, len(values))), 0].mean(1)
        low, high = np.percentile(means, [2.5, 97.5])
        row = {"change": change, "strength": strength, "map": kind, "lesions": len(values)}
        rows.append(row | {"auroc": values[:, 0].mean(), "low": low, "high": high, "hits": values[:, 1].mean()})
    return rows


def to_markdown(rows: Sequence[Mapping[str, Any]], locations: Sequence[Mapping[str, Any]]) -> str:
    """Tables for the eye, a line for each change and strength and a column for each score."""
    lines = []
    for level in ("volume", "slice"):
        lines += [f"## By {level}", "", *_table([row for row in rows if row["level"] == level], "score", SCORES), ""]
    if locations:
        text = "AUROC over voxels in the slices with a lesion, and how often the highest voxel of the volume is in it."
        lines += ["## Where lesions are", "", text, "", *_table(locations, "map", MAPS), ""]
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> None:
    """The measurement."""
    folder = make_folder(arguments.output)
    scans = find_scans(arguments)
    others = find_others(arguments)
    scorer = make_scorer(arguments)
    common = scorer.load()
    settings = common | {"every": arguments.every, "seed": arguments.seed}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    reference = scorer.reference(common)
    planted = [(CLEAN, 0.0), *itertools.product(arguments.changes, arguments.strengths)]
    work = [(path, CLEAN, OTHERS, 0.0) for path in others]
    work = [(path, name, name, strength) for path in scans for name, strength in planted] + work
    records: dict[tuple[str, str, float], Any] = {}
    for path, name, kind, strength in tqdm(work, unit="scan"):
        kept = make_folder(folder / "records" / digest / sha256_of(path)[:16])
        file = kept / f"{name.replace(' ', '_')}_{strength:g}.json"
        if not file.is_file():
            write_json(file, scored(scorer, path, name, strength, arguments))
        records[str(path), kind, strength] = read_object(file)
    rows, locations = tables(records, reference, arguments), location_rows(records, arguments)
    write_text(folder / "auroc.csv", csv_text(rows))
    if locations:
        write_text(folder / "locations.csv", csv_text(locations))
    write_text(folder / "auroc.md", to_markdown(rows, locations))
    print(to_markdown(rows, locations))
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


def _scores(record: Mapping[str, Any], scores: Sequence[Mapping[str, float]], name: str, every: bool) -> list[float]:
    """Of the slices that were changed, or of every one."""
    return [values[name] for row, values in zip(record["slices"], scores, strict=True) if every or row["touched"]]


def _table(rows: Sequence[Mapping[str, Any]], column: str, titles: Mapping[str, str]) -> list[str]:
    lines = [f"| {' | '.join(['', *titles.values()])} |", "|---" * (len(titles) + 1) + "|"]
    for change, strength in dict.fromkeys((row["change"], row["strength"]) for row in rows):
        cells = {row[column]: _cell(row) for row in rows if (row["change"], row["strength"]) == (change, strength)}
        title = change if strength in (0, 1) else f"{change} × {strength:g}"
        lines.append(f"| {' | '.join([title, *(cells.get(name, '–') for name in titles)])} |")
    return lines


def _cell(row: Mapping[str, Any]) -> str:
    hits = f", {row['hits']:.0%}" if "hits" in row else ""
    return f"{row['auroc']:.2f} ({row['low']:.2f}–{row['high']:.2f}){hits}"


if __name__ == "__main__":
    sys.exit(main())
