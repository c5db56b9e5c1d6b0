"""Prepare scans: what is given, whose it is, its mask, and the brain that is written."""

from __future__ import annotations

import glob
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from filelock import FileLock, Timeout
from monai.transforms import EnsureChannelFirstd, LoadImaged, Orientationd
from tqdm import tqdm

from monai_blurvae import __version__
from monai_blurvae.data.datalist import input_datalist
from monai_blurvae.data.header import VOLUME_SUFFIXES, VolumeReader, affine_of, image_of, read_header, reason_of
from monai_blurvae.data.people import label_maps, persons, without_suffix
from monai_blurvae.data.results import (
    BIDS_NAME,
    ResultNames,
    describe_derivatives,
    digest_of,
    is_finished,
    marker_of,
    write_volume,
)
from monai_blurvae.data.store import data_error
from monai_blurvae.errors import BlurVAEError, DataError, RunFolderError, SettingsError
from monai_blurvae.files import finishing, make_folder, remove_leftovers, write_json
from monai_blurvae.handlers.pictures import save_figure
from monai_blurvae.preparation.brain import correct_bias, ras_matrix, resample, template_brain
from monai_blurvae.report.page import refuse_other_file
from monai_blurvae.report.scans import PREPARATION, mask_picture, write_preparation_page
from monai_blurvae.transforms import NaNToBackgroundd

logger = logging.getLogger(__name__)


SESSION = re.compile(r"(?:^|[/_])ses-([0-9A-Za-z]+)(?=[/_.]|$)")
PLACEHOLDERS = ("stem", "subject")
NOT_KEPT = ("desc", "space")
"""Entities of BIDS that tell how a scan was processed."""


class Scan(NamedTuple):
    """A scan to prepare.

    Attributes:
        path: of the file, or of the folder with its DICOM series.
        name: the path below the folder that was given.
        folder: that its results lie in, ``OUT/sub-XX[/ses-YY]/anat``.
        entities: of the names of its results, such as ``sub-01_ses-a``.
        suffix: of BIDS, such as ``T1w``.
        mask: its brain mask; None where the template is to be registered.
        problem: why the mask that it should have cannot be told; empty for none.
    """

    path: Path
    name: str
    folder: Path
    entities: str
    suffix: str
    mask: Path | None = None
    problem: str = ""

    @property
    def volume(self) -> ResultNames:
        """Names of the prepared scan, ``…_desc-preproc_T1w``, and of its picture."""
        return ResultNames(self.folder, f"{self.entities}_desc-", f"_{self.suffix}")

    @property
    def brain(self) -> Path:
        """The mask on the grid of the prepared scan, ``…_desc-brain_mask``; beside T1w others keep their suffix."""
        kind = "" if self.suffix == "T1w" else self.suffix
        return ResultNames(self.folder, f"{self.entities}_desc-{kind}", "_mask").path("brain")


def find_scans(
    inputs: str | Path | Sequence[str | Path],
    output_dir: Path,
    mask_pattern: str | None = None,
    subject_pattern: str | None = None,
) -> list[Scan]:
    """The scans of an input, with names by BIDS.

    Names of BIDS are kept. Of others the person becomes the subject, by the rules of a training's split; where a person
    has several scans, the rest of the path becomes the session. Files that are named as label maps, and masks, are no
    scans.

    Args:
        inputs: a file, a folder, a folder with a DICOM series or a glob, or several of these.
        output_dir: of the results, in which no inputs are looked for.
        mask_pattern: glob of the brain mask of a scan, relative to the folder that its input is in or is, with
            ``{stem}`` for the file's name without suffix or ``{subject}`` for what stands behind ``sub-``.
        subject_pattern: regular expression with a group, for names that follow no convention.

    Raises:
        DataError: if there is no scan, no mask at all, or two scans have one name.
        SettingsError: if ``mask_pattern`` has no placeholder or another one.
    """
    found = input_datalist(inputs, None, "", output_dir).require()
    names = [Path(item["image"]).relative_to(found.dataset_dir).as_posix() for item in found.test]
    labels = set(label_maps(names, VOLUME_SUFFIXES))
    names = [name for name in names if name not in labels]
    if not names:
        raise DataError(
            f"input {inputs} holds {len(labels)} file(s) that are named as masks or label maps, and no scan; give the "
            "scans, or rename them."
        )
    scans = _named(found.dataset_dir, names, output_dir, subject_pattern)
    if mask_pattern is not None:
        scans = _with_masks(scans, found.dataset_dir, mask_pattern)
    left_out = len(found.test) - len(scans)
    if left_out:
        logger.info(f"{left_out} file(s) are masks or label maps, and not taken for scans.")
    _require_distinct(scans)
    return scans


