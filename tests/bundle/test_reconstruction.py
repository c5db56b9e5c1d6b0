"""Whole files, from k-space or magnitudes to NIfTI and tables, by the bundle."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_blurvae.bundle import report_reconstructions
from monai_blurvae.errors import DataError, RunFolderError, SettingsError
from monai_blurvae.priors.reconstruction import (
    AnnealedLangevin,
    HalfQuadraticSplitting,
    RealLeastSquares,
    ScanReconstructor,
    ZeroFilled,
    centred_fft,
    simulate_coil_maps,
)
from monai_blurvae.priors.reconstruction.reconstructor import find_files, named_folders
from monai_blurvae.report import write_reconstructions
from tests.priors.gaussian import GaussianPrior, power_law
from tests.priors.phantom import head
from tests.priors.raw_data import write_fastmri
from tests.report.html import Document
from tests.volumes import ROOT, cause, run, save

RECONSTRUCT = str(ROOT / "bundles/patch_prior/reconstruct.json")
PRIOR = "$__import__('tests.bundle.test_reconstruction', fromlist=['']).prior()"
SCAN = {"acceleration": 2, "centre_lines": 9, "slice_axis": 2}
AFFINE = np.array([[0, -2.0, 0, 10], [2.0, 0, 0, 20], [0, 0, 3.0, 30], [0, 0, 0, 1]])


def prior():
    return GaussianPrior(power_law(40, 48, 2.0, 1e-3, torch.float32), imaginary_std=0.02)


def volume(path, slices=3, first_empty=False):
    """Axial slices of 40×48 in RAS, stored turned."""
    array = 500 * head(48, 40, slices)[:, 0].permute(1, 2, 0).numpy()
    if first_empty:
        array[:, :, 0] = 0
    return save(path, array.astype(np.float32), affine=AFFINE)


def method():
    return HalfQuadraticSplitting(prior(), 10)


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_volume_by_the_bundle(tmp_path):
    path = volume(tmp_path / "in" / "a.nii.gz")
    settings = {"input": str(path), "output_dir": str(tmp_path / "out"), "prior": PRIOR, "device": "cpu"}
    run("reconstructing", RECONSTRUCT, **settings, **SCAN, steps=10)
    folder = tmp_path / "out" / "a"
    assert sorted(p.name for p in folder.iterdir()) == [
        *("a_error.nii.gz", "a_reconstruction.nii.gz", "a_zero_filled.nii.gz", "convergence.csv", "metrics.csv"),
        *("reconstruction.npz", "settings.json"),
    ]
    image = nib.load(folder / "a_reconstruction.nii.gz")
    true = nib.load(path)
    np.testing.assert_allclose(image.affine, true.affine)
    assert image.shape == true.shape
    error = image.get_fdata() - true.get_fdata()
    np.testing.assert_allclose(nib.load(folder / "a_error.nii.gz").get_fdata(), error, atol=1e-3)
    rows = table(folder / "metrics.csv")
    assert [(row["slice"], row["method"]) for row in rows] == [
        (index, name) for name in ("zero_filled", "reconstruction") for index in ("0", "1", "2", "mean")
    ]
    for index in range(3):
        nmse = np.square(error[..., index]).sum() / np.square(true.get_fdata()[..., index]).sum()
        assert float(rows[4 + index]["nmse"]) == pytest.approx(nmse, rel=1e-3)
        psnr = 10 * np.log10(500**2 / np.square(error[..., index]).mean())
        assert float(rows[4 + index]["psnr"]) == pytest.approx(psnr, rel=1e-3)
    assert float(rows[7]["psnr"]) > float(rows[3]["psnr"]) + 1


def test_the_config_parses_alone_and_needs_an_input(tmp_path):
    with pytest.raises(RuntimeError) as error:
        run("reconstructing", RECONSTRUCT, prior=PRIOR, output_dir=str(tmp_path / "out"))
    assert str(cause(error.value)) == "there is no input; give HDF5 files with k-space, or volumes."
    with pytest.raises(RuntimeError) as error:
        run("reconstructing", RECONSTRUCT, prior=PRIOR, output_dir=str(tmp_path / "out"), acelleration=3)
    assert "did you mean 'acceleration'" in str(cause(error.value))
    assert not (tmp_path / "out").exists()


def test_what_was_cut_off_goes_on(tmp_path):
    """The same volume with and without an interruption; slices that are there are not made again."""
    path = volume(tmp_path / "a.nii.gz")
    calls = []

    def counting(stop):
        def reconstruct(kspace, operator, noise_std=0.0, phase=None):
            if len(calls) == stop:
                raise KeyboardInterrupt
            calls.append(1)
            return RealLeastSquares(5)(kspace, operator)

        reconstruct.iterations = 5
        return reconstruct

    with pytest.raises(KeyboardInterrupt):
        ScanReconstructor(counting(2), path, tmp_path / "out", SCAN).run()
    assert not (tmp_path / "out" / "a" / "a_reconstruction.nii.gz").exists()
    ScanReconstructor(counting(None), path, tmp_path / "out", SCAN).run()
    assert len(calls) == 3
    ScanReconstructor(counting(None), path, tmp_path / "whole", SCAN).run()
    folders = [tmp_path / name / "a" for name in ("out", "whole")]
    for name in ("metrics.csv", "settings.json"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1
    images = [nib.load(folder / "a_reconstruction.nii.gz").get_fdata() for folder in folders]
    np.testing.assert_array_equal(*images)


def test_the_convergence_outlasts_an_interruption(tmp_path):
    """The figures of finished slices are kept, and are those of the images that every step had."""
    path, scan, stopped = volume(tmp_path / "a.nii.gz", 2), SCAN | {"noise_std": 0.0}, []

    class Stopping(HalfQuadraticSplitting):
        def __call__(self, kspace, operator, noise_std=0.0, phase=None, watcher=None):
            if len(stopped) == 1:
                raise KeyboardInterrupt
            stopped.append(1)
            return super().__call__(kspace, operator, noise_std, phase, watcher)

    with pytest.raises(KeyboardInterrupt):
        ScanReconstructor(Stopping(prior(), 4), path, tmp_path / "out", scan).run()
    assert not (tmp_path / "out" / "a" / "convergence.csv").exists()
    stopped.extend([1, 1])
    ScanReconstructor(Stopping(prior(), 4), path, tmp_path / "out", scan).run()
    rows = table(tmp_path / "out" / "a" / "convergence.csv")
    assert [(row["slice"], row["step"]) for row in rows] == [(i, str(step)) for i in "01" for step in range(5)]
    assert rows[0]["change"] == rows[5]["change"] == ""
    assert float(rows[0]["residual"]) < 1e-5  # one coil, zero-filled: the samples themselves
    zero_filled = {row["slice"]: row["psnr"] for row in table(tmp_path / "out" / "a" / "metrics.csv")[:2]}
    for row in rows[::5]:
        assert float(row["psnr"]) == pytest.approx(float(zero_filled[row["slice"]]), rel=1e-4)
    assert all(0 < float(row["change"]) < 1 for row in rows if row["step"] != "0")


def test_the_page(tmp_path):
    """Pictures, scales, table, curves and settings of every file, and of what was reconstructed before."""
    pytest.importorskip("matplotlib")
    sampler = AnnealedLangevin(prior(), 2, 1)
    for name in "ab":
        path = volume(tmp_path / f"{name}.nii.gz", 2)
        ScanReconstructor(method(), path, tmp_path / "out", SCAN, sampler=sampler, samples=2).run()
    report_reconstructions(tmp_path / "out")
    page = Document((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert [entry["href"] for entry in page.all("a")][:2] == ["#section-1", "#section-2"]
    alts = [image["alt"] for image in page.all("img")]
    for kind in ("zero-filled", "reconstruction", "fully sampled", "error", "uncertainty"):
        assert sum(alt.startswith(f"{kind}: slice") for alt in alts) == 2 * 2
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert len([svg for svg in page.all("svg") if "step" in svg["aria-label"].lower()]) == 2 * 3
    mean = table(tmp_path / "out" / "a" / "metrics.csv")[-1]
    for text in (
        f"→ {float(mean['psnr']):.4g}",
        "Error, where white is 1",
        "0.1 to 0.007, geometric, 10 steps",
        "of the simulation",
        "none, one coil",
        "the image of each step, through a Gaussian of 16 cycles",
        "24 of 48 lines",
    ):
        assert text in page.text


def test_a_page_is_no_reason_to_fail_and_no_file_is_lost(tmp_path, caplog):
    path = volume(tmp_path / "a.nii.gz", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").write_text("mine")
    ScanReconstructor(RealLeastSquares(2), path, tmp_path / "out", SCAN).run()
    report_reconstructions(tmp_path / "out")
    assert (tmp_path / "out" / "report.html").read_text() == "mine"
    assert "report.html is there and is no report; choose another file." in caplog.text
    assert not (tmp_path / "out" / "a" / "convergence.csv").exists()  # least squares has no watcher
    (tmp_path / "out" / "report.html").unlink()
    (tmp_path / "out" / "a" / "reconstruction.npz").write_bytes(b"x")
    page = Document(write_reconstructions(tmp_path / "out").read_text(encoding="utf-8"))
    assert "reconstruction.npz cannot be read" in page.text


def test_nothing_is_overwritten(tmp_path):
    path = volume(tmp_path / "a.nii.gz", 1)
    ScanReconstructor(method(), path, tmp_path / "out", SCAN).run()
    written = {p: p.read_bytes() for p in (tmp_path / "out" / "a").iterdir()}
    ScanReconstructor(method(), path, tmp_path / "out", SCAN).run()
    for changed, message in (
        (
            ScanReconstructor(method(), path, tmp_path / "out", SCAN | {"acceleration": 3}),
            "scan acceleration was 2 and is",
        ),
        (ScanReconstructor(HalfQuadraticSplitting(prior(), 11), path, tmp_path / "out", SCAN), "method sigmas was"),
        (
            ScanReconstructor(ZeroFilled(), path, tmp_path / "out", SCAN),
            "method class was 'HalfQuadraticSplitting' and is",
        ),
    ):
        with pytest.raises(RunFolderError, match=message):
            changed.run()
    volume(path, 2)
    with pytest.raises(RunFolderError, match="sha256 was"):
        ScanReconstructor(method(), path, tmp_path / "out", SCAN).run()
    assert {p: p.read_bytes() for p in (tmp_path / "out" / "a").iterdir()} == written
    (tmp_path / "other" / "a").mkdir(parents=True)
    (tmp_path / "other" / "a" / "mine.txt").touch()
    with pytest.raises(RunFolderError, match="holds other files"):
        ScanReconstructor(method(), path, tmp_path / "other", SCAN).run()


def test_chosen_and_empty_slices(tmp_path):
    path = volume(tmp_path / "a.nii.gz", 3, first_empty=True)
    scan = SCAN | {"noise_std": 0.0}
    ScanReconstructor(method(), path, tmp_path / "out", scan, slices=[0, 2]).run()
    image = nib.load(tmp_path / "out" / "a" / "a_reconstruction.nii.gz").get_fdata()
    assert not image[..., :2].any()
    assert image[..., 2].any()
    assert not nib.load(tmp_path / "out" / "a" / "a_error.nii.gz").get_fdata()[..., 1].any()
    assert {row["slice"] for row in table(tmp_path / "out" / "a" / "metrics.csv")} == {"2", "mean"}
    with pytest.raises(SettingsError, match=r"slices is \[3\], but .*a.nii.gz has 3 slices, 0 to 2"):
        ScanReconstructor(method(), path, tmp_path / "three", scan, slices=[3]).run()


def test_uncertainty(tmp_path):
    path = volume(tmp_path / "a.nii.gz", 1)
    sampler = AnnealedLangevin(prior(), 3, 1)
    scan = SCAN | {"acceleration": 3}
    ScanReconstructor(method(), path, tmp_path / "out", scan, sampler=sampler, samples=3).run()
    deviation = nib.load(tmp_path / "out" / "a" / "a_std.nii.gz").get_fdata()
    assert deviation.shape == nib.load(path).shape
    assert (deviation > 0).all()
    assert {row["method"] for row in table(tmp_path / "out" / "a" / "metrics.csv")} == {"zero_filled", "reconstruction"}
    with pytest.raises(RunFolderError, match="samples was 3 and is 2 now"):
        ScanReconstructor(method(), path, tmp_path / "out", scan, sampler=sampler, samples=2).run()


def raw(path, factor=1.0, coils=3):
    """A fully sampled scan as fastMRI writes it, in small units, and its images."""
    pytest.importorskip("h5py")
    images = simulate_coil_maps(coils, (40, 48)) * head(40, 48, 2)
    noise = 0.005 * torch.randn(images.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    write_fastmri(path, (factor * (centred_fft(images) + noise)).numpy())
    return path


def test_raw_data_with_estimated_maps(tmp_path):
    """Units are arbitrary: a factor comes out as it went in."""
    pytest.importorskip("sigpy")
    for name, factor in (("a", 1.0), ("b", 1e-6)):
        path = raw(tmp_path / f"{name}.h5", factor)
        scan = {"acceleration": 2, "centre_lines": 13}
        ScanReconstructor(method(), path, tmp_path / "out", scan, noise_std=0.0035 * factor).run()
    results = [nib.load(tmp_path / "out" / n / f"{n}_reconstruction.nii.gz").get_fdata() for n in "ab"]
    np.testing.assert_allclose(results[1] * 1e6, results[0], atol=2e-3)
    rows = table(tmp_path / "out" / "a" / "metrics.csv")
    assert float(rows[-1]["psnr"]) > float(rows[2]["psnr"]) + 1


def test_given_maps(tmp_path):
    path = raw(tmp_path / "a.h5")
    np.save(tmp_path / "maps.npy", simulate_coil_maps(3, (40, 48))[0].numpy())
    scan = {"acceleration": 2, "centre_lines": 13}
    ScanReconstructor(method(), path, tmp_path / "out", scan, coil_maps=tmp_path / "maps.npy").run()
    assert (tmp_path / "out" / "a" / "metrics.csv").is_file()
    for maps in (simulate_coil_maps(2, (40, 48))[0].numpy(), simulate_coil_maps(3, (40, 40))[0].numpy(), np.ones(3)):
        np.save(tmp_path / "other.npy", maps)
        with pytest.raises(DataError, match=r"other.npy holds .* is expected; give its own maps"):
            ScanReconstructor(method(), path, tmp_path / "bad", scan, coil_maps=tmp_path / "other.npy").run()
    (tmp_path / "other.npy").write_bytes(b"x")
    with pytest.raises(DataError, match="cannot be read as"):
        ScanReconstructor(method(), path, tmp_path / "worse", scan, coil_maps=tmp_path / "other.npy").run()


def test_undersampled_raw_data_has_no_table(tmp_path):
    pytest.importorskip("h5py")
    mask = np.zeros(48, bool)
    mask[::3], mask[19:29] = True, True
    kspace = centred_fft(head(40, 48, 1).to(torch.complex64)).numpy()[:, 0] * mask
    write_fastmri(tmp_path / "a.h5", kspace, mask=mask)
    folders = ScanReconstructor(method(), tmp_path / "a.h5", tmp_path / "out").run()
    assert folders == [tmp_path / "out" / "a"]
    assert sorted(p.name for p in folders[0].iterdir()) == [
        *("a_reconstruction.nii.gz", "a_zero_filled.nii.gz", "convergence.csv", "reconstruction.npz", "settings.json")
    ]
    assert json.loads((folders[0] / "settings.json").read_text())["method"]["prior"]["weights"]


def test_files_and_their_folders(tmp_path):
    for name in ("a.nii.gz", "a.h5", "b.mrd"):
        (tmp_path / name).touch()
    pattern = str(tmp_path / "*.h5")
    found = find_files([tmp_path / "b.mrd", pattern, pattern, str(tmp_path / "a.nii.gz")])
    assert [path.name for path in found] == ["b.mrd", "a.h5", "a.nii.gz"]
    assert list(named_folders(found).values()) == ["b", "a", "a_2"]
    with pytest.raises(DataError, match=r"c\*.h5 does not exist"):
        find_files(str(tmp_path / "c*.h5"))
