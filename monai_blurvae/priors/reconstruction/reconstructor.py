"""Reconstruct files with k-space, or volumes made into such, slice by slice."""

from __future__ import annotations

import glob
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from monai_blurvae.data.facts import evenly_spread
from monai_blurvae.data.header import VOLUME_SUFFIXES
from monai_blurvae.data.results import write_volume
from monai_blurvae.errors import DataError, RunFolderError, SettingsError
from monai_blurvae.files import (
    Record,
    make_folder,
    read_object,
    remove_leftovers,
    replacing,
    sha256_of,
    write_json,
    write_text,
)
from monai_blurvae.handlers.evaluation import csv_text
from monai_blurvae.priors.reconstruction.operator import (
    PERCENTILE,
    CartesianMRI,
    centre_line_count,
    estimate_coil_maps,
    estimate_noise_std,
    percentile,
)
from monai_blurvae.priors.reconstruction.scan import HDF5_SUFFIXES, Scan, read_scan
from monai_blurvae.priors.reconstruction.splitting import (
    CONVERGENCE,
    MEASURES,
    AnnealedLangevin,
    ConvergenceWatcher,
    Reconstruction,
    can_be_watched,
    reconstruction_measures,
    smooth_phase,
)
from monai_blurvae.run_files import CONVERGENCE_CSV, METRICS_CSV, RECONSTRUCTION_NPZ
from monai_blurvae.running import is_plain

Numbers = npt.NDArray[Any]

logger = logging.getLogger(__name__)

SETTINGS, SLICES = "settings.json", "slices"
PLAUSIBLE_MAPS = (0.3, 3.0)
"""Of the largest root sum of squares of coil maps, which is 1 by convention; with others the image has other units."""
PICTURED = 6
"""Slices of each file that the report can show, evenly spread."""


