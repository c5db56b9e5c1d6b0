"""k-space from HDF5 files: those of fastMRI, and ISMRMRD's."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from monai_blurvae.errors import DataError, SettingsError
from monai_blurvae.priors.reconstruction.scan import Scan, without_oversampling

NOT_IMAGING = sum(1 << (bit - 1) for bit in (19, 20, 23, 24, 26, 27, 28, 29))
"""ISMRMRD's flags of noise, calibration alone, navigation, phase correction, feedback, dummies and the like."""
REVERSED = 1 << 21
"""ISMRMRD's flag of a readout from right to left, as in echo-planar scans."""
OTHER_DIMENSIONS = ("kspace_encode_step_2", "contrast", "phase", "repetition", "set")
"""Of an ISMRMRD acquisition's index; a 2-D scan has one of each."""

Head = Any


class Encoding(NamedTuple):
    """What the header tells of the sampling.

    Attributes:
        encoded: samples and lines of full k-space.
        wanted: of the image.
        field_of_view: of the image along both, and the slice's thickness, in mm.
        centre: number of the line at the centre of k-space.
    """

    encoded: tuple[int, int]
    wanted: tuple[int, int]
    field_of_view: tuple[float, float, float]
    centre: int


def read_raw_data(path: Path) -> Scan:
    """Read a file of fastMRI (``kspace``) or ISMRMRD (``dataset/data``).

    Oversampling along the readout is cropped; lines that were not acquired are 0. Averages of a line are averaged.

    Args:
        path: of the file.

    Raises:
        DataError: naming the file, if it cannot be read, or is not a two-dimensional Cartesian scan.
        SettingsError: where h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise SettingsError(
            "HDF5 files are read by h5py, which is not installed; run pip install 'monai-blurvae[recon]'."
        ) from error
    try:
        with h5py.File(path, "r") as file:
            if "kspace" in file:
                return _fastmri(path, file)
            if "dataset/data" in file:
                return _ismrmrd(path, file["dataset"])
            found = ", ".join(file) or "nothing"
    except OSError as error:
        raise DataError(f"{path} cannot be read as HDF5 ({error}); copy or download it again.") from error
    raise DataError(f"{path} holds {found}, where kspace (fastMRI) or dataset/data (ISMRMRD) is expected.")


def _fastmri(path: Path, file: Any) -> Scan:
    kspace = torch.from_numpy(np.asarray(file["kspace"], np.complex64))
    if kspace.ndim not in (3, 4):
        raise DataError(
            f"{path} has kspace of shape {tuple(kspace.shape)}, where (slices, H, W) or (slices, "
            "coils, H, W) is expected; extract one scan."
        )
    kspace = kspace[:, None] if kspace.ndim == 3 else kspace
    width = kspace.shape[-1]
    _require_finite(path, kspace)
    # lines that nobody acquired are 0 in every coil; a mask says which of them belong to the accelerated scan
    lines = (kspace != 0).any(1).any(1)
    acquired = lines.any(0).nonzero().flatten()
    if len(acquired) and len(acquired) == acquired[-1] - acquired[0] + 1:
        lines |= lines.any(1, keepdim=True)  # what fastMRI pads at both sides is known to be 0, and not left out
    if "mask" in file:
        mask = torch.from_numpy(np.asarray(file["mask"]).astype(bool)).flatten()
        if len(mask) != width:
            raise DataError(f"{path} has a mask of {len(mask)} lines, but k-space has {width}; repair the file.")
        lines = mask.expand(len(kspace), width).clone()
    if not lines.any(1).all():
        raise DataError(f"{path} has no sampled line in slice {int((~lines.any(1)).nonzero()[0, 0])}; leave it out.")
    size, voxel = (kspace.shape[-2], width), (1.0, 1.0, 1.0)
    if "ismrmrd_header" in file:
        header = _encoding(path, file["ismrmrd_header"][()])
        size = (min(header.wanted[0], kspace.shape[-2]), min(header.wanted[1], width))
        fields = header.field_of_view
        voxel = (fields[0] / header.wanted[0], fields[1] / header.wanted[1], fields[2])
    return _scan(path, kspace, lines, size, np.diag([*voxel, 1.0]))


def _ismrmrd(path: Path, dataset: Any) -> Scan:
    header = _encoding(path, dataset["xml"][0])
    acquisitions = list(_imaging(dataset["data"][()]))
    if not acquisitions:
        raise DataError(f"{path} holds no acquisition of an image; give the file of the scan itself.")
    for name in OTHER_DIMENSIONS:
        values = {int(head["idx"][name]) for head, _ in acquisitions}
        if len(values) > 1:
            raise DataError(f"{path} has {len(values)} values of {name}, where one 2-D scan is expected; extract one.")
    if any(int(head["flags"]) & REVERSED for head, _ in acquisitions):
        raise DataError(f"{path} has lines that are read in reverse, as of echo-planar scans; correct its phase first.")
    slices = sorted({int(head["idx"]["slice"]) for head, _ in acquisitions})
    rows, width = header.encoded
    coils = int(acquisitions[0][0]["active_channels"])
    total = np.zeros((len(slices), coils, rows, width), np.complex64)
    seen: dict[tuple[int, int], set[int]] = {}
    for head, samples in acquisitions:
        place = slices.index(int(head["idx"]["slice"]))
        line = int(head["idx"]["kspace_encode_step_1"]) - header.centre + width // 2
        first = rows // 2 - int(head["center_sample"])
        if not 0 <= line < width or first < 0 or first + samples.shape[-1] > rows or len(samples) != coils:
            raise DataError(
                f"{path} has line {int(head['idx']['kspace_encode_step_1'])} with {len(samples)} coils and "
                f"{samples.shape[-1]} samples outside its k-space of {coils} coils and {rows}×{width}; repair the file."
            )
        averages = seen.setdefault((place, line), set())
        if int(head["idx"]["average"]) in averages:
            raise DataError(
                f"{path} has line {int(head['idx']['kspace_encode_step_1'])} of slice {slices[place]} twice; "
                "remove or average one of them."
            )
        averages.add(int(head["idx"]["average"]))
        total[place, :, first : first + samples.shape[-1], line] += samples
    for (place, line), averages in seen.items():
        total[place, :, :, line] /= len(averages)
    lines = torch.zeros(len(slices), width, dtype=torch.bool)
    for place, line in seen:
        lines[place, line] = True
    kspace = torch.from_numpy(total)
    _require_finite(path, kspace)
    size = (min(header.wanted[0], rows), min(header.wanted[1], width))
    return _scan(path, kspace, lines, size, _affine([head for head, _ in acquisitions], header, size))


def _scan(
    path: Path, kspace: torch.Tensor, lines: torch.Tensor, size: tuple[int, int], affine: npt.NDArray[np.float64]
) -> Scan:
    """Without oversampling, and 0 where nothing was sampled."""
    kspace = without_oversampling(kspace, size[0]) * lines[:, None, None, :]
    return Scan(str(path), kspace, lines, size, affine)


def _imaging(data: npt.NDArray[Any]) -> Iterator[tuple[Head, npt.NDArray[np.complex64]]]:
    for acquisition in data:
        head = acquisition["head"]
        if int(head["flags"]) & NOT_IMAGING:
            continue
        values = np.asarray(acquisition["data"], np.float32).view(np.complex64)
        samples = values.reshape(int(head["active_channels"]), int(head["number_of_samples"])).copy()
        samples[:, : int(head["discard_pre"])] = 0
        samples[:, samples.shape[1] - int(head["discard_post"]) :] = 0
        yield head, samples


def _encoding(path: Path, text: bytes | str) -> Encoding:
    try:
        root = ElementTree.fromstring(text)
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        encoding = root.find("encoding")
        assert encoding is not None
        trajectory = (encoding.findtext("trajectory") or "cartesian").strip().lower()
        encoded, wanted, fields = (
            [float(encoding.findtext(f"{space}/{axis}") or "nan") for axis in "xyz"]
            for space in ("encodedSpace/matrixSize", "reconSpace/matrixSize", "reconSpace/fieldOfView_mm")
        )
        depth, lines = int(encoded[2]), int(encoded[1])
        centre = int(encoding.findtext("encodingLimits/kspace_encoding_step_1/center") or lines // 2)
        header = Encoding(
            (int(encoded[0]), lines), (int(wanted[0]), int(wanted[1])), (fields[0], fields[1], fields[2]), centre
        )
    except (ElementTree.ParseError, AssertionError, ValueError) as error:
        raise DataError(f"{path} has an ISMRMRD header that cannot be understood; write the file again.") from error
    if trajectory != "cartesian" or depth > 1:
        kind = trajectory if trajectory != "cartesian" else f"three-dimensional, with {depth} partitions"
        raise DataError(f"{path} is {kind}, where a two-dimensional Cartesian scan is expected; resample it first.")
    return header


def _affine(heads: list[Head], header: Encoding, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """From the positions and directions of the slices, which ISMRMRD has in LPS."""
    first_of = {int(head["idx"]["slice"]): head for head in reversed(heads)}
    ordered = [first_of[index] for index in sorted(first_of)]
    rows, columns, normal = (
        np.asarray(ordered[0][name], np.float64) for name in ("read_dir", "phase_dir", "slice_dir")
    )
    voxel = (header.field_of_view[0] / header.wanted[0], header.field_of_view[1] / header.wanted[1])
    if not rows.any() or not columns.any():  # not recorded
        return np.diag([*voxel, header.field_of_view[2], 1.0])
    centres = np.asarray([np.asarray(head["position"], np.float64) for head in ordered])
    step = (centres[-1] - centres[0]) / (len(ordered) - 1) if len(ordered) > 1 else header.field_of_view[2] * normal
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = voxel[0] * rows, voxel[1] * columns, step
    affine[:3, 3] = centres[0] - affine[:3, 0] * (size[0] // 2) - affine[:3, 1] * (size[1] // 2)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _require_finite(path: Path, kspace: torch.Tensor) -> None:
    count = int((~torch.isfinite(torch.view_as_real(kspace)).all(-1)).sum())
    if count:
        raise DataError(f"{path} holds {count} NaN or infinite samples of k-space; repair or leave out the scan.")
