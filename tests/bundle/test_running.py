"""The config that runs, and what of it a resumed run has to share."""

import pytest
from monai.bundle import ConfigParser

from monai_blurvae.errors import SettingsError
from monai_blurvae.running import RunningConfig, flattened, is_free, references, running_config


def running(config):
    parser = ConfigParser(config)
    parser.parse()
    return RunningConfig(parser, None)


def test_leaves_by_their_ids():
    config = {"a": 1, "b": {"c": [2, {"d": 3}], "e": {}, "f": []}}
    assert flattened(config) == {"a": 1, "b#c#0": 2, "b#c#1#d": 3, "b#e": {}, "b#f": []}


def test_references_of_both_kinds_and_spellings():
    config = {"a": "$@b#c + @d::e", "f": ["%g", "plain"], "h": "@i"}
    assert set(references(config)) == {"b#c", "d#e", "g", "i"}


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("max_epochs", True),
        ("train#trainer#max_epochs", True),
        ("train#handlers#3#minutes", True),
        ("test#dataset#data", True),
        ("initialize#0", True),
        ("beta", False),
        ("train#objective#beta", False),
        ("train#handlers#3#interval", False),
        ("device_of_another_kind", False),
    ],
)
def test_what_a_resumed_run_may_change(name, free):
    assert is_free(name) is free


def test_plain_expressions_are_resolved_and_others_kept():
    config = {
        "imports": ["$import os"],
        "a": "$1 + 1",
        "b": "@a",
        "c": "$object()",
        "d": {"_target_": "torch.nn.Linear", "in_features": "@a", "out_features": 3},
        "e": "$@d.to('cpu')",
        "training": ["$1 / 0"],
    }
    assert running(config).resolved() == config | {"a": 2, "b": 2}


def test_results_depend_on_nested_ids_and_not_on_what_shows_a_run():
    progress = {"_target_": "monai_blurvae.handlers.EpochProgressHandler"}
    schedule = {"_target_": "LrScheduleHandler", "lr_scheduler": "@lr_scheduler"}
    base = {"beta": 1.0, "lr_scheduler": None, "train": {"handlers": [schedule], "objective": {"beta": "@beta"}}}
    shown = {**base, "train": {**base["train"], "handlers": [progress, schedule]}}
    other = {**base, "train": {**base["train"], "objective": {"beta": 2.0}}}
    items = running(base).result_items()
    assert items["train#objective#beta"] == "@beta"
    assert running(shown).result_items() == items
    assert running(other).result_items() != items
    assert running({**base, "max_epochs": 7}).result_items() == items


def test_an_expression_finds_its_own_config():
    parser = ConfigParser({"a": 1, "found": "$__import__('monai_blurvae.bundle').bundle.running_config()"})
    assert parser.get_parsed_content("found").parser is parser
    with pytest.raises(SettingsError, match="use it in a bundle's config"):
        running_config()
