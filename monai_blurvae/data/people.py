"""Whose volume a file is, by its path alone: a visit, a run or a second scan is no person of its own."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

from monai_blurvae.errors import DataError

CONVENTIONS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:^|[/_])(sub-[A-Za-z0-9]+)(?=[_/.]|$)",  # BIDS
        r"(?<![0-9])([0-9]{3}_S_[0-9]{4,5})(?![0-9])",  # ADNI: 002_S_0413
        r"(?:^|/)([^/]+)/[^/]+/[0-9]{4}-[0-9]{2}-[0-9]{2}_[0-9]{2}_[0-9]{2}_[0-9]{2}\.[0-9]+/",  # LONI's archive: PPMI
        r"(?<![A-Za-z0-9])(OAS[0-9]_?[0-9]{4,5})(?![0-9])",  # OASIS: OAS1_0001_MR1, OAS30001_MR_d0129
        r"(?<![A-Za-z0-9])(HC[ADP][0-9]{7})(?![0-9])",  # HCP's lifespan studies: HCA6002236_V1_MR
        r"(?:^|[/_])([1-9][0-9]{6})(?=_[0-9]{5}_[0-9]+_[0-9]+(?![0-9]))",  # UK Biobank: 1000123_20252_2_0
        r"(?:^|/)([1-9][0-9]{5})(?=/(?:T1w|T2w|MNINonLinear|unprocessed)/|_[37]T_)",  # HCP: 100307/T1w/, 100307_3T_
    )
)
"""Names that data sets have for a person; what stands in the group is one."""

PERSON_WORDS = (
    r"(?:^|[/_-])((?:subject|subj|sub|patient|pat|participant|volunteer|case|pt)[-_]?[0-9]+)(?=[/_.-]|$)",
    r"(?:^|/)([sp][0-9]{2,})(?=[/_.-]|$)",
)
"""A word for a person with a number, such as ``sub01``, ``patient_003`` or ``s0011``."""

_DATE = r"(?:19|20)[0-9]{2}[-_.]?[01][0-9][-_.]?[0-3][0-9](?:[-_T][0-9]{2}[-_.]?[0-9]{2}[-_.]?[0-9]{2}(?:\.[0-9]+)?)?"
_VISIT = (
    r"(?:session|sess|ses|visit|vis|timepoint|time|tp|run|scan|rep|repeat|acq|echo|mprage|mpr|mri|mr|wave|month|year|"
    r"week|day|img|image|series|v|m|t|y|w|d|r)[-_]?[0-9]{1,4}|baseline|base|bl|follow[-_]?up[0-9]*|fu[0-9]*|"
    r"re?test[0-9]*|screening|sc|pre|post|first|second"
)
_KIND = (
    r"t1w?|t2w?|pd|pdw|flair|t1c|t1ce|t1gd|mprage|spgr|bravo|bold|dwi|ct|mri?|pet|anat|brain|head|image|img|volume|"
    r"orig|norm|nu|nifti|nii|dicom|dcm|raw|data|scan|scans|3d|sag|ax|cor|defaced|stripped|restore|preproc"
)
_ENTITY = r"(?:ses|acq|run|echo|rec|dir|desc|space|res|task|ce|mod|inv|flip|mt|part)-[A-Za-z0-9]+"
TOKEN = re.compile(rf"(?:^|[-_. ])(?:{_ENTITY}|{_DATE}|{_VISIT}|{_KIND}|(?:19|20)[0-9]{{2}}$)$", re.IGNORECASE)
"""What stands at the end of a name for a date, a visit, a run or a kind of image, and not for a person."""

INSTANCE = re.compile(r"(.*[0-9].*)[-_.]([0-9]{1,3})")
"""A name that holds a number of its own, and a number behind it: ``AB12_1``."""
MOST_INSTANCES = 20
"""A number behind a name that goes further counts persons, not volumes of one."""

LABEL_MAP = re.compile(
    r"(?:^|[-_.+/])[a-z]*seg(?:mentations?|mented)?[0-9]*(?:[-_.+]|$)|mask(?!ed)|label|"
    r"(?:^|[-_.+])(?:lesions?|roi|aparc|wmparc|ribbon|gt|annotations?)(?:[-_.+]|$)",
    re.IGNORECASE,
)

PersonOf = Callable[[str], str]


def persons(
    paths: Sequence[str], image_pattern: str, suffixes: Sequence[str], subject_pattern: str | None = None
) -> list[str]:
    """The person that each volume is of.

    In this order:

    1. the group of ``subject_pattern``, if there is one;
    2. what BIDS (``sub-01``), ADNI (``002_S_0413``), OASIS (``OAS1_0001``), UK Biobank (``1000123``) and HCP
       (``100307``) call a person, wherever it stands in the path;
    3. a word for a person with a number, such as ``patient_003``;
    4. for a pattern whose file name is fixed the folder that its first wildcard stands for, except one that is named
       after a date or visit;
    5. the name of the file without what stands for a date, a visit, a run or a kind of image, and without a small
       number behind a name that several have; where names are in several folders, the outermost folder that differs.

    Args:
        paths: of all volumes, relative to one folder, with forward slashes.
        image_pattern: the glob that found them.
        suffixes: of volumes.
        subject_pattern: a regular expression with a group, to be searched for in each path.

    Returns:
        A name for each path.

    Raises:
        DataError: if ``subject_pattern`` cannot be used or does not match a path.
    """
    if subject_pattern is not None:
        of_pattern = _by_pattern(subject_pattern)
        return [of_pattern(path) for path in paths]
    stems = [without_suffix(path, suffixes) for path in paths]
    known = [known_person(stem) for stem in stems]
    unknown = [stem for stem, person in zip(stems, known, strict=True) if person is None]
    guessed = dict(zip(unknown, _guess(unknown, image_pattern), strict=True)) if unknown else {}
    return [guessed[stem] if person is None else person for stem, person in zip(stems, known, strict=True)]


def known_person(stem: str) -> str | None:
    """The person in a path without suffix that follows a convention, see :func:`persons`; None if it follows none."""
    for pattern in CONVENTIONS:
        if match := pattern.search(stem):
            return match.group(1)
    for words in PERSON_WORDS:
        if match := re.search(words, stem, re.IGNORECASE):
            return match.group(1)
    return None


def unique_names(entries: Iterable[dict[str, str]], suffixes: Sequence[str]) -> None:
    """Give a ``name`` to each volume of a person who has several, the path, so that they can be told apart.

    Args:
        entries: ``image`` and ``subject``; those of a person with one volume stay as they are.
        suffixes: of volumes.
    """
    of_person = defaultdict(list)
    for entry in entries:
        of_person[entry["subject"]].append(entry)
    for same in of_person.values():
        if len(same) > 1:
            short = [without_suffix(entry["image"].removeprefix("./"), suffixes) for entry in same]
            names = short if len(set(short)) == len(short) else [entry["image"] for entry in same]
            for entry, name in zip(same, names, strict=True):
                entry.setdefault("name", name)


def label_maps(paths: Iterable[str], suffixes: Sequence[str]) -> list[str]:
    """Those of some paths whose name is that of a label map: ``…_seg``, ``…mask…``, ``aseg``, ``labelsTr/…``."""
    return [path for path in paths if _is_label_map(without_suffix(path, suffixes))]


def without_suffix(path: str, suffixes: Sequence[str]) -> str:
    """A path without the suffix of a volume."""
    for suffix in suffixes:
        if path.lower().endswith(suffix) and not path.endswith(f"/{suffix}"):
            return path[: -len(suffix)]
    return path


def _is_label_map(stem: str) -> bool:
    *folders, name = PurePosixPath(stem).parts or ("",)
    if name.lower() == "brainmask":  # FreeSurfer's image without the skull
        return False
    folder = folders[-1].lower() if folders else ""
    return bool(LABEL_MAP.search(name)) or folder.startswith(("labels", "masks", "segmentation"))


def _by_pattern(subject_pattern: str) -> PersonOf:
    try:
        compiled = re.compile(subject_pattern)
    except re.error as error:
        raise DataError(
            f"subject_pattern {subject_pattern!r} is no regular expression ({error}); write one with a group around "
            "the person, for example '(OAS1_[0-9]+)_MR'."
        ) from error
    if not compiled.groups:
        raise DataError(
            f"subject_pattern {subject_pattern!r} has no group; put the part that names the person in brackets, for "
            "example '(OAS1_[0-9]+)_MR'."
        )

    def person_of(path: str) -> str:
        match = compiled.search(path)
        person = match and next((group for group in match.groups() if group), None)
        if not person:
            raise DataError(
                f"subject_pattern {subject_pattern!r} names no person in {path}; widen it, or narrow image_pattern to "
                "the files that it is for."
            )
        return person

    return person_of


def _guess(stems: Sequence[str], image_pattern: str) -> list[str]:
    """Of names that follow no convention."""
    pattern = PurePosixPath(image_pattern).parts
    wild = [i for i, part in enumerate(pattern) if re.search(r"[*?\[]", part)]
    if wild and wild[-1] < len(pattern) - 1 and "**" not in pattern:
        return [_first_person(PurePosixPath(stem).parts, wild) for stem in stems]
    parts = [PurePosixPath(stem).parts for stem in stems]
    names = [part[-1] for part in parts]
    cores = [_core(name) for name in names]
    shared = set.intersection(*({*map(_core, part)} for part in parts))
    above = [_above_visit(part[:-1], shared) for part in parts]
    if all(above):
        return [person for person in above if person]
    folders = ["/".join(part[:-1]) for part in parts]
    numbered_folders = all(map(_has_number, folders)) and not any(map(_has_number, cores))
    if len(set(folders)) == 1 or (len(set(names)) == len(names) and all(cores) and not numbered_folders):
        return _merged(names, cores)
    return [_of_folders(part, shared) for part in parts]


def _first_person(parts: Sequence[str], wild: Sequence[int]) -> str:
    return next((parts[i] for i in wild if _core(parts[i])), parts[wild[0]])


def _above_visit(folders: Sequence[str], shared: set[str]) -> str | None:
    """The folder that holds one named after a date or a visit, if it is not everybody's."""
    cores = [_core(folder) for folder in folders]
    while cores and cores[-1]:
        cores.pop()
    return next((core for core in reversed(cores) if core and core not in shared), None)


