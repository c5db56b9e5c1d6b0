"""Raw data as fastMRI and ISMRMRD write it, and scans of magnitudes."""

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_blurvae.errors import DataError, SettingsError
from monai_blurvae.priors.reconstruction import CartesianMRI, centred_fft, centred_ifft, gaussian_line_mask
from monai_blurvae.priors.reconstruction.scan import read_scan, without_oversampling
from tests.priors.phantom import head
from tests.priors.raw_data import header, line, write_fastmri, write_ismrmrd

pytest.importorskip("h5py")


def oversampled(coils=2, slices=2):
    """k-space ``(slices, coils, 96, 40)`` of heads in a field of view that is twice as high; and the heads."""
    images = head(slices=slices).expand(slices, coils, 48, 40) * torch.tensor([1.0, 0.5j])[:coils, None, None]
    tall = torch.zeros(slices, coils, 96, 40, dtype=torch.complex64)
    tall[:, :, 24:72] = images
    return centred_fft(tall), images


@pytest.mark.parametrize(("size", "wanted"), [(96, 48), (9, 5), (9, 4), (8, 5), (8, 4)])
def test_oversampling_is_cropped_around_the_centre(size, wanted):
    image = torch.randn(1, 1, size, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    cropped = centred_ifft(without_oversampling(centred_fft(image), wanted))
    first = size // 2 - wanted // 2
    torch.testing.assert_close(cropped, image[..., first : first + wanted, :], atol=1e-5, rtol=0)


def test_noise_keeps_its_level_without_oversampling():
    noise = torch.randn(4, 1, 128, 32, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    assert without_oversampling(noise, 64).abs().square().mean() == pytest.approx(1, rel=0.05)


def test_fastmri(tmp_path):
    kspace, images = oversampled()
    scan = read_scan(write_fastmri(tmp_path / "a.h5", kspace.numpy(), header()))
    torch.testing.assert_close(centred_ifft(scan.kspace), images, atol=1e-5, rtol=0)
    assert scan.fully_sampled
    assert scan.reference is None
    np.testing.assert_allclose(scan.affine, np.diag([2.0, 2.0, 5.0, 1.0]))
    fewer = read_scan(tmp_path / "a.h5", acceleration=2, centre_lines=9)
    mask = gaussian_line_mask(40, 2, 9)
    assert torch.equal(fewer.lines[1].float(), mask)
    operator = CartesianMRI(mask, (48, 40))
    torch.testing.assert_close(fewer.kspace[:, :1], operator.forward(images[:, :1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(fewer.reference, images.abs().square().sum(1).sqrt(), atol=1e-5, rtol=0)


def test_fastmri_of_one_coil_with_a_mask(tmp_path):
    kspace, _ = oversampled(coils=1)
    mask = gaussian_line_mask(40, 3, 9).numpy().astype(bool)
    path = write_fastmri(tmp_path / "a.h5", kspace[:, 0].numpy() * mask, mask=mask.astype(np.uint8))
    scan = read_scan(path)
    assert scan.kspace.shape == (2, 1, 96, 40)  # nothing says that it is oversampled
    assert scan.lines.tolist() == [mask.tolist()] * 2
    with pytest.raises(DataError, match="has left out lines already; set acceleration to null"):
        read_scan(path, acceleration=4, centre_lines=5)


def test_fastmri_pads_lines(tmp_path):
    kspace, _ = oversampled()
    padded = kspace.clone()
    padded[..., :3], padded[..., 36:] = 0, 0
    assert read_scan(write_fastmri(tmp_path / "a.h5", padded.numpy(), header())).fully_sampled
    padded[..., 20] = 0
    assert not read_scan(write_fastmri(tmp_path / "b.h5", padded.numpy(), header())).lines[:, [0, 20, 39]].any()


def acquisitions(kspace, lines, **arguments):
    return [
        line(kspace[s, :, :, n], n, s, position=(3, 4, 7 + 6 * s), **arguments)
        for s in reversed(range(len(kspace)))
        for n in lines
    ]


def test_ismrmrd(tmp_path):
    kspace, images = oversampled()
    noise = line(np.ones((2, 96)), 0, flags=1 << 18)
    scan = read_scan(write_ismrmrd(tmp_path / "a.h5", [noise, *acquisitions(kspace.numpy(), range(40))]))
    torch.testing.assert_close(centred_ifft(scan.kspace), images, atol=1e-5, rtol=0)
    assert scan.fully_sampled
    # the centre voxel is at the position, which is in LPS, the slices are 6 mm apart
    np.testing.assert_allclose(scan.affine @ [24, 20, 1, 1], [-3, -4, 13, 1])
    np.testing.assert_allclose(scan.affine[:3, :3], [[0, -2, 0], [-2, 0, 0], [0, 0, 6]])


def test_ismrmrd_with_lines_left_out_partial_echoes_and_averages(tmp_path):
    kspace, _ = oversampled()
    lines = [2, 5, *range(12, 28), 30]
    short = [
        line(kspace[s, :, 20:, n].numpy() * factor, n, s, average=average, centre=28)
        for s in range(2)
        for n in lines
        for average, factor in ((0, 0.5), (1, 1.5))
    ]
    scan = read_scan(write_ismrmrd(tmp_path / "a.mrd", short))
    assert scan.lines[0].nonzero().flatten().tolist() == lines
    kept = kspace.clone()
    kept[:, :, :20] = 0
    expected = without_oversampling(kept, 48) * scan.lines[:, None, None, :]
    torch.testing.assert_close(scan.kspace, expected, atol=1e-5, rtol=0)


def test_ismrmrd_lines_are_counted_from_the_centre_that_the_header_names(tmp_path):
    kspace, images = oversampled(slices=1)
    shifted = [line(kspace[0, :, :, n].numpy(), n + 3) for n in range(37)]
    scan = read_scan(write_ismrmrd(tmp_path / "a.h5", shifted, header(centre=23)))
    assert not scan.lines[0, 37:].any()
    torch.testing.assert_close(scan.kspace[..., :37], centred_fft(images)[..., :37], atol=1e-5, rtol=0)


def ismrmrd(extra=(), lines=range(40), **arguments):
    def write(folder):
        kspace, _ = oversampled()
        return write_ismrmrd(folder / "a.h5", [*acquisitions(kspace.numpy(), lines), *extra], header(**arguments))

    return write


def fastmri(change, **arguments):
    def write(folder):
        kspace = oversampled()[0].numpy()
        return write_fastmri(folder / "a.h5", change(kspace), **arguments)

    return write


def nan(kspace):
    kspace[0, 0, 5, 7] = np.nan
    return kspace


def no_lines(kspace):
    kspace[1] = 0
    return kspace


ONE = np.ones((2, 96), np.complex64)
BAD = {
    "nan": (fastmri(nan), "a.h5 holds 1 NaN or infinite samples of k-space"),
    "no line": (fastmri(no_lines), "a.h5 has no sampled line in slice 1"),
    "mask": (fastmri(lambda k: k, mask=np.ones(32)), "a mask of 32 lines, but k-space has 40"),
    "axes": (fastmri(lambda k: k[0, 0]), r"kspace of shape \(96, 40\), where"),
    "twice": (ismrmrd([line(ONE, 7, 1)]), "has line 7 of slice 1 twice"),
    "coils": (ismrmrd([line(ONE[:1], 7, 1, average=1)]), "outside its k-space of 2 coils and 96×40"),
    "outside": (ismrmrd([line(ONE, 44)]), "has line 44 with 2 coils and 96 samples outside"),
    "repetitions": (ismrmrd([line(ONE, 7, repetition=1)]), "2 values of repetition, where one 2-D scan"),
    "reverse": (ismrmrd([line(ONE, 7, average=1, flags=1 << 21)]), "lines that are read in reverse"),
    "spiral": (ismrmrd(trajectory="spiral"), "is spiral, where a two-dimensional Cartesian scan"),
    "3-D": (ismrmrd(depth=16), "is three-dimensional, with 16 partitions"),
    "no acquisition": (lambda folder: write_ismrmrd(folder / "a.h5", [line(ONE, 0, flags=1 << 18)]), "no acquisition"),
    "header": (lambda folder: write_ismrmrd(folder / "a.h5", [line(ONE, 0)], b"<a>"), "cannot be understood"),
    "no HDF5": (lambda folder: (folder / "a.h5").write_bytes(b"x") and folder / "a.h5", "cannot be read as HDF5"),
    "absent": (lambda folder: folder / "b.nii.gz", "b.nii.gz does not exist"),
    "other": (lambda folder: (folder / "a.txt").write_text("x") and folder / "a.txt", "is neither HDF5"),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_bad_files(tmp_path, kind):
    write, message = BAD[kind]
    with pytest.raises(DataError, match=message) as error:
        read_scan(write(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_comes_back_in_its_own_axes(tmp_path, axis):
    array = np.random.default_rng(0).random((9, 12, 10)).astype(np.float32)
    affine = np.array([[0, 0, -1.5, 10], [-1.0, 0, 0, 20], [0, 2.0, 0, 30], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii", noise_std=0.0, slice_axis=axis)
    back, written = scan.volume(scan.reference.numpy())
    np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(written, affine)
    ras = nib.as_closest_canonical(nib.Nifti1Image(array, affine)).get_fdata()
    np.testing.assert_allclose(scan.reference.numpy(), np.moveaxis(ras, axis, 0))
    image = centred_ifft(scan.kspace)
    torch.testing.assert_close(image[:, 0].abs(), scan.reference, atol=1e-5, rtol=0)
    assert image.angle().abs().mean() > 0.1  # made complex


def test_simulated_noise_is_that_of_the_units_of_the_volume(tmp_path):
    array = 1000 * head(64, 40)[0, 0, :, :, None].expand(64, 40, 4).numpy()
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array), np.eye(4)), tmp_path / "a.nii")
    arguments = {"slice_axis": 2, "coils": 3}
    clean = read_scan(tmp_path / "a.nii", noise_std=0.0, **arguments)
    scan = read_scan(tmp_path / "a.nii", noise_std=0.02, **arguments)
    expected = 0.02 * np.percentile(array, 99)
    assert scan.noise_std == pytest.approx(expected)
    assert (scan.kspace - clean.kspace).real.std() == pytest.approx(expected, rel=0.05)
    assert scan.kspace.shape == (4, 3, 64, 40)


@pytest.mark.parametrize("value", [-1.0, np.inf])
def test_no_magnitude(tmp_path, value):
    array = np.ones((8, 8, 8), np.float32)
    array[0, 0, 0] = value
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(DataError, match="where the magnitudes of an MR image, finite and not negative, are expected"):
        read_scan(tmp_path / "a.nii")


def test_what_splines_left_below_zero_is_zero(tmp_path, caplog):
    array = np.random.default_rng(0).uniform(0.5, 1, (8, 8, 8)).astype(np.float32)
    array[0, 0, 0] = 0
    for name, value in (("a", -0.2), ("b", 0.0)):
        array[1, 1, 1] = value
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii")
    scans = [read_scan(tmp_path / f"{name}.nii", noise_std=0.0) for name in ("a", "b")]
    torch.testing.assert_close(scans[0].kspace, scans[1].kspace, rtol=0, atol=0)
    assert "a.nii holds values down to -0.2, as resampling leaves them beside bright edges: 0 is taken." in caplog.text


def test_acceleration_that_leaves_too_few_lines(tmp_path):
    kspace, _ = oversampled()
    path = write_fastmri(tmp_path / "a.h5", kspace.numpy())
    with pytest.raises(SettingsError, match=r"a.h5: acceleration 4 leaves 10 of 40 lines"):
        read_scan(path, acceleration=4)
