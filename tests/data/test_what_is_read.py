"""The table of docs/data.md, row by row."""

import logging
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from monai_blurvae.data import VolumeStore, is_volume, read_header
from monai_blurvae.errors import DataError
from tests.dicom import write_series
from tests.pipelines import patches, prepare
from tests.volumes import ROOT, brain

ARRAY = brain(4, (20, 24, 16))
AFFINE = np.array([[0, 0, -3.0, 10], [-1.0, 0, 0, 20], [0, 2.0, 0, 30], [0, 0, 0, 1]])
POSITIONS = np.arange(16) * 2.0


def with_value(value, voxels=1):
    array = ARRAY.astype(np.float32)
    array.flat[:voxels] = value
    return array


def nifti(array, name="a.nii.gz", affine=AFFINE, **header):
    def write(folder):
        image = nib.Nifti1Image(array, affine)
        for key, value in header.items():
            image.header[key] = value
        nib.save(image, folder / name)
        return [folder / name]

    return write


def nibabel_pair(kind):
    def write(folder):
        kind(ARRAY, AFFINE).to_filename(folder / "a.img")
        return [folder / "a.img", folder / "a.hdr"]

    return write


def nibabel_files(kind, *names):
    def write(folder):
        for name in names:
            nib.save(kind(ARRAY, AFFINE), folder / name)
        return [folder / name for name in names]

    return write


def itk(*names, compress=False):
    def write(folder):
        image = sitk.ReadImage(str(nifti(ARRAY, "source.nii")(folder)[0]))
        for name in names:
            sitk.WriteImage(image, str(folder / name), compress)
        return [folder / name for name in names]

    return write


def dicom(*uids, **arguments):
    def write(folder):
        for uid in uids or ("1.2.826.0.1.3680043.2.1125.1",):
            write_series(folder / "series", ARRAY, uid=uid, **arguments)
        (folder / "series" / "notes.txt").write_text("no DICOM")
        return [folder / "series"]

    return write


def other_format(folder):
    np.save(folder / "a.npy", ARRAY)
    return [folder / "a.npy"]


def truncated(folder):
    paths = [nifti(ARRAY, "a.nii")(folder)[0], nifti(ARRAY)(folder)[0], *itk("a.nrrd", "a.mha", compress=True)(folder)]
    for path in paths:
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return paths


def pointers(folder):
    (folder / "a.nii").symlink_to(".git/annex/objects/x")
    (folder / "b.nii.gz").write_text("/annex/objects/SHA256E-s9--0.nii.gz")
    (folder / "c.nii.gz").write_text("version https://git-lfs.github.com/spec/v1")
    return [folder / name for name in ("a.nii", "b.nii.gz", "c.nii.gz")]


def scaled(folder):
    image = nib.Nifti1Image(ARRAY.astype(np.float32) / 8 + 3, AFFINE)
    image.set_data_dtype(np.int16)
    nib.save(image, folder / "a.nii")
    return [folder / "a.nii"]


