"""Whole scans through the inference command: geometry, units, names, resuming, errors."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from tests.commands import RUN, command
from tests.dicom import write_series
from tests.inferers.networks import Identity
from tests.volumes import ROOT, TINY, brain, cause, run, save

INFERENCE = str(ROOT / "bundles/hcp/inference.json")
IDENTITY = "$__import__('tests.inferers.networks', fromlist=['']).Identity(32)"
SHAPE = (30, 36, 34)
OBLIQUE = np.array([[1.2, 0.3, 0.1, -20], [-0.25, 0.9, 0.2, 10], [0.05, -0.2, 1.5, 5], [0, 0, 0, 1]])
FLIPPED = np.array([[0, 0, -1.5, 10], [-1.0, 0, 0, 20], [0, 2.0, 0, 30], [0, 0, 0, 1]])


class Trap:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def nifti(path, array, affine, kind=nib.Nifti1Image, sform=1, qform=1, slope=None, inter=None):
    image = kind(array, None)
    image.header.set_sform(affine, sform)
    image.header.set_qform(affine if qform else None, qform)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"a scan"
    path.parent.mkdir(parents=True, exist_ok=True)
    if slope is None:
        nib.save(kind(array, image.header.get_best_affine(), image.header), path)
        return
    image.header.set_slope_inter(slope, inter)
    proxy = kind(array, image.header.get_best_affine(), image.header)
    proxy.header.set_data_dtype(np.int16)
    with path.open("wb") as stream:
        header = proxy.header.copy()
        header.set_slope_inter(slope, inter)
        header.set_data_offset(352)
        header.write_to(stream)
        stream.write(b"\0" * 4)
        stream.write(array.astype("<i2").tobytes(order="F"))


def write_all(folder):
    """A volume of every kind of header; paths relative to the folder."""
    whole = brain(1, SHAPE)
    real = whole.astype(np.float32)
    rigid = np.diag([-1.0, 1.0, 2.0, 1.0])
    rigid[:3, 3] = [15, -18, 7]
    nifti(folder / "oblique.nii.gz", real, OBLIQUE, qform=0)
    nifti(folder / "flipped.nii", real.astype(np.float64) * 1e3, FLIPPED, sform=2, qform=1)
    nifti(folder / "slope.nii", whole, FLIPPED, slope=0.25, inter=-100.0)
    nifti(folder / "four.nii.gz", real[..., None], rigid)
    nifti(folder / "sform.nii.gz", real, rigid, sform=4, qform=0)
    nifti(folder / "qform.nii.gz", real, rigid, sform=0, qform=3)
    nifti(folder / "second.nii", whole, FLIPPED, kind=nib.Nifti2Image)
    nifti(folder / "pair.img", whole, FLIPPED, kind=nib.Nifti1Pair, sform=2, qform=0)
    nifti(folder / "z.nii.gz", (real - 700) / 150, FLIPPED)
    nifti(folder / "unsigned.nii.gz", (whole // 8).astype(np.uint8), rigid)
    missing = real.copy()
    missing[real == 0] = np.nan
    nifti(folder / "nan.nii.gz", missing, rigid)
    image = sitk.ReadImage(str(folder / "flipped.nii"))
    sitk.WriteImage(image, str(folder / "itk.mha"))
    sitk.WriteImage(image, str(folder / "itk2.nrrd"))
    nib.save(nib.MGHImage(real, FLIPPED), folder / "surfer.mgz")
    write_series(folder / "series", whole[..., :20])


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    """Every kind of header through an identity network, by the command: (inputs, outputs, what was printed)."""
    work = tmp_path_factory.mktemp("identity")
    write_all(work / "in")
    torch.save(Identity(32).state_dict(), work / "model.pt")
    done = typed(work, "--output_type", "float64", "--slice_axis", "2", "--variance", "0.01", imports=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return work / "in", work / "out", done.stderr + done.stdout


def typed(work, *options, **more):
    line = ["--config_file", INFERENCE, "--network_def", IDENTITY, "--patch_size", "32", "--device", "cpu"]
    line += ["--model_file", work / "model.pt", "--input", work / "in", "--output_dir", work / "out"]
    return command(*RUN, "inference", *line, *options, extras=("study",), **more)


def voxels_of(path):
    """Voxels and affine by nibabel, or SimpleITK and the rule from LPS to RAS."""
    if path.suffix in (".mha", ".nrrd"):
        image = sitk.ReadImage(str(path))
    elif path.is_dir():
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
        image = reader.Execute()
    else:
        image = nib.load(path)
        return image.get_fdata(), image.affine
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T.astype(float), np.diag([-1, -1, 1, 1]) @ affine


NAMES = (
    *("oblique.nii.gz", "flipped.nii", "slope.nii", "four.nii.gz", "sform.nii.gz", "qform.nii.gz", "second.nii"),
    *("pair.img", "z.nii.gz", "unsigned.nii.gz", "nan.nii.gz", "itk.mha", "itk2.nrrd", "surfer.mgz", "series"),
)


@pytest.mark.parametrize("name", NAMES)
def test_an_identity_gives_the_scan_back_in_its_units(identity, name):
    inputs, outputs, _ = identity
    scan, affine = voxels_of(inputs / name)
    stem = name.split(".")[0]
    results = {kind: nib.load(outputs / stem / f"{stem}_{kind}.nii.gz") for kind in ("reconstruction", "error")}
    assert results["reconstruction"].shape == scan.shape
    np.testing.assert_allclose(results["reconstruction"].affine, affine, atol=1e-5)
    low, high = np.percentile(np.nan_to_num(scan, nan=np.nanmin(scan)), [1, 99])
    span = np.nanmax(scan) - np.nanmin(scan)
    found = results["reconstruction"].get_fdata()
    np.testing.assert_allclose(found, scan.clip(low, high), rtol=0, atol=1e-6 * span)
    np.testing.assert_allclose(results["error"].get_fdata(), found - scan, rtol=0, atol=1e-6 * span)
    about = json.loads((outputs / stem / f"{stem}_reconstruction.json").read_text())["intensities"]
    assert about["clipped_above"] == (scan > high).sum()
    assert about["clipped_below"] == (scan < low).sum()
    assert about["high"] == pytest.approx(high, abs=1e-6 * span)
    surprise = nib.load(outputs / stem / f"{stem}_neg_log_prob.nii.gz").get_fdata()
    np.testing.assert_allclose(surprise[np.isfinite(scan)], 0.5 * np.log(2 * np.pi * 0.01), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if ".nii" in name or ".img" in name])
def test_the_header_of_a_nifti_is_kept(identity, name):
    inputs, outputs, _ = identity
    stem = name.split(".")[0]
    before = nib.load(inputs / name).header
    for kind in ("reconstruction", "absolute_error", "neg_log_prob"):
        after = nib.load(outputs / stem / f"{stem}_{kind}.nii.gz").header
        for field in ("sform_code", "qform_code", "xyzt_units", "descrip", "dim"):
            np.testing.assert_array_equal(after[field], before[field])
        np.testing.assert_allclose(after["pixdim"][1:4], before["pixdim"][1:4])
        np.testing.assert_array_equal(after["sizeof_hdr"], before["sizeof_hdr"])


def test_what_was_cut_off_is_said_and_latents_and_a_page_are_there(identity):
    _, outputs, printed = identity
    assert "z.nii.gz: of 36720 voxels" in printed
    assert "were cut off, as in the training" in printed
    latents = np.load(outputs / "z" / "z_latents.npz")
    assert latents["mu"].shape == (len(latents["position"]), 32 * 32)
    page = (outputs / "z" / "z_report.html").read_text()
    assert "The most unusual regions" in page
    assert page.count("<img") >= 1 + 3 * 3
    assert "http" not in page.replace("http-equiv", "")
    assert not [path for path in outputs.rglob("*") if "unfinished" in path.name or path.name.endswith(".part")]


def test_finished_volumes_are_not_made_again_and_other_settings_refused(identity):
    _, outputs, _ = identity
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("*") if path.is_file()}
    (outputs / "z" / "z_reconstruction.json").touch()
    before[outputs / "z" / "z_reconstruction.json"] = (outputs / "z" / "z_reconstruction.json").stat().st_mtime_ns
    work = outputs.parent
    done = typed(work, "--output_type", "float64", "--slice_axis", "2", "--variance", "0.01")
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in outputs.rglob("*") if path.is_file()} == before
    done = typed(work, "--output_type", "float64", "--slice_axis", "1", "--variance", "0.01")
    assert done.returncode == 1
    assert "is of other settings, slice_axis was 2 and is 1 now; choose another output_dir" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in outputs.rglob("*") if path.is_file()} == before


def infer(work, inputs, network=IDENTITY, **settings):
    model = {"network_def": network, "patch_size": 32, "device": "cpu", "variance": 0.01}
    given = {"model_file": str(work / "model.pt"), "input": str(inputs), "output_dir": str(work / "out")}
    if not (work / "model.pt").exists():
        torch.save(Identity(32).state_dict(), work / "model.pt")
    run("inference", INFERENCE, **(model | given | settings))


def sentence(work, inputs, **settings):
    with pytest.raises(RuntimeError) as error:
        infer(work, inputs, **settings)
    text = str(cause(error.value))
    assert "\n" not in text
    return text


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_bids_in_and_bids_out(tmp_path):
    anat = tmp_path / "in" / "sub-01" / "ses-a" / "anat"
    save(anat / "sub-01_ses-a_T1w.nii.gz", brain(1, (20, 22, 24)))
    save(anat / "sub-01_ses-a_desc-preproc_T1w.nii.gz", brain(2, (20, 22, 24)))
    infer(tmp_path, tmp_path / "in", output_type="input")
    out = tmp_path / "out" / "sub-01" / "ses-a" / "anat"
    names = {path.name for path in out.iterdir()}
    kinds = ("reconstruction", "error", "absoluteError", "negLogProb")
    assert {f"sub-01_ses-a_desc-{kind}_T1w.nii.gz" for kind in kinds} < names
    assert {"sub-01_ses-a_desc-reconstruction_T1w.json", "sub-01_ses-a_desc-preprocReconstruction_T1w.nii.gz"} < names
    about = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative"
    assert about["GeneratedBy"][0]["Name"] == "monai_blurvae"
    image = nib.load(out / "sub-01_ses-a_desc-reconstruction_T1w.nii.gz")
    assert image.get_data_dtype() == np.int16
    scan = brain(1, (20, 22, 24)).astype(float)
    high = np.percentile(scan, 99)
    np.testing.assert_allclose(image.get_fdata(), scan.clip(0, high), atol=1.01 * high / 65535)
    (tmp_path / "twice").mkdir()
    for folder in "ab":
        save(tmp_path / "twice" / folder / "sub-01_T1w.nii.gz", brain(1, (20, 22, 24)))
    assert "have one name in BIDS" in sentence(tmp_path, tmp_path / "twice", output_dir=str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_a_glob_keeps_the_structure_and_results_are_no_inputs(tmp_path):
    for name in ("x/a.nii.gz", "y/a.nii.gz", "y/note.txt"):
        save(tmp_path / "in" / name, brain(1, (20, 22, 24))) if "nii" in name else (tmp_path / "in" / name).touch()
    out = tmp_path / "in" / "out"
    infer(tmp_path, tmp_path / "in" / "*" / "a*", output_dir=str(out))
    infer(tmp_path, tmp_path / "in", output_dir=str(out))
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*_reconstruction.nii.gz"))
    assert made == ["x/a/a_reconstruction.nii.gz", "y/a/a_reconstruction.nii.gz"]


def test_bad_input_is_one_sentence_and_nothing_half_written(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is a folder without a volume (0 file(s)" in sentence(tmp_path, tmp_path / "empty")
    assert "nothing.nii does not exist" in sentence(tmp_path, tmp_path / "nothing.nii")
    (tmp_path / "empty" / "a.txt").touch()
    assert "but no volume" in sentence(tmp_path, tmp_path / "empty" / "*.txt")
    good = save(tmp_path / "good.nii.gz", brain(1, (20, 22, 24)))
    assert "output_type is 'complex64'; give a type of numbers" in sentence(tmp_path, good, output_type="complex64")
    assert "variance must be a positive number" in sentence(tmp_path, good, variance=-1.0)
    nan = save(tmp_path / "nan.nii.gz", np.full((20, 22, 24), np.nan, np.float32))
    assert "nan.nii.gz holds NaN alone" in sentence(tmp_path, nan)
    positions = [0, 2, 4, 8, 10]
    write_series(tmp_path / "series", brain(1, (20, 22, 5)), positions=positions)
    assert "lacks 1 slice(s), the first behind slice 3" in sentence(tmp_path, tmp_path / "series")
    (tmp_path / "short.pt").write_bytes((tmp_path / "model.pt").read_bytes()[:200])
    assert "short.pt cannot be read" in sentence(tmp_path, good, model_file=str(tmp_path / "short.pt"))
    torch.save({"trap": Trap(tmp_path / "ran")}, tmp_path / "trap.pt")
    assert "trap.pt cannot be read" in sentence(tmp_path, good, model_file=str(tmp_path / "trap.pt"))
    assert not (tmp_path / "ran").exists()
    unknown = Identity(32, (0.0, 0.0)).state_dict()
    torch.save(unknown, tmp_path / "unknown.pt")
    text = sentence(tmp_path, good, model_file=str(tmp_path / "unknown.pt"), resample=True)
    assert text == "resample is true, but the model does not know the voxel size of its training."
    assert not files(tmp_path / "out")
    save(tmp_path / "out" / "good" / "good_error.nii.gz", brain(1, (20, 22, 24)))
    assert "good_error.nii.gz is there and was not made by this" in sentence(tmp_path, good)
    assert len(files(tmp_path / "out")) == 1


def test_what_a_kill_leaves_is_made_again(tmp_path):
    good = save(tmp_path / "good.nii.gz", brain(1, (20, 22, 24)))
    folder = tmp_path / "out" / "good"
    save(folder / "good_error.nii.gz", brain(1, (20, 22, 24)))
    (folder / "good_unfinished").touch()
    (folder / ".good_reconstruction.nii.gz.0123.part").touch()
    infer(tmp_path, good)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *(f"good_{kind}.nii.gz" for kind in ("reconstruction", "error", "absolute_error", "neg_log_prob")),
        *("good_latents.npz", "good_report.html", "good_reconstruction.json"),
    }
    assert np.abs(nib.load(folder / "good_error.nii.gz").get_fdata()).max() < 400


def test_resampling_warns_or_does(tmp_path, capsys):
    grid = np.meshgrid(*(np.linspace(0, 3, n) for n in (24, 26, 28)), indexing="ij")
    smooth = sum(np.sin(g) for g in grid).astype(np.float32)
    path = save(tmp_path / "a.nii.gz", smooth, voxel_size=(2.0, 2.0, 2.0))
    infer(tmp_path, path)
    warning = (
        "has voxels of 2×2 mm along the axes of a patch, where the model was trained on 1×1 mm; set resample to true"
    )
    assert warning in capsys.readouterr().out
    infer(tmp_path, path, resample=True, output_dir=str(tmp_path / "resampled"))
    assert "set resample" not in capsys.readouterr().out
    image = nib.load(tmp_path / "resampled" / "a" / "a_reconstruction.nii.gz")
    np.testing.assert_allclose(image.affine, nib.load(path).affine)
    low, high = np.percentile(smooth, [1, 99])
    np.testing.assert_allclose(image.get_fdata(), smooth.clip(low, high), atol=0.02 * (high - low))
    about = json.loads((tmp_path / "resampled" / "a" / "a_reconstruction.json").read_text())
    np.testing.assert_allclose(about["voxel_size_mm"], [1, 2, 1])


def test_a_run_decides(finished_run, cache_dir, hcp_dir, tmp_path, capsys):
    """Sizes, likelihood and kernel come from the run; another axis than its own is warned of."""
    image = next(hcp_dir.rglob("*.nii.gz"))
    given = {"run_dir": str(finished_run[1]), "input": str(image), "cache_dir": cache_dir, "device": "cpu"}
    run("inference", INFERENCE, output_dir=str(tmp_path / "a"), **given)
    assert "The model was trained on" not in capsys.readouterr().out
    (about,) = (json.loads(path.read_text()) for path in (tmp_path / "a").rglob("*_reconstruction.json"))
    assert about["settings"]["patch_size"] == [TINY["patch_size"]] * 2
    assert about["neg_log_prob"]["variance"] > 0
    assert "validation images" in about["neg_log_prob"]["about"]
    assert about["blur_width"]["missing"] is None
    (width,) = (nib.load(path).get_fdata() for path in (tmp_path / "a").rglob("*_blur_width.nii.gz"))
    assert 0 < width.min() <= width.max() <= np.hypot(2, 2)
    (surprise,) = (nib.load(path).get_fdata() for path in (tmp_path / "a").rglob("*_neg_log_prob.nii.gz"))
    (error,) = (nib.load(path).get_fdata() for path in (tmp_path / "a").rglob("*[!e]_error.nii.gz"))
    scan, variance = nib.load(image).get_fdata(), about["neg_log_prob"]["variance"]
    inside = scan < about["intensities"]["high"]
    residual = about["intensities"]["slope"] * error[inside]
    expected = 0.5 * residual**2 / variance + 0.5 * np.log(2 * np.pi * variance)
    np.testing.assert_allclose(surprise[inside], expected, rtol=1e-4, atol=1e-4)
    run("inference", INFERENCE, output_dir=str(tmp_path / "b"), slice_axis=2, **given)
    warning = "The model was trained on coronal slices, but slice_axis is 2, which makes axial ones"
    assert warning in capsys.readouterr().out


def test_a_model_of_other_channels_is_refused(tmp_path):
    from monai_blurvae.networks import BlurVAE

    sizes = {name: TINY[name] for name in ("channels", "latent_size", "kernel_size")}
    torch.save(BlurVAE(2, 3, 32, **sizes).state_dict(), tmp_path / "rgb.pt")
    good = save(tmp_path / "good.nii.gz", brain(1, (20, 22, 24)))
    settings = {"model_file": str(tmp_path / "rgb.pt"), "input": str(good), "output_dir": str(tmp_path / "out")}
    with pytest.raises(RuntimeError) as error:
        run("inference", INFERENCE, patch_size=32, device="cpu", **settings, **sizes)
    assert "channels" in str(cause(error.value))
    assert not (tmp_path / "out").exists()