class ScanReconstructor:
    """Reconstruct every file into a folder of its own in ``output_dir``.

    A folder holds ``NAME_reconstruction.nii.gz``, ``NAME_zero_filled.nii.gz``, ``settings.json``, with samples
    ``NAME_std.nii.gz`` (of the magnitude, over draws from the posterior), where the fully sampled image is known
    ``NAME_error.nii.gz`` (reconstruction − image) and ``metrics.csv``, of iterative methods ``convergence.csv`` (see
    :data:`~monai_blurvae.priors.reconstruction.CONVERGENCE`), and ``reconstruction.npz``, from which a report
    can be drawn. Slices are kept as they are finished, so
    that a run that was cut off goes on; what is finished is not made again, and nothing is overwritten.

    Args:
        method: makes an image from k-space, for example a :class:`~monai_blurvae.priors.HalfQuadraticSplitting`.
        inputs: files, or patterns of files, one or several: fastMRI's or ISMRMRD's HDF5, or magnitude volumes, which
            are made complex with phase and noise.
        output_dir: folder of the results.
        scan: further arguments of :func:`read_scan`.
        noise_std: standard deviation of the noise's real and imaginary part, in the units of k-space; by default that
            of the simulation, or measured.
        coil_maps: a ``.npy`` file with complex ``(coils, H, W)`` or ``(slices, coils, H, W)``; by default those of the
            simulation, or estimated.
        slices: numbers of the slices to reconstruct, the others are 0; all by default.
        sampler: draws images from the posterior, whose standard deviation is then written, too.
        samples: how many of each slice; 0 for none.
        device: to reconstruct on.
    """

    def __init__(
        self,
        method: Reconstruction,
        inputs: str | Path | Sequence[str | Path] | None,
        output_dir: str | Path,
        scan: Mapping[str, Any] | None = None,
        noise_std: float | None = None,
        coil_maps: str | Path | None = None,
        slices: Sequence[int] | None = None,
        sampler: AnnealedLangevin | None = None,
        samples: int = 0,
        device: str = "cpu",
    ) -> None:
        self.method = method
        self.inputs = inputs
        self.output_dir = Path(output_dir).expanduser()
        self.scan = dict(scan or {})
        self.noise_std = noise_std
        self.coil_maps = None if coil_maps is None else Path(coil_maps).expanduser()
        self.slices = None if slices is None else [int(index) for index in slices]
        self.sampler = sampler if samples else None
        self.samples = samples
        self.device = device

    def run(self) -> list[Path]:
        """Reconstruct all files.

        Returns:
            Their folders.

        Raises:
            DataError: naming the file, if one cannot be used.
            RunFolderError: if a folder holds what was made with other settings, or cannot be written to.
        """
        folders = named_folders(find_files(self.inputs))
        for path, name in folders.items():
            self._reconstruct(path, self.output_dir / name)
        return [self.output_dir / name for name in folders.values()]

    def _reconstruct(self, path: Path, folder: Path) -> None:
        settings = self._settings(path)
        finished = folder / f"{folder.name}_reconstruction.nii.gz"
        if (folder / SETTINGS).is_file():
            differing = _difference(read_object(folder / SETTINGS, "choose another output_dir"), settings)
            if differing:
                raise RunFolderError(
                    f"{folder} holds a reconstruction whose {differing}; choose another output_dir, or remove it."
                )
            if finished.is_file():
                logger.info(f"{finished} is there already.")
                return
        elif folder.exists() and any(folder.iterdir()):
            raise RunFolderError(f"{folder} holds other files; choose another output_dir.")
        scan = read_scan(path, **self.scan)
        indices = self._indices(scan)
        if self.coil_maps is not None:
            scan = replace(scan, coil_maps=self._given_maps(scan, self.coil_maps))
        scale = self._scale(scan)
        noise = self._noise(scan, scale)
        make_folder(folder / SLICES)
        remove_leftovers(folder)
        write_json(folder / SETTINGS, settings)
        logger.info(
            f"{path}: {len(indices)} of {len(scan.kspace)} slices, {scan.kspace.shape[1]} coil(s), "
            f"{int(scan.lines[0].sum())} of {scan.lines.shape[1]} lines, noise {noise:.3g} of white."
        )
        for index in tqdm(indices, desc=folder.name, unit="slice"):
            kept = folder / SLICES / f"{index:04d}.npz"
            if not kept.is_file():
                try:
                    images = self._slice(scan, index, scale, noise)
                except DataError as error:
                    raise DataError(f"{path}, slice {index}: {error}") from error
                with replacing(kept) as temporary, temporary.open("wb") as stream:
                    np.savez(stream, allow_pickle=False, **images)
        self._finish(scan, folder, indices, {"white": scale, "noise": noise})

    def _slice(self, scan: Scan, index: int, scale: float, noise: float) -> dict[str, Numbers]:
        """The magnitudes of one slice, ``(h, w)``, in the units of k-space, its convergence and the seconds it took."""
        kspace = (scan.kspace[index : index + 1] / scale).to(self.device)
        if not kspace.any():  # no signal and no noise: padding of a volume
            empty = np.zeros(scan.image_size, np.float32)
            return {**dict.fromkeys(self._kinds(), empty), "convergence": np.empty((0, 3)), "seconds": np.zeros(())}
        estimated = scan.coil_maps is None and kspace.shape[1] > 1
        coil_maps = estimate_coil_maps(kspace, scan.lines[index].float()) if estimated else None
        operator = scan.operator(index, coil_maps).to(self.device)
        watched: dict[str, Any] = {}
        if can_be_watched(self.method):
            reference = None if scan.reference is None else scan.reference[index] / scale
            largest = 1.0 if scan.reference is None else float(scan.reference.max()) / scale
            watched["watcher"] = ConvergenceWatcher(kspace, operator, reference, largest, scan.crop)
        start = time.perf_counter()
        image = self.method(kspace, operator, noise, **watched)
        seconds = time.perf_counter() - start
        images = {"zero_filled": operator.adjoint(kspace).abs(), "reconstruction": image.abs()}
        if self.sampler is not None:
            phase = smooth_phase(image)
            images["std"] = self.sampler(kspace, operator, noise, phase, samples=self.samples).abs().std(0)
        made = {name: scan.crop(x[0, 0] * scale).cpu().numpy() for name, x in images.items()}
        rows = np.array(watched["watcher"].rows if watched else []).reshape(-1, len(CONVERGENCE))
        return {**made, "convergence": rows, "seconds": np.array(seconds)}

    def _kinds(self) -> list[str]:
        """Images that are made of each slice."""
        return ["zero_filled", "reconstruction", *(["std"] if self.sampler is not None else [])]

    def _finish(self, scan: Scan, folder: Path, indices: Sequence[int], about: Mapping[str, Any]) -> None:
        names = self._kinds()
        volumes = {name: np.zeros((len(scan.kspace), *scan.image_size), np.float32) for name in names}
        convergence: dict[int, Numbers] = {}
        seconds: list[float] = []
        for index in indices:
            with np.load(folder / SLICES / f"{index:04d}.npz") as images:
                for name in names:
                    volumes[name][index] = images[name]
                convergence[index] = images["convergence"]
                seconds.append(float(images["seconds"]))
        if scan.reference is not None:
            chosen = torch.zeros(len(scan.kspace), dtype=torch.bool)
            chosen[list(indices)] = True
            reference = scan.reference.numpy()
            compared = {name: volumes[name] for name in ("zero_filled", "reconstruction")}
            write_text(folder / METRICS_CSV, _table(compared, reference, indices))
            volumes["error"] = (volumes["reconstruction"] - reference) * chosen[:, None, None].numpy()
        if any(len(rows) for rows in convergence.values()):
            write_text(folder / CONVERGENCE_CSV, _convergence_table(convergence))
        told = {**about, **self._about(scan), "seconds": float(np.median(seconds)), "reconstructed": len(indices)}
        _record(scan, volumes, indices, told).write(folder / RECONSTRUCTION_NPZ)
        # the reconstruction last: it says that all is done
        for name in sorted(volumes, key=lambda name: name == "reconstruction"):
            write_volume(folder / f"{folder.name}_{name}.nii.gz", *scan.volume(volumes[name]))
        for index in indices:
            (folder / SLICES / f"{index:04d}.npz").unlink()
        (folder / SLICES).rmdir()

    def _about(self, scan: Scan) -> dict[str, Any]:
        """What the report tells of a scan, in words where a number says too little."""
        coils, lines = scan.kspace.shape[1], scan.lines[0]
        if self.noise_std is not None:
            noise_from = "as given"
        else:
            noise_from = "measured in the outer samples" if scan.noise_std is None else "of the simulation"
        if coils == 1:
            maps_from = "none, one coil"
        elif self.coil_maps is not None:
            maps_from = f"as given, {self.coil_maps.name}"
        else:
            maps_from = "estimated by sigpy's ESPIRiT" if scan.coil_maps is None else "of the simulation"
        return {
            "source": scan.source,
            "slices": len(scan.kspace),
            "coils": coils,
            "size": list(scan.kspace.shape[-2:]),
            "lines": [int(line) for line in lines],
            "centre_lines": centre_line_count(lines.float().expand(1, 1, 1, -1)),
            "lines_differ": not bool((scan.lines == lines).all()),
            "noise_from": noise_from,
            "maps_from": maps_from,
            "phase_from": str(getattr(self.method, "phase_from", "not used")),
            # volumes are in RAS, whose second axis points up; raw data is shown as it was sampled
            "quarter_turns": int(scan.orientation is not None),
        }

    def _indices(self, scan: Scan) -> list[int]:
        count = len(scan.kspace)
        chosen = range(count) if self.slices is None else sorted(set(self.slices))
        outside = [index for index in chosen if not 0 <= index < count]
        if outside or not len(chosen):
            raise SettingsError(f"slices is {self.slices}, but {scan.source} has {count} slices, 0 to {count - 1}.")
        return list(chosen)

    def _scale(self, scan: Scan) -> float:
        """The 99th percentile of the zero-filled magnitude of the volume, the root sum of squares of its coils."""
        operators = (CartesianMRI(scan.lines[i].float(), scan.size) for i in range(len(scan.kspace)))
        powers = [
            operator.adjoint(kspace[:, None]).abs().square().sum(0)
            for operator, kspace in zip(operators, scan.kspace, strict=True)
        ]
        scale = percentile(scan.crop(torch.stack(powers)).sqrt(), PERCENTILE)
        if not scale > 0:
            raise DataError(f"the zero-filled image of {scan.source} is 0 nearly everywhere; the scan may be empty.")
        return scale

    def _noise(self, scan: Scan, scale: float) -> float:
        if self.noise_std is not None:
            if not 0 <= self.noise_std < scale:
                raise SettingsError(
                    f"noise_std is {self.noise_std:g}, where a number between 0 and {scale:.3g}, the zero-filled 99th "
                    f"percentile of {scan.source}, is expected; give it in the units of k-space."
                )
            return self.noise_std / scale
        if scan.noise_std is not None:
            return scan.noise_std / scale
        coils = scan.kspace.shape[1]
        common = scan.lines.all(0).float()
        if not common.any():
            raise DataError(f"no line of {scan.source} is common to all slices; give noise_std.")
        operator = CartesianMRI(common, scan.size, torch.ones(coils, *scan.size, dtype=torch.complex64))
        return estimate_noise_std(scan.kspace, operator) / scale

    def _given_maps(self, scan: Scan, file: Path) -> Tensor:
        try:
            maps = torch.from_numpy(np.load(file))
        except (OSError, ValueError) as error:
            raise DataError(f"{file} cannot be read as .npy ({error}); write the coil maps again.") from error
        maps = maps[None] if maps.ndim == 3 else maps
        expected = tuple(scan.kspace.shape[1:])
        if not maps.is_complex() or tuple(maps.shape[1:]) != expected or len(maps) not in (1, len(scan.kspace)):
            raise DataError(
                f"{file} holds {maps.dtype} of shape {tuple(maps.shape)}, where complex {expected} for "
                f"each of the {len(scan.kspace)} slices of {scan.source}, or for all, is expected; give its own maps."
            )
        sensitivity = float(maps.abs().square().sum(1).amax().sqrt())
        if not PLAUSIBLE_MAPS[0] <= sensitivity <= PLAUSIBLE_MAPS[1]:
            raise DataError(
                f"{file} holds maps whose root sum of squares is up to {sensitivity:.3g}, where 1 is expected; divide "
                "them by it, pixel by pixel, or estimate them again."
            )
        return maps.to(torch.complex64)

    def _settings(self, path: Path) -> dict[str, Any]:
        """What the result depends on."""
        maps = None if self.coil_maps is None else sha256_of(self.coil_maps)
        own: dict[str, Any] = {"noise_std": self.noise_std, "slices": self.slices, "coil_maps": maps}
        content = sha256_of(path) if path.is_file() else None
        if self.sampler is not None:
            own |= {"samples": self.samples, "sampler": _described(self.sampler)}
        return own | {"input": str(path), "sha256": content, "scan": self.scan, "method": _described(self.method)}


