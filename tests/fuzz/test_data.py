"""Damaged images and stores: an error of ours or a result, never another exception, a hang or much memory."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from monai_blurvae.data import VolumeStore
from monai_blurvae.errors import DataError
from tests.dicom import write_series
from tests.fuzz.damage import FLIPS, FUZZ, flipped
from tests.pipelines import prepare
from tests.volumes import brain, save

WHOLE = brain(shape=(24, 20, 22))
HEADER_BYTES = {".nii": 352, ".mgh": 284, ".nrrd": 400, ".mha": 400, ".dcm": 1500}
"""How many bytes at the beginning are the header, at most."""


def write_whole(folder, suffix, compress=False):
    """A volume in a format, and the path of the file that is damaged; for DICOM those of the folder and of a slice."""
    path = folder / f"whole{suffix}"
    if suffix == ".dcm":
        write_series(folder / "whole", WHOLE[..., :6])
        return folder / "whole", sorted((folder / "whole").iterdir())[2]
    if suffix in (".mgh", ".mgz"):
        nib.save(nib.MGHImage(WHOLE.astype(np.float32), np.eye(4)), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(WHOLE.T), str(path), compress)
    return path, path


def prepared_or_refused(folder, volume):
    """What a damaged volume has to give: finite values in their range, or a sentence that names it."""
    try:
        array = VolumeStore(folder / "cache", prepare(), 1).add(volume, "a").slices()
    except DataError as error:
        assert str(volume) in str(error)
        assert "\n" not in str(error)
    else:
        assert np.isfinite(array).all()
        assert array.min() >= -1
        assert array.max() <= 1


@FUZZ
@given(flips=FLIPS, suffix=st.sampled_from(sorted(HEADER_BYTES)))
@pytest.mark.filterwarnings("ignore")
def test_damaged_headers(tmp_path, bounded_memory, flips, suffix):
    volume, file = write_whole(tmp_path, suffix)
    file.write_bytes(flipped(file.read_bytes(), flips, span=HEADER_BYTES[suffix]))
    prepared_or_refused(tmp_path, volume)


@FUZZ
@given(flips=FLIPS, keep=st.floats(0, 1), suffix=st.sampled_from([".nii", ".nii.gz", ".mgz", ".nrrd", ".mha", ".dcm"]))
@pytest.mark.filterwarnings("ignore")
def test_damaged_files(tmp_path, bounded_memory, flips, keep, suffix):
    volume, file = write_whole(tmp_path, suffix, compress=suffix != ".nii")
    content = file.read_bytes()
    file.write_bytes(flipped(content, flips)[: 1 + int(keep * len(content))])
    prepared_or_refused(tmp_path, volume)


@FUZZ
@given(flips=FLIPS, keep=st.floats(0, 1), truncate=st.booleans(), suffix=st.sampled_from(["npy", "json"]))
def test_damaged_store(tmp_path, bounded_memory, flips, keep, truncate, suffix):
    source = save(tmp_path / "a.nii", brain(shape=(24, 20, 22)))
    store = VolumeStore(tmp_path / "cache", prepare(), 1)
    entry = store.add(source, "a")
    path = next((tmp_path / "cache" / "volumes").glob(f"*.{suffix}"))
    content = path.read_bytes()
    span = 128 if suffix == "npy" else None  # the values themselves carry no checksum
    path.write_bytes(content[: int(keep * len(content))] if truncate else flipped(content, flips, span))
    found = store.get(source, "a")
    assert found is None or found.slices().shape == entry.shape
    path.write_bytes(content)
