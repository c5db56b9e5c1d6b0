"""Damaged and absurd input: an error of ours or a result, never another exception, a hang or much memory."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from monai_blurvae.bundle import SETTINGS, check_settings
from monai_blurvae.data import VolumeStore
from monai_blurvae.errors import BlurVAEError, DataError, RunFolderError
from monai_blurvae.handlers.checkpoint import load_safely, save_whole
from monai_blurvae.transforms import PrepareVolume
from tests.volumes import TINY, brain, save

FUZZ = settings(
    max_examples=150,
    deadline=10_000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=8)


def flipped(content, flips, span=None):
    damaged = bytearray(content)
    for where, mask in flips:
        damaged[int(where * (span or len(damaged)))] ^= mask
    return bytes(damaged)


@pytest.fixture
def bounded_memory():
    """An allocation of more than a few GB fails, in place of taking the machine down."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@FUZZ
@given(flips=FLIPS, suffix=st.sampled_from([".nii", ".nii.gz"]))
@pytest.mark.filterwarnings("ignore")
def test_damaged_nifti_headers(tmp_path, bounded_memory, flips, suffix):
    path = save(tmp_path / "whole.nii", brain(shape=(24, 20, 22)))
    content = flipped(path.read_bytes(), flips, span=352)
    damaged = tmp_path / f"damaged{suffix}"
    damaged.write_bytes(content if suffix == ".nii" else __import__("gzip").compress(content, 1))
    try:
        prepared = PrepareVolume(1)(damaged)
    except DataError as error:
        assert "damaged.nii" in str(error)
    else:
        assert np.isfinite(prepared.array).all()
        assert prepared.array.min() >= 0
        assert prepared.array.max() <= 1


@FUZZ
@given(flips=FLIPS, keep=st.floats(0, 1))
@pytest.mark.filterwarnings("ignore")
def test_damaged_compressed_volumes(tmp_path, bounded_memory, flips, keep):
    content = save(tmp_path / "whole.nii.gz", brain(shape=(24, 20, 22))).read_bytes()
    damaged = tmp_path / "damaged.nii.gz"
    damaged.write_bytes(flipped(content, flips)[: 1 + int(keep * len(content))])
    try:
        PrepareVolume(1)(damaged)
    except DataError as error:
        assert "damaged.nii.gz" in str(error)


@FUZZ
@given(flips=FLIPS, keep=st.floats(0, 1), truncate=st.booleans())
def test_damaged_checkpoints(tmp_path, bounded_memory, flips, keep, truncate):
    path = tmp_path / "checkpoint.pt"
    save_whole({"format": 1, "weights": torch.arange(100.0), "settings": {"lr": 0.1}}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))] if truncate else flipped(content, flips))
    try:
        load_safely(path)
    except RunFolderError as error:
        assert "checkpoint.pt" in str(error)


@FUZZ
@given(flips=FLIPS, keep=st.floats(0, 1), truncate=st.booleans(), suffix=st.sampled_from(["npy", "json"]))
def test_damaged_store(tmp_path, bounded_memory, flips, keep, truncate, suffix):
    source = save(tmp_path / "a.nii", brain(shape=(24, 20, 22)))
    store = VolumeStore(tmp_path / "cache", PrepareVolume(1))
    entry = store.add(source, "a")
    path = next((tmp_path / "cache" / "volumes").glob(f"*.{suffix}"))
    content = path.read_bytes()
    span = 128 if suffix == "npy" else None  # the values themselves carry no checksum
    path.write_bytes(content[: int(keep * len(content))] if truncate else flipped(content, flips, span))
    found = store.get(source, "a")
    assert found is None or found.array().shape == entry.shape
    path.write_bytes(content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20).filter(lambda t: t[:1] not in "$@%"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=6,
)


@FUZZ
@given(changes=st.dictionaries(st.sampled_from(sorted(SETTINGS)), JSON, min_size=1, max_size=4))
def test_absurd_settings(changes):
    try:
        found = check_settings(ConfigParser({**TINY, **changes}))
    except BlurVAEError as error:
        assert "--" in str(error)
    else:
        assert set(found) == set(TINY) | set(changes)


@FUZZ
@given(name=st.text(min_size=1, max_size=20).filter(lambda t: t[0] not in "_$@%" and "#" not in t and "::" not in t))
def test_unknown_names(name):
    try:
        check_settings(ConfigParser({**TINY, name: 1}))
    except BlurVAEError as error:
        assert "--" in str(error) or "is no key of this bundle" in str(error)
