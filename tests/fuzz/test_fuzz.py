"""Damaged and absurd input: an error of ours or a result, never another exception, a hang or much memory."""

import inspect
import re

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from monai_blurvae.command_line import SECTIONS, check_components, check_names
from monai_blurvae.errors import BlurVAEError, RunFolderError, SettingsError, user_error
from monai_blurvae.handlers.checkpoint import load_safely, save_whole
from monai_blurvae.transforms import CheckVolumed
from tests.fuzz.damage import FLIPS, FUZZ, flipped
from tests.volumes import TRAIN


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


CONFIG = ConfigParser.load_config_file(TRAIN)


@FUZZ
@given(name=st.text(min_size=1, max_size=20).filter(lambda t: t[0] not in "_$@%" and t not in {*CONFIG, *SECTIONS}))
def test_unknown_names(name):
    assume("#" not in name)
    with pytest.raises(SettingsError, match=re.escape(f"'{name}' is no key of this config")):
        check_names({**CONFIG, name: 1}, set(CONFIG))


@FUZZ
@given(name=st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12).filter(lambda t: t[0] != "_"))
def test_unknown_arguments(name):
    assume(name not in inspect.signature(CheckVolumed).parameters)
    component = {"_target_": "monai_blurvae.transforms.CheckVolumed", "keys": "image", name: 1}
    with pytest.raises(SettingsError, match=f"'train#x#{name}' is no argument of monai_blurvae"):
        check_components({"train": {"x": component}}, lambda target: CheckVolumed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20).filter(lambda t: t[:1] not in "$@%"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=6,
)
STEPS = {"imports": ["$import monai_blurvae.bundle as blurvae"], "initialize": ["$blurvae.begin()"]}


@FUZZ
@given(values=st.lists(JSON, min_size=3, max_size=3))
def test_absurd_values_are_read_as_they_are_or_refused(values):
    """Whatever stands behind a key, the first step gives a config or a sentence."""
    names = ("lr", "channels", "data_dir")
    used = {"run": [f"$({', '.join(f'@{name}' for name in names)})"]}
    parser = ConfigParser({**dict(zip(names, values, strict=True)), **used, **STEPS})
    try:
        parser.get_parsed_content("initialize")
    except RuntimeError as error:
        assert isinstance(user_error(error), BlurVAEError), user_error(error)
