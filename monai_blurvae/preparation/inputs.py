"""The scans to prepare, whose they are, and the brain mask of each."""

from __future__ import annotations

import glob
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import NamedTuple

from monai_blurvae.data.header import VOLUME_SUFFIXES
from monai_blurvae.data.input_volumes import input_datalist
from monai_blurvae.data.people import label_maps, persons, without_suffix
from monai_blurvae.data.result_names import BIDS_NAME, ResultNames
from monai_blurvae.errors import DataError, SettingsError

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