def _named(root: Path, names: Sequence[str], output_dir: Path, subject_pattern: str | None) -> list[Scan]:
    people = persons(names, "**/*", VOLUME_SUFFIXES, subject_pattern)
    several = {person for person, count in Counter(people).items() if count > 1}
    scans = []
    for name, person in zip(names, people, strict=True):
        stem = without_suffix(name, VOLUME_SUFFIXES)
        entities, suffix = _entities(stem, person, person in several)
        folder = output_dir / f"sub-{entities['sub']}"
        if "ses" in entities:
            folder /= f"ses-{entities['ses']}"
        joined = "_".join(f"{key}-{value}" for key, value in entities.items())
        scans.append(Scan(root / name, name, folder / "anat", joined, suffix))
    return scans


def _entities(stem: str, person: str, has_several: bool) -> tuple[dict[str, str], str]:
    """Entities and suffix of a result's name, from a path without the suffix of a volume."""
    match = BIDS_NAME.fullmatch(stem.rpartition("/")[2])
    if match is not None:
        entities = dict(part.split("-", 1) for part in match["entities"].split("_"))
        return {key: value for key, value in entities.items() if key not in NOT_KEPT}, match["suffix"]
    found = {"sub": _plain(person.removeprefix("sub-")) or _plain(stem)}
    session = SESSION.search(stem)
    rest = session.group(1) if session else _plain(stem.replace(person, "")) if has_several else ""
    return found | ({"ses": rest} if rest else {}), "T1w"


def _plain(text: str) -> str:
    """Letters and digits alone, as labels of BIDS are."""
    return re.sub("[^0-9A-Za-z]", "", text)


def _with_masks(scans: Sequence[Scan], root: Path, pattern: str) -> list[Scan]:
    """Each scan with its mask or problem, without those that are masks themselves."""
    try:
        fields = [field for _, field, _, _ in Formatter().parse(pattern) if field is not None]
    except ValueError as error:
        raise SettingsError(f"mask_pattern {pattern!r} cannot be read ({error}); pair its brackets.") from error
    if not fields or not set(fields) <= set(PLACEHOLDERS):
        raise SettingsError(
            f"mask_pattern {pattern!r} has {'no placeholder' if not fields else 'another placeholder'}; write {{stem}} "
            "where the name of the scan stands without its suffix, or {subject}, as in 'masks/{stem}_mask.nii.gz'."
        )
    scans = [_with_mask(scan, root, pattern) for scan in scans]
    masks = {scan.mask for scan in scans}
    if masks == {None}:
        raise DataError(scans[0].problem if len(scans) == 1 else f"{scans[0].problem} No scan of {len(scans)} has one.")
    return [scan for scan in scans if scan.path not in masks]


def _with_mask(scan: Scan, root: Path, pattern: str) -> Scan:
    words = {"stem": without_suffix(scan.path.name, VOLUME_SUFFIXES)}
    words["subject"] = scan.entities.partition("_")[0].removeprefix("sub-")
    filled = pattern.format(**{key: glob.escape(word) for key, word in words.items()})
    place = Path(glob.escape(str(root))) / Path(filled).expanduser()
    matches = [Path(match) for match in sorted(glob.glob(str(place), recursive=True))]  # noqa: PTH207 - of any root
    matches = [match for match in matches if match != scan.path]
    if len(matches) == 1:
        return scan._replace(mask=matches[0])
    found = f"{len(matches)} files, {matches[0]} and {matches[1]} among them" if matches else "nothing"
    return scan._replace(
        problem=f"{scan.path} has no brain mask: mask_pattern {pattern!r} matches {found} at "
        f"{root / pattern.format(**words)}, where one file is expected; correct the pattern, or leave it out."
    )