def rgb(folder):
    colours = np.zeros(ARRAY.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    vector = sitk.GetImageFromArray(np.zeros((*ARRAY.shape, 3), np.uint8), isVector=True)
    sitk.WriteImage(vector, str(folder / "b.nrrd"))
    return [*nifti(colours)(folder), folder / "b.nrrd", *nifti(ARRAY.astype(np.complex64), "c.nii")(folder)]


def flat_affines(folder):
    flat = nib.Nifti1Image(ARRAY, AFFINE)
    flat.header.set_sform(np.diag([1.0, 0, 1, 1]), 1)
    endless = nib.Nifti1Image(ARRAY, AFFINE)
    endless.header["srow_x"][0] = np.inf
    for name, image in (("flat.nii", flat), ("endless.nii", endless)):
        (folder / name).write_bytes(image.header.binaryblock + bytes(4) + ARRAY.tobytes("F"))
    return [folder / "flat.nii", folder / "endless.nii"]


def wrong_pixdim(folder):
    path = nifti(ARRAY, "a.nii")(folder)[0]
    content = bytearray(path.read_bytes())
    content[80:92] = np.array([5, 5, 5], np.float32).tobytes()
    path.write_bytes(content)
    return [path]


def mostly(value, voxels):
    array = np.zeros((20, 20, 20), np.float32)
    array.flat[:voxels] = value
    return array


def bright():
    array = ARRAY.astype(np.float32)
    array[np.where(array > 0)[0][0], :12, :8] = 1e6  # 1.25 % of the voxels
    return array


CASES = {
    "`.nii` and `.nii.gz`, NIfTI-1 and NIfTI-2": (
        lambda folder: [
            *nibabel_files(nib.Nifti1Image, "a.nii", "a.nii.gz")(folder),
            *nibabel_files(nib.Nifti2Image, "b.nii", "b.nii.gz")(folder),
        ],
        "",
    ),
    "`.hdr` with `.img`": (nibabel_pair(nib.Nifti1Pair), ""),
    "`.mgh` and `.mgz`": (nibabel_files(nib.MGHImage, "a.mgh", "a.mgz"), ""),
    "`.nrrd`, and `.nhdr` with its voxels": (itk("a.nrrd", "b.nhdr"), ""),
    "`.mha`, and `.mhd` with its voxels": (itk("a.mha", "b.mhd"), ""),
    "a folder with one DICOM series": (dicom(), ""),
    "a folder with two DICOM series": (
        dicom("1.2.826.0.1.3680043.2.1125.1", "1.2.826.0.1.3680043.2.1125.2"),
        r"holds 2 DICOM series, where one is expected \(16 files of .*, 16 files of .*\); move each",
    ),
    "a DICOM series with a slice missing inside": (
        dicom(positions=POSITIONS + 2 * (POSITIONS > 15)),
        "lacks 1 slice.*behind slice 8 of 16, where the distance is 4 mm in place of 2 mm",
    ),
    "a DICOM series with unequal distances": (
        dicom(positions=POSITIONS + 0.5 * (POSITIONS > 15)),
        "has slices 2 to 2.5 mm apart, where equal distances are expected",
    ),
    "a DICOM series with two slices at one position": (
        dicom(positions=POSITIONS - 2 * (POSITIONS > 15)),
        "has two slices at one position, of 16",
    ),
    "a DICOM series with a tilted gantry": (dicom(lean=0.2), "not stacked along their normal"),
    "a suffix that is not above": (other_format, r"of no format that is read .*\.nrrd.*; convert it to NIfTI, for ex"),
    "shape (X, Y, Z, 1) or (X, Y, Z, 1, 1)": (
        lambda folder: [*nifti(ARRAY[..., None])(folder), *nifti(ARRAY[..., None, None], "b.nii")(folder)],
        "",
    ),
    "shape (X, Y, Z, T)": (nifti(np.stack([ARRAY, ARRAY], 3)), "has 4 dimensions.*extract one volume"),
    "a single slice (X, Y)": (nifti(ARRAY[..., 0]), "has 2 dimensions"),
    "axes in another order, oblique, anisotropic": (
        nifti(ARRAY, affine=np.array([[0.1, 0, -3, 1], [-1, 0.2, 0, 2], [0.05, 2, 0.1, 3], [0, 0, 0, 1]])),
        "",
    ),
    "a `pixdim` unlike the affine": (wrong_pixdim, r"5×5×5 mm by its pixdim, but of 1×2×3 mm by its affine"),
    "an affine that is flat or not finite": (flat_affines, "unusable header"),
    "integers with scale and intercept": (scaled, ""),
    "complex or RGB voxels": (rgb, "where real numbers are expected"),
    "a truncated file": (truncated, "cannot be read"),
    "a broken link, or a pointer of git-annex or LFS": (
        pointers,
        "fetch it with '(datalad get|git annex get|git lfs pull)'",
    ),
    "NaN in some voxels": (nifti(with_value(np.nan, 9)), r"holds NaN in 9 of 7680 voxels \(0.1%\)"),
    "NaN everywhere": (nifti(with_value(np.nan, ARRAY.size)), "holds NaN alone"),
    "an infinite value": (nifti(with_value(-np.inf, 3)), "holds 3 infinite value"),
    "one value everywhere": (nifti(mostly(7, 8000)), "single value 7"),
    "all but constant: percentiles alike": (nifti(mostly(1, 9)), "percentiles 1 and 99 are both 0"),
    "a few very bright voxels": (nifti(bright()), "set upper of CheckVolumed and of ScalePercentilesd to 9[578]"),
    "a z-scored volume that is padded": (nifti((ARRAY - ARRAY.mean()) / ARRAY.std()), ""),
}


def rows():
    lines = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {case: outcome for case, outcome, _ in cells[2:]}


def test_every_row_is_a_case():
    assert list(rows()) == list(CASES)
    assert set(rows().values()) == {"read", "refused", "read, with a warning", "read, counted in the log"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
def test_what_the_table_says_of(case, tmp_path, caplog):
    write, message = CASES[case]
    outcome = rows()[case]
    caplog.set_level(logging.INFO)
    size = (24, 24, 24) if "padded" in case else None
    for path in write(tmp_path):
        if outcome == "refused":
            with pytest.raises(DataError, match=message) as error:
                patches([{"image": str(path)}], tmp_path / "cache", patch_size=8)
            assert str(path) in str(error.value)
            continue
        assert is_volume(path)
        caplog.clear()
        entry = VolumeStore(tmp_path / "cache", prepare(size), 1).add(path, "a")
        voxels, affine = independently(path)
        check(entry, voxels, affine, size)
        header = read_header(path)
        np.testing.assert_allclose(header.voxel_size, np.linalg.norm(ras(voxels, affine)[1][:3, :3], axis=0), rtol=1e-6)
        assert header.shape == ras(voxels, affine)[0].shape
        said = {"read": [], "read, with a warning": [logging.WARNING], "read, counted in the log": [logging.INFO]}
        assert [record.levelno for record in caplog.records[:1]] == said[outcome]
        assert not message or re.search(message, caplog.messages[0])


def independently(path):
    """Voxels and affine by nibabel or SimpleITK alone."""
    if path.is_dir():
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
        image = reader.Execute()
    elif path.suffix in (".nrrd", ".nhdr", ".mha", ".mhd"):
        image = sitk.ReadImage(str(path))
    else:
        image = nib.load(path)
        return np.asarray(image.dataobj).reshape(image.shape[:3]), image.affine
    corners = [image.TransformContinuousIndexToPhysicalPoint(p) for p in np.vstack([np.zeros(3), np.eye(3)]).tolist()]
    corners = np.array(corners) * [-1, -1, 1]
    affine = np.eye(4)
    affine[:3] = np.column_stack([*(corners[1:] - corners[0]), corners[0]])
    return sitk.GetArrayFromImage(image).T, affine


def ras(voxels, affine):
    image = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(voxels, np.float64), affine))
    return image.get_fdata(), image.affine


