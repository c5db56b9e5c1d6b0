"""Raw scans in, brains out, by the command."""

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from scripts import prepare
from tests.commands import command
from tests.dicom import write_series
from tests.volumes import ROOT, brain, save

SHAPE = (48, 56, 40)
LAS = np.array([[-2.0, 0, 0, 47], [0, 2.0, 0, -60], [0, 0, 2.0, -30], [0, 0, 0, 1]])
MASKS = "masks/{stem}_mask.nii.gz"
GREY, WHITE = 600.0, 1000.0
ANAT = "sub-01/ses-a/anat/sub-01_ses-a"


SCANS = (ROOT / "scripts/prepare.py", "scans")


def main(*arguments):
    return prepare.main(["scans", *map(str, arguments)])


def ellipsoid(shape, radius):
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return sum(g**2 for g in grid) < radius**2


def phantom():
    """Two tissues and bright scalp with noise, the tissues alone, and the field that they are multiplied by."""
    tissue = np.where(ellipsoid(SHAPE, 0.5), WHITE, GREY) * ellipsoid(SHAPE, 0.75)
    scalp = 1500.0 * (ellipsoid(SHAPE, 0.95) & ~ellipsoid(SHAPE, 0.85))
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    field = np.exp(0.5 * x - 0.3 * y * y + 0.3 * z)
    noise = np.random.default_rng(0).normal(0, 8, SHAPE)
    return np.clip((tissue + scalp) * field + noise, 1, None).astype(np.float32), tissue, field


def variation(array, tissue):
    """Coefficient of variation in each tissue."""
    return [array[tissue == value].std() / array[tissue == value].mean() for value in (GREY, WHITE)]


def write_raw(folder):
    """Two scans that can be used, a DICOM series among them, and five that cannot."""
    scan, tissue, _ = phantom()
    save(folder / "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz", scan, affine=LAS)
    save(folder / "masks/sub-01_ses-a_T1w_mask.nii.gz", (tissue > 0).astype(np.uint8), affine=LAS)
    small = brain(1, (24, 28, 20))
    mask = (small > 0).astype(np.uint8)
    affine = write_series(folder / "patient_002", small)
    for number in range(2, 8):
        if number != 6:
            save(folder / f"masks/patient_00{number}_mask.nii.gz", mask, affine=affine)
    positions = [2.0 * i + (2 if i > 8 else 0) for i in range(20)]
    write_series(folder / "patient_003", small, positions=positions)
    write_series(folder / "patient_004", small)
    write_series(folder / "patient_004", small, uid="1.2.826.0.1.3680043.2.1125.2")
    moved = affine.copy()
    moved[0, 3] += 1
    save(folder / "patient_005.nii.gz", small, affine=moved)
    save(folder / "patient_006.nii.gz", small, affine=affine)
    save(folder / "patient_007.nii.gz", small[:-1], affine=affine)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    write_raw(folder / "raw")
    arguments = ["--input", folder / "raw", "--output_dir", folder / "out", "--mask_pattern", MASKS]
    done = command(*SCANS, *arguments, extras=("study",))
    return SimpleNamespace(folder=folder, out=folder / "out", arguments=arguments, done=done)


def test_one_failure_does_not_stop_the_rest_and_the_table_says_why(prepared):
    assert prepared.done.returncode == 1, prepared.done.stderr
    assert "Traceback" not in prepared.done.stderr
    lines = prepared.done.stdout.splitlines()
    assert lines[-1] == "2 of 7 scans are prepared, 5 failed."
    reasons = {line.split()[1]: line for line in lines if line.startswith("failed")}
    for name, words in {
        "patient_003": ["lacks 1 slice", "behind slice 9 of 20", "copy the series again"],
        "patient_004": ["holds 2 DICOM series, where one is expected", "move each into a folder of its own"],
        "patient_005.nii.gz": ["patient_005_mask.nii.gz lies up to 1 mm away from its scan", "on one grid"],
        "patient_006.nii.gz": ["has no brain mask", "matches nothing at", "masks/patient_006_mask.nii.gz"],
        "patient_007.nii.gz": ["has 24×28×20 voxels, where its scan", "has 23×28×20", "on the grid of the scan"],
    }.items():
        assert all(word in reasons[name] for word in words), reasons[name]
    prepared_files = {path.name for path in prepared.out.glob("sub-*/**/*.nii.gz")}
    assert prepared_files == {
        *(f"sub-01_ses-a_desc-{name}.nii.gz" for name in ("preproc_T1w", "brain_mask")),
        *(f"sub-patient002_desc-{name}.nii.gz" for name in ("preproc_T1w", "brain_mask")),
    }
    assert not [path for path in prepared.out.rglob("*") if path.name.endswith((".part", "unfinished_T1w"))]


