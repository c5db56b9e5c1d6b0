"""The first step of every bundle: values as they were meant, mistyped keys, errors in a sentence."""

import sys

import pytest
import torch
from monai.bundle import ConfigParser

from monai_blurvae.command_line import begin, check_components, check_names
from monai_blurvae.errors import DataError, SettingsError, user_error

BEGIN = {"imports": ["$import monai_blurvae.bundle as blurvae"], "initialize": ["$blurvae.begin()"]}


def begun(config):
    """The config after its first step."""
    used = {"train": {"uses": [f"@{name}" for name in config if name != "train"]}, "run": ["$@train#uses"]}
    parser = ConfigParser({**BEGIN, **used, **config})
    parser.parse()
    parser.get_parsed_content("initialize")
    return parser


@pytest.mark.parametrize(
    ("name", "typed", "meant"),
    [
        ("lr", "1e-3", 1e-3),
        ("lr", "-2.5E+4", -2.5e4),
        ("gradient_clip", "null", None),
        ("skip_bad_files", "true", True),
        ("skip_bad_files", "False", False),
        ("dataset_dir", "1e3", "1e3"),
        ("dataset_dir", "null", None),
        ("dataset_dir", "/data/a#b", "/data/a#b"),
        ("dataset_dir", "/data/a@b", "/data/a@b"),
        ("run_dir", "/data/it's#1", "/data/it's#1"),
        ("image_pattern", "**/*.nii.gz", "**/*.nii.gz"),
        ("kernel_normalization", "none", "none"),
        ("channels", [16, "1e2"], [16, 100.0]),
    ],
)
def test_values_as_they_were_meant(name, typed, meant):
    found = begun({name: typed}).get_parsed_content(name)
    assert found == meant
    assert type(found) is type(meant)


def test_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert begun({"output_dir": "~/out#1"}).get_parsed_content("output_dir") == "/home/somebody/out#1"


def test_nested_values_too():
    parser = begun({"train": {"objective": {"beta": "1e-3", "term": "null"}}, "run": ["$@train#objective"]})
    assert parser.get_parsed_content("train#objective") == {"beta": 1e-3, "term": None}


@pytest.mark.parametrize("value", [12, 1000.0])
def test_a_path_that_was_read_as_a_number_is_refused(value):
    with pytest.raises(RuntimeError) as error:
        begun({"dataset_dir": value})
    assert f"dataset_dir was read as the number {value}, where a text is expected" in str(user_error(error.value))


@pytest.mark.parametrize("arguments", [["--run_dir", "a#b"], ["--run_dir=12#b"], ["--run_dir", "./a#b"], ["--a#b=c"]])
def test_a_value_that_was_cut_at_its_hash_is_refused(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["/x/monai/bundle/__main__.py", "run", *arguments])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    config = {"run_dir": "a"}
    if "./a#b" in arguments or "--a#b=c" in arguments:
        assert begun(config).get_parsed_content("run_dir") == "a"
        return
    with pytest.raises(RuntimeError, match="begin") as error:
        begun(config)
    assert "up to its #; write a folder as ./" in str(user_error(error.value))


def test_keys_that_turn_nothing_are_refused_with_the_nearest():
    config = {"max_epochs": 3, "train": {"trainer": {"max_epochs": "@max_epochs"}}, "run": []}
    check_names(config)
    with pytest.raises(SettingsError, match="'max_epoch' is no key of this config; did you mean 'max_epochs'"):
        check_names({**config, "max_epoch": 3})
    with pytest.raises(SettingsError, match="'train#foo' is no key of this config"):
        check_names({**config, "train": {**config["train"], "foo": 3}})


def test_monais_own_keys_are_not_refused():
    own = ("tracking_uri", "experiment_name", "run_name", "save_execute_config", "is_not_rank0", "output_dir")
    check_names(dict.fromkeys(own) | {"finalize": [], "_meta_": {}, "validate": {"sampler": None}})


def test_arguments_that_a_component_does_not_have():
    config = {"a": [{"_target_": "torch.nn.Linear", "in_features": 1, "out_feature": 2}]}
    message = "'a#0#out_feature' is no argument of torch.nn.Linear; did you mean 'out_features'"
    with pytest.raises(SettingsError, match=message):
        check_components(config, lambda target: torch.nn.Linear)
    check_components({"_target_": "x", "anything": 1, "_disabled_": True}, lambda target: lambda **kwargs: None)


def test_components_that_do_not_exist():
    with pytest.raises(RuntimeError) as error:
        begun({"optimizer": {"_target_": "torch.optim.Adamm"}})
    assert "there is no class or function 'torch.optim.Adamm'" in str(user_error(error.value))


def test_errors_of_users_are_found_behind_wrappers_and_others_are_not():
    own = DataError("x is broken; mend it.")
    wrapped = RuntimeError("Failed to evaluate")
    wrapped.__cause__ = own
    assert user_error(wrapped) is own
    assert user_error(RuntimeError("a fault")) is None
    built = RuntimeError("Failed to instantiate component 'torch.optim.Adam' with keywords: params,lr")
    built.__cause__ = TypeError("'<=' not supported between 'float' and 'str'")
    assert str(user_error(built)) == (
        "torch.optim.Adam cannot be built with these arguments: '<=' not supported between 'float' and 'str'."
    )


def test_begin_outside_a_config():
    with pytest.raises(SettingsError, match="use it in a bundle's config"):
        begin()