def check(entry, voxels, affine, size):
    """The prepared volume against NumPy."""
    array, canonical = ras(voxels, affine)
    array = np.where(np.isnan(array), np.nanmin(array), array)
    low, high = np.percentile(array, [1, 99])
    expected = np.clip((array - low) / (high - low), 0, 1) * 2 - 1
    if size:
        before = [(n - m) // 2 for n, m in zip(size, expected.shape, strict=True)]
        after = [n - m - b for n, m, b in zip(size, expected.shape, before, strict=True)]
        expected = np.pad(expected, list(zip(before, after, strict=True)), constant_values=-1)
        canonical = canonical.copy()
        canonical[:3, 3] -= canonical[:3, :3] @ before
    np.testing.assert_allclose(entry.image()[0].astype(float), expected, atol=6e-4)
    np.testing.assert_allclose(entry.affine, canonical, atol=1e-4)
    assert Path(entry.source).exists()


def test_analyze_without_orientation_is_as_nibabel_takes_it(tmp_path):
    image = nib.AnalyzeImage(ARRAY, np.diag([-2.0, 3, 4, 1]))
    image.to_filename(tmp_path / "a.img")
    expected = nib.load(tmp_path / "a.img")
    entry = VolumeStore(tmp_path / "cache", prepare(), 0).add(tmp_path / "a.hdr", "a")
    check(entry, np.asarray(expected.dataobj), expected.affine, None)
    assert read_header(tmp_path / "a.img").voxel_size == (2, 3, 4)


def test_a_pair_that_is_listed_twice_is_one_volume(tmp_path):
    items = [{"image": str(path)} for path in nibabel_pair(nib.Nifti1Pair)(tmp_path)]
    entries = patches(items, tmp_path / "cache", patch_size=8).facts().entries
    assert [Path(entry["image"]).name for entry in entries] == ["a.img"]


def test_a_change_of_the_voxels_beside_a_header_is_seen(tmp_path):
    path = itk("b.mhd")(tmp_path)[0]
    store = VolumeStore(tmp_path / "cache", prepare(), 1)
    before = store.add(path, "a").checksum
    voxels = tmp_path / "b.raw"
    voxels.write_bytes(voxels.read_bytes()[::-1])
    assert store.get(path, "a") is None
    assert store.add(path, "a").checksum != before