def _require_distinct(scans: Sequence[Scan]) -> None:
    first: dict[tuple[Path, str, str], Scan] = {}
    for scan in scans:
        other = first.setdefault((scan.folder, scan.entities, scan.suffix), scan)
        if other is not scan:
            raise DataError(
                f"{other.path} and {scan.path} would both be written as {scan.volume.name('preproc')}; rename one by "
                "BIDS, or set subject_pattern."
            )


LARGEST_OFFSET = 0.1
"""Share of a voxel by which corners of the grids of a scan and its mask may lie apart."""
DONE, THERE, FAILED = "prepared", "there already", "failed"


@dataclass(frozen=True)
class PreparationSettings:
    """How scans are prepared.

    Attributes:
        spacing: size of the voxels in mm along R, A and S; None keeps each scan's.
        threads: of each process.
    """

    spacing: tuple[float, float, float] | None
    threads: int


class Outcome(NamedTuple):
    """What became of a scan.

    Attributes:
        name: of the scan, below the folder that was given.
        state: :data:`DONE`, :data:`THERE` or :data:`FAILED`.
        detail: the prepared file, or why it failed.
    """

    name: str
    state: str
    detail: str


def prepare_scans(
    inputs: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    mask_pattern: str | None = None,
    spacing: Sequence[float] | None = None,
    subject_pattern: str | None = None,
    jobs: int = 1,
) -> list[Outcome]:
    """Prepare scans for a training: axes in RAS order, N4, background 0 outside of the brain, voxel size.

    Each scan gives ``sub-XX[/ses-YY]/anat/sub-XX[_ses-YY]_desc-preproc_T1w.nii.gz``, ``…_desc-brain_mask.nii.gz``, a
    picture and, last, a JSON; there are ``dataset_description.json`` and the page ``preparation.html``. What is
    finished is not made again, nothing is overwritten, and a scan that fails does not stop the others.

    Args:
        inputs: a file, a folder, a folder with a DICOM series or a glob, or several of these.
        output_dir: folder of the results.
        mask_pattern: of brain masks, see :func:`~monai_blurvae.preparation.find_scans`; without it the MNI152 template
            is registered.
        spacing: one size of the voxels in mm, or three along R, A and S; by default each scan's own.
        subject_pattern: regular expression with a group, for names that follow no convention.
        jobs: number of processes.

    Returns:
        What became of each scan.

    Raises:
        DataError: if there is no scan, no mask for any, two of one name, or no template.
        SettingsError: if a setting cannot be used.
        RunFolderError: if the folder cannot be written to, or another process writes there.
    """
    if jobs < 1:
        raise SettingsError(f"jobs is {jobs}; give a number of processes, 1 or more.")
    settings = PreparationSettings(_three(spacing), max(1, (os.cpu_count() or 1) // jobs))
    output_dir = Path(output_dir).expanduser().absolute()
    scans = find_scans(inputs, output_dir, mask_pattern, subject_pattern)
    if any(scan.mask is None and not scan.problem for scan in scans):
        template_brain()  # which says that nilearn is missing before the first scan is read
    make_folder(output_dir)
    refuse_other_file(output_dir / PREPARATION)
    try:
        with FileLock(output_dir / ".lock", blocking=False):
            remove_leftovers(output_dir, "sub-")
            outcomes = list(tqdm(_run(scans, settings, jobs), total=len(scans), unit="scan"))
            describe_derivatives(output_dir, "Scans prepared for monai_blurvae")
            failed = [(outcome.name, outcome.detail) for outcome in outcomes if outcome.state == FAILED]
            try:
                write_preparation_page(output_dir, failed)
            except ImportError as error:
                logger.warning(f"No page: {error}")
    except Timeout:
        raise RunFolderError(
            f"another process is writing to {output_dir}; wait for it, or choose another output_dir."
        ) from None
    return outcomes


def prepare_scan(scan: Scan, settings: PreparationSettings) -> Outcome:
    """Prepare one scan; what goes wrong is told in the outcome.

    Args:
        scan: with its mask, or None to register the template.
        settings: of all scans.
    """
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(settings.threads)
    target = scan.volume.path("preproc")
    try:
        if scan.problem:
            raise DataError(scan.problem)
        wanted = _wanted(scan, settings)
        if is_finished(scan.volume, "preproc", _targets(scan), wanted):
            return Outcome(scan.name, THERE, str(target))
        _prepare(scan, settings, wanted)
    except BlurVAEError as error:
        return Outcome(scan.name, FAILED, str(error))
    except Exception as error:  # of another library, about one scan
        logger.debug("", exc_info=True)
        return Outcome(
            scan.name,
            FAILED,
            f"{scan.path} cannot be prepared ({type(error).__name__}: {reason_of(error)}); look at it in a viewer.",
        )
    return Outcome(scan.name, DONE, str(target))


def _run(scans: Sequence[Scan], settings: PreparationSettings, jobs: int) -> Iterator[Outcome]:
    if jobs == 1:
        yield from (prepare_scan(scan, settings) for scan in scans)
        return
    # not copies of this process, whose threads would not come along; what they import is imported once
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload(["__main__", __name__])
    with ProcessPoolExecutor(min(jobs, len(scans)), context) as pool:
        futures = [pool.submit(prepare_scan, scan, settings) for scan in scans]
        yield from (_result(scan, future) for scan, future in zip(scans, futures, strict=True))


def _result(scan: Scan, future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool:
        reason = f"{scan.path} was not finished, since a process was killed; if memory is short, lower jobs."
        return Outcome(scan.name, FAILED, reason)


def _three(spacing: Sequence[float] | None) -> tuple[float, float, float] | None:
    if spacing is None:
        return None
    sizes = list(spacing) * 3 if len(spacing) == 1 else list(spacing)
    if len(sizes) != 3 or not all(0 < size < np.inf for size in sizes):
        text = " ".join(f"{size:g}" for size in spacing)
        raise SettingsError(f"spacing is {text!r}; give one size of the voxels in mm, or three along R, A and S.")
    return sizes[0], sizes[1], sizes[2]


def _wanted(scan: Scan, settings: PreparationSettings) -> dict[str, Any]:
    """What the results of a scan depend on."""
    return {
        "input": scan.path.name,
        "input_sha256": _digest(scan.path),
        "mask": None if scan.mask is None else scan.mask.name,
        "mask_sha256": None if scan.mask is None else _digest(scan.mask),
        "spacing": None if settings.spacing is None else list(settings.spacing),
    }


def _digest(path: Path) -> str:
    if not path.is_dir():
        read_header(path)  # which tells a file that is not there, or whose content is elsewhere
    return digest_of(str(path))


def _targets(scan: Scan) -> list[Path]:
    return [scan.volume.path("preproc"), scan.brain, scan.volume.path("brain", ".png")]


def _prepare(scan: Scan, settings: PreparationSettings, wanted: Mapping[str, Any]) -> None:
    started = time.monotonic()
    image = _read(scan.path)
    _check_values(scan.path, image)
    about: dict[str, Any] = {}
    if scan.mask is not None:
        mask = _read_mask(scan.mask, image, scan.path)
    else:
        mask, about["template_to_scan"] = _registered(scan.path, image)
    image = correct_bias(image, mask)
    if settings.spacing is not None:
        image = resample(image, settings.spacing)
        mask = resample(mask, settings.spacing, sitk.sitkNearestNeighbor)
    affine = affine_of(image)
    head = sitk.GetArrayFromImage(image).T.clip(0)  # splines swing below 0
    inside = sitk.GetArrayFromImage(mask).T.astype(np.uint8)
    if not inside.any():
        raise DataError(f"{scan.path} has no voxel left in its brain mask at this spacing; give a smaller one.")
    with finishing(marker_of(scan.volume), _targets(scan)):
        write_volume(scan.volume.path("preproc"), head * inside, affine)
        write_volume(scan.brain, inside, affine)
        warning = "" if scan.mask is not None else "brain mask by the template, approximate: check it"
        save_figure(mask_picture(head, inside, affine, warning), scan.volume.path("brain", ".png"))
        about |= {
            "SkullStripped": True,
            "settings": dict(wanted),
            "brain_ml": round(float(inside.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000), 1),
            "generated_by": {"name": "monai_blurvae", "version": __version__},
            "seconds": round(time.monotonic() - started, 1),
        }
        write_json(scan.volume.path("preproc", ".json"), about)


def _read(path: Path) -> sitk.Image:
    """A volume with its axes in RAS order, float32, NaN as background.

    Raises:
        DataError: naming the file, if it cannot be used.
    """
    transforms = (
        LoadImaged("image", reader=VolumeReader()),
        EnsureChannelFirstd("image", channel_dim="no_channel"),
        Orientationd("image", axcodes="RAS", labels=None),
        NaNToBackgroundd("image"),
    )
    data: dict[Any, Any] = {"image": str(path)}
    try:
        for transform in transforms:
            data = dict(transform(data))
    except Exception as error:  # a damaged file can raise whatever the reader meets
        raise data_error(str(path), error) from error
    volume = data["image"]
    return image_of(np.asarray(volume, np.float32)[0], np.asarray(volume.affine, np.float64))


def _check_values(path: Path, image: sitk.Image) -> None:
    values = sitk.GetArrayViewFromImage(image)
    if not np.isfinite(values).all():
        raise DataError(f"{path} holds infinite values; repair or remove the file.")
    if not values.max() > max(0, values.min()):
        raise DataError(f"{path} holds {values.min():g} to {values.max():g}, where an image is expected; remove it.")


def _read_mask(path: Path, image: sitk.Image, scan: Path) -> sitk.Image:
    """A brain mask, uint8, 0 and 1.

    Raises:
        DataError: if it cannot be read, has more than two values, or is of another grid than the scan.
    """
    mask = _read(path)
    if mask.GetSize() != image.GetSize():
        raise DataError(
            f"{path} has {_by(mask.GetSize())} voxels, where its scan {scan} has {_by(image.GetSize())}; give a mask "
            "on the grid of the scan."
        )
    offset = _offset(mask, image)
    if offset > LARGEST_OFFSET * min(image.GetSpacing()):
        raise DataError(
            f"{path} lies up to {offset:.3g} mm away from its scan {scan}, where both are expected on one grid; give a "
            "mask with the affine of the scan."
        )
    values = np.unique(sitk.GetArrayViewFromImage(mask))
    if len(values) != 2:
        raise DataError(
            f"{path} has {len(values)} different values, where a mask has 2, background and brain; set mask_pattern to "
            "match masks."
        )
    inside = sitk.Cast(mask > float(values[0]), sitk.sitkUInt8)
    inside.CopyInformation(image)
    return inside


def _registered(path: Path, image: sitk.Image) -> tuple[sitk.Image, list[list[float]]]:
    """The template's brain on the grid of a scan, and the matrix from the template to it in RAS mm."""
    template = template_brain()
    try:
        to_scan = template.register(image)
    except DataError as error:
        raise DataError(f"{path} cannot be prepared: {error}.") from error
    mask = template.mask_of(image, to_scan)
    if not sitk.GetArrayViewFromImage(mask).any():
        raise DataError(f"{path} cannot be prepared: the template's brain lies outside of it; give mask_pattern.")
    return mask, ras_matrix(to_scan).round(6).tolist()


def _offset(first: sitk.Image, second: sitk.Image) -> float:
    """Largest distance of the corners of two grids of one size, in mm."""
    corners: npt.NDArray[np.float64] = np.array(
        [[i * (n - 1) for i, n in zip(bits, first.GetSize(), strict=True)] for bits in np.ndindex(2, 2, 2)], float
    )
    places = [[image.TransformContinuousIndexToPhysicalPoint(c) for c in corners.tolist()] for image in (first, second)]
    return float(np.linalg.norm(np.array(places[0]) - np.array(places[1]), axis=1).max())


def _by(size: Sequence[int]) -> str:
    return "×".join(map(str, size))