def test_a_known_bias_field_is_taken_out(prepared):
    scan, tissue, field = phantom()
    result = nib.load(prepared.out / f"{ANAT}_desc-preproc_T1w.nii.gz")
    array = result.get_fdata()[::-1]  # the file runs from right to left, the result from left to right
    before, after = variation(scan, tissue), variation(array, tissue)
    assert min(before) > 0.1
    assert max(after) < 0.03
    found = scan[tissue > 0] / array[tissue > 0] / field[tissue > 0]
    assert found.std() / found.mean() < 0.03


def test_the_mask_is_applied_exactly_and_the_axes_are_ras(prepared):
    _, tissue, _ = phantom()
    result = nib.load(prepared.out / f"{ANAT}_desc-preproc_T1w.nii.gz")
    mask = nib.load(prepared.out / f"{ANAT}_desc-brain_mask.nii.gz")
    assert nib.aff2axcodes(result.affine) == ("R", "A", "S")
    np.testing.assert_array_equal(np.asarray(mask.dataobj)[::-1], tissue > 0)
    np.testing.assert_array_equal(result.get_fdata() != 0, np.asarray(mask.dataobj) != 0)
    np.testing.assert_allclose(mask.affine, result.affine)
    # the voxel (0, 0, 0) of the file is the last one along R
    np.testing.assert_allclose(result.affine @ [47, 0, 0, 1], LAS @ [0, 0, 0, 1], atol=1e-5)
    assert mask.get_data_dtype() == np.uint8


def test_a_dicom_series_keeps_its_place(prepared):
    result = nib.load(prepared.out / "sub-patient002/anat/sub-patient002_desc-preproc_T1w.nii.gz")
    scan = nib.as_closest_canonical(nib.load(prepared.folder / "raw/masks/patient_002_mask.nii.gz"))
    np.testing.assert_allclose(result.affine, scan.affine, atol=1e-4)
    np.testing.assert_array_equal(result.get_fdata() > 0, scan.get_fdata() > 0)


