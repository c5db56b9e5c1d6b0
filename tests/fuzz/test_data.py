"""Damaged images and stores: an error of ours or a result, never another exception, a hang or much memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_blurvae.data import VolumeStore
from monai_blurvae.errors import DataError
from tests.fuzz.damage import FLIPS, FUZZ, flipped
from tests.pipelines import prepare
from tests.volumes import brain, save


@FUZZ
@given(flips=FLIPS, suffix=st.sampled_from([".nii", ".nii.gz"]))
@pytest.mark.filterwarnings("ignore")
def test_damaged_nifti_headers(tmp_path, bounded_memory, flips, suffix):
    path = save(tmp_path / "whole.nii", brain(shape=(24, 20, 22)))
    content = flipped(path.read_bytes(), flips, span=352)
    damaged = tmp_path / f"damaged{suffix}"
    damaged.write_bytes(content if suffix == ".nii" else __import__("gzip").compress(content, 1))
    try:
        array = VolumeStore(tmp_path / "cache", prepare(), 1).add(damaged, "a").slices()
    except DataError as error:
        assert "damaged.nii" in str(error)
    else:
        assert np.isfinite(array).all()
        assert array.min() >= -1
        assert array.max() <= 1


@FUZZ
@given(flips=FLIPS, keep=st.floats(0, 1))
@pytest.mark.filterwarnings("ignore")
def test_damaged_compressed_volumes(tmp_path, bounded_memory, flips, keep):
    content = save(tmp_path / "whole.nii.gz", brain(shape=(24, 20, 22))).read_bytes()
    damaged = tmp_path / "damaged.nii.gz"
    damaged.write_bytes(flipped(content, flips)[: 1 + int(keep * len(content))])
    try:
        VolumeStore(tmp_path / "cache", prepare(), 1).add(damaged, "a")
    except DataError as error:
        assert "damaged.nii.gz" in str(error)


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
