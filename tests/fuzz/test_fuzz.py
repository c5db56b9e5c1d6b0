"""Damaged and absurd input: an error of ours or a result, never another exception, a hang or much memory."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from monai_blurvae.bundle.command_line import SECTIONS, check_names
from monai_blurvae.errors import BlurVAEError, RunFolderError, user_error
from monai_blurvae.handlers.checkpoint import load_safely, save_whole
from tests.fuzz.damage import FLIPS, FUZZ, flipped


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


KNOWN = {"lr": 0.1, "channels": [4], "data_dir": "x", "run": ["$(@lr, @channels, @data_dir)"]}


@FUZZ
@given(values=st.lists(JSON, min_size=3, max_size=3))
def test_absurd_values_are_read_as_they_are_or_refused(values):
    """Whatever stands behind a key, the first step gives a config or a sentence."""
    config = {**KNOWN, **dict(zip(("lr", "channels", "data_dir"), values, strict=True))}
    steps = {"imports": ["$import monai_blurvae.bundle as blurvae"], "initialize": ["$blurvae.begin()"]}
    parser = ConfigParser(config | steps)
    try:
        parser.get_parsed_content("initialize")
    except RuntimeError as error:
        assert isinstance(user_error(error), BlurVAEError), user_error(error)


@FUZZ
@given(name=st.text(min_size=1, max_size=20).filter(lambda t: t[0] not in "_$@%" and "#" not in t and "::" not in t))
def test_unknown_names(name):
    try:
        check_names({**KNOWN, name: 1})
    except BlurVAEError as error:
        assert "is no key of this config" in str(error)
    else:
        assert name in {*KNOWN, *SECTIONS}