def find_files(inputs: str | Path | Sequence[str | Path] | None) -> list[Path]:
    """Files, and all that match a pattern, in the order given, each once.

    Raises:
        DataError: if nothing is given, or something does not exist.
    """
    given = [inputs] if isinstance(inputs, (str, Path)) else list(inputs or [])
    if not given:
        raise DataError("there is no input; give HDF5 files with k-space, or volumes.")
    found: dict[Path, None] = {}
    for place in given:
        path = Path(place).expanduser()
        # a pattern may be in a folder's name, too
        matches = [] if path.exists() else sorted(glob.glob(str(path)))  # noqa: PTH207
        paths = [path] if path.exists() else [Path(match) for match in matches]
        if not paths:
            raise DataError(f"{place} does not exist; give HDF5 files with k-space, or volumes, as input.")
        found |= dict.fromkeys(paths)
    return list(found)


def named_folders(paths: Sequence[Path]) -> dict[Path, str]:
    """A folder's name for each file, a different one for each: its own without the suffix, if need be with a number."""
    names: dict[Path, str] = {}
    for path in paths:
        suffix = next((s for s in (*VOLUME_SUFFIXES, *HDF5_SUFFIXES) if path.name.lower().endswith(s)), "")
        stem = path.name[: len(path.name) - len(suffix)]
        name, number = stem, 2
        while name in names.values():
            name, number = f"{stem}_{number}", number + 1
        names[path] = name
    return names