def test_what_bids_wants_and_the_page(prepared):
    description = json.loads((prepared.out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    about = json.loads((prepared.out / f"{ANAT}_desc-preproc_T1w.json").read_text())
    assert about["SkullStripped"] is True
    _, tissue, _ = phantom()
    assert about["brain_ml"] == pytest.approx((tissue > 0).sum() * 8 / 1000, abs=0.1)
    html = (prepared.out / "preparation.html").read_text(encoding="utf-8")
    assert html.count("<img ") == 2
    assert "lacks 1 slice" in html
    assert "http" not in html.replace("http-equiv", "")
    pixels = np.asarray(Image.open(prepared.out / f"{ANAT}_desc-brain_T1w.png"))
    assert (pixels == (255, 160, 0)).all(-1).any()


def test_what_is_finished_is_kept(prepared, capsys):
    files = sorted(prepared.out.rglob("sub-*.nii.gz"))
    before = [path.stat().st_mtime_ns for path in files]
    assert main(*prepared.arguments) == 1
    assert capsys.readouterr().out.count("there already") == 2
    assert main(*prepared.arguments, "--spacing", 1) == 1
    said = capsys.readouterr().out
    assert said.count("is of other settings, spacing was None and is [1.0, 1.0, 1.0] now") == 2
    assert [path.stat().st_mtime_ns for path in files] == before


def test_what_a_kill_left_is_made_again_and_what_is_a_users_is_not(prepared, tmp_path, capsys):
    arguments = ["--input", prepared.folder / "raw", "--output_dir", tmp_path, "--mask_pattern", MASKS]
    left = tmp_path / f"{ANAT}_desc-preproc_T1w.nii.gz"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    (left.parent / "sub-01_ses-a_desc-unfinished_T1w").touch()
    users = tmp_path / "sub-patient002/anat/sub-patient002_desc-brain_mask.nii.gz"
    users.parent.mkdir(parents=True)
    users.write_text("mine")
    assert main(*arguments) == 1
    assert nib.load(left).shape == SHAPE
    assert f"{users} is there and was not made by this; choose another output_dir" in capsys.readouterr().out
    assert users.read_text() == "mine"


@pytest.mark.slow
def test_two_processes_and_another_voxel_size(prepared, tmp_path):
    arguments = ["--input", prepared.folder / "raw", "--output_dir", tmp_path, "--mask_pattern", MASKS]
    arguments += ["--jobs", 2, "--spacing", 3, 3, 4]
    done = command(*SCANS, *arguments)
    assert "2 of 7 scans are prepared" in done.stdout, done.stderr
    result = nib.load(tmp_path / f"{ANAT}_desc-preproc_T1w.nii.gz")
    assert result.header.get_zooms() == (3, 3, 4)
    first = nib.load(prepared.out / f"{ANAT}_desc-preproc_T1w.nii.gz")
    middles = [image.affine @ [*((n - 1) / 2 for n in image.shape), 1] for image in (result, first)]
    np.testing.assert_allclose(*middles, atol=1e-4)
    array = result.get_fdata()
    mask = nib.load(tmp_path / f"{ANAT}_desc-brain_mask.nii.gz").get_fdata()
    assert not array[mask == 0].any()
    assert (array[mask == 1] > 0).mean() > 0.99  # splines swing to 0 beside a bright scalp
    centre = np.linalg.inv(result.affine) @ first.affine @ [24, 28, 20, 1]
    there = tuple(np.rint(centre[:3]).astype(int))
    assert array[there] == pytest.approx(first.get_fdata()[24, 28, 20], rel=0.05)


@pytest.mark.slow
def test_a_known_affine_is_found_and_the_mask_flagged(tmp_path):
    datasets = pytest.importorskip("nilearn.datasets")
    scipy_ndimage = pytest.importorskip("scipy.ndimage")
    template = datasets.load_mni152_template(resolution=1)
    angle = np.deg2rad(12)
    known = np.eye(4)
    known[:3, :3] = 0.94 * np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    known[:3, 3] = [5, -9, 14]
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    grid[:3, 3] = [-95, -125, -95]
    to_template = np.linalg.inv(known @ template.affine) @ grid
    t1 = np.asarray(template.dataobj)
    scan = scipy_ndimage.affine_transform(t1, to_template, output_shape=(96, 120, 96), order=1)
    path = save(tmp_path / "raw/s01.nii.gz", (1000 * scan).astype(np.int16), affine=grid)
    arguments = ["--input", path, "--output_dir", tmp_path / "out"]
    done = command(*SCANS, *arguments, extras=("sample", "study"))
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "out/sub-s01/anat/sub-s01_desc-preproc_T1w.json").read_text())
    corners = np.array([[x, y, z, 1] for x in (-70, 70) for y in (-100, 70) for z in (-50, 75)])
    error = corners @ (np.array(about["template_to_scan"]) - known).T
    assert np.linalg.norm(error[:, :3], axis=1).max() < 2  # mm, a voxel
    assert "brain mask by the template" in (tmp_path / "out/preparation.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mask_pattern", "masks/none_{stem}.nii.gz"], ["matches nothing", "correct the pattern"]),
        (["--mask_pattern", "masks/all.nii.gz"], ["mask_pattern", "no placeholder", "{stem}"]),
        (["--mask_pattern", "{stem.nii.gz"], ["mask_pattern", "cannot be read"]),
        (["--mask_pattern", "{name}.nii.gz"], ["another placeholder", "{subject}"]),
        (["--mask_pattern", MASKS, "--spacing", "0"], ["spacing is '0'", "in mm"]),
        (["--mask_pattern", MASKS, "--jobs", "0"], ["jobs is 0", "1 or more"]),
    ],
)
def test_a_setting_that_cannot_be_used(prepared, tmp_path, capsys, arguments, words):
    assert main("--input", prepared.folder / "raw", "--output_dir", tmp_path / "out", *arguments) == 1
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert not (tmp_path / "out").exists()


def test_an_empty_folder(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main("--input", tmp_path / "empty", "--output_dir", tmp_path / "out") == 1
    assert "is a folder without a volume" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_page_of_another_program_is_kept(prepared, tmp_path, capsys):
    (tmp_path / "preparation.html").write_text("mine")
    assert main("--input", prepared.folder / "raw", "--output_dir", tmp_path, "--mask_pattern", MASKS) == 1
    assert "is no report" in capsys.readouterr().err
    assert (tmp_path / "preparation.html").read_text() == "mine"