def _of_folders(parts: Sequence[str], shared: set[str]) -> str:
    """The outermost part with a number that is not everybody's, else the outermost."""
    left = [core for core in map(_core, parts) if core and core not in shared]
    return next(filter(_has_number, left), left[0] if left else "/".join(parts))


def _has_number(name: str) -> bool:
    return re.search("[0-9]", name) is not None


def _core(name: str) -> str:
    """A name without dates, visits and kinds of image at its end."""
    before = None
    while name != before:
        before, name = name, TOKEN.sub("", name)
    return name


def _merged(names: Sequence[str], cores: Sequence[str]) -> list[str]:
    """Names in one folder: shortened where several are of one person, else whole."""
    if len(set(cores)) == 1 and not _has_number(cores[0]):  # group_m01, group_m02
        cores = names
    cores = _without_instances([core or name for core, name in zip(cores, names, strict=True)])
    count: dict[str, int] = defaultdict(int)
    for core in cores:
        count[core] += 1
    return [core if count[core] > 1 else name for core, name in zip(cores, names, strict=True)]


def _without_instances(names: Sequence[str]) -> list[str]:
    """Without the small number behind a name that has one of its own, where several persons are left."""
    matches = [INSTANCE.fullmatch(name) for name in names]
    before = {match.group(1) for match in matches if match}
    if len(before) < 2 or max(int(match.group(2)) for match in matches if match) > MOST_INSTANCES:
        return list(names)
    return [match.group(1) if match else name for match, name in zip(matches, names, strict=True)]