def _described(component: Any) -> dict[str, Any]:
    """Class and plain attributes of a method, and of its prior with a checksum of the weights."""
    attributes = {name: value for name, value in vars(component).items() if not name.startswith("_")}
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in attributes.items() if is_plain(v)}
    plain.pop("training", None)
    described: dict[str, Any] = {"class": type(component).__name__, **plain}
    if "prior" in attributes:
        described["prior"] = _described(attributes["prior"])
    if isinstance(component, torch.nn.Module):
        digest = hashlib.sha256()
        for name, tensor in component.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        described["weights"] = digest.hexdigest()
    return described


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """The first setting that is another, in words; empty if there is none."""
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found = _difference(old, new, f"{prefix}{name} ")
            if found:
                return found
        elif old != new:
            return f"{prefix}{name} was {old!r} and is {new!r} now"
    return ""


def _record(scan: Scan, volumes: Mapping[str, Numbers], indices: Sequence[int], about: Mapping[str, Any]) -> Record:
    """A few of the slices that are not empty, for the report."""
    full = [index for index in indices if volumes["zero_filled"][index].any()] or list(indices)
    shown = [full[place] for place in evenly_spread(len(full), PICTURED)]
    arrays = {name: volume[shown] for name, volume in volumes.items()}
    if scan.reference is not None:
        arrays["reference"] = scan.reference[shown].numpy()
    return Record({**arrays, "shown": np.array(shown)}, about)


def _convergence_table(convergence: Mapping[int, Numbers]) -> str:
    """A row for each slice and step; what is not known is empty."""
    rows = [
        {"slice": index, "step": step, **{name: "" if np.isnan(value) else float(value) for name, value in named}}
        for index, steps in convergence.items()
        for step, named in enumerate(zip(CONVERGENCE, row, strict=True) for row in steps)
    ]
    return csv_text(rows)


def _table(volumes: Mapping[str, Numbers], reference: Numbers, indices: Sequence[int]) -> str:
    """A row for each slice with anatomy and method, and the mean over these."""
    largest = float(reference.max())
    chosen = [index for index in indices if reference[index].any()]
    rows: list[dict[str, Any]] = []
    true = torch.from_numpy(reference[chosen])[:, None]
    for name, volume in volumes.items() if chosen else ():
        found = reconstruction_measures(torch.from_numpy(volume[chosen])[:, None], true, largest)
        means = {measure: float(np.mean([row[measure] for row in found])) for measure in MEASURES}
        named = [*zip(chosen, found, strict=True), ("mean", means)]
        rows += [{"slice": place, "method": name, **measures} for place, measures in named]
    return csv_text(rows, ("slice", "method", *MEASURES))
