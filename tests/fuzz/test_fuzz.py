"""Damaged and absurd input: an error of ours or a result, never another exception, a hang or much memory."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from monai_blurvae.bundle import SETTINGS, check_settings
from monai_blurvae.errors import BlurVAEError, RunFolderError
from monai_blurvae.handlers.checkpoint import load_safely, save_whole
from tests.fuzz.damage import FLIPS, FUZZ, flipped
from tests.volumes import TINY


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
