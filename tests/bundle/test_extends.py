import json

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_blurvae.bundle.extends import extended
from monai_blurvae.errors import SettingsError
from tests.volumes import ROOT, TINY, TRAIN, cause, run

BUNDLES = ("hcp", "celeba", "cifar10")
SHARED_WITH_HCP = (
    *("train#trainer", "train#handlers", "train#term", "train#objective", "train#kernel_objective", "train#dataloader"),
    *("validate#evaluator", "test#evaluator", "network_def", "optimizer", "kernel_optimizer", "training"),
)


@pytest.fixture
def shared(monkeypatch):
    """Two shared configs, one of which extends the other."""
    configs = {
        "one": {"lr": 1, "train": {"loss": {"_target_": "a.A", "x": 1}, "handlers": ["first"], "epochs": 3}},
        "two": {"extends": "one", "lr": 2, "train": {"epochs": 4}},
    }
    monkeypatch.setattr("monai_blurvae.bundle.extends._shared", configs.__getitem__)


def test_the_nearest_value_wins_and_the_key_goes(shared):
    assert extended({"extends": "two", "lr": 3, "new": 5}) == {
        "lr": 3,
        "train": {"loss": {"_target_": "a.A", "x": 1}, "handlers": ["first"], "epochs": 4},
        "new": 5,
    }


def test_arguments_are_merged_and_components_replaced(shared):
    merged = extended({"extends": "one", "train": {"loss": {"x": 2}}})
    assert merged["train"] == {"loss": {"_target_": "a.A", "x": 2}, "handlers": ["first"], "epochs": 3}
    replaced = extended({"extends": "one", "train": {"loss": {"_target_": "b.B", "y": 2}}})
    assert replaced["train"]["loss"] == {"_target_": "b.B", "y": 2}


def test_handlers_are_added_after_the_shared_ones(shared):
    assert extended({"extends": "one", "train": {"handlers": ["mine"]}})["train"]["handlers"] == ["first", "mine"]


def test_null_takes_the_place_of_a_section_and_nothing_is_changed_in_place(shared):
    config = {"extends": "one", "train": None}
    assert extended(config) == {"lr": 1, "train": None}
    assert config == {"extends": "one", "train": None}


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(SettingsError, match="'extends' is 'trian', but has to be one of evaluate, "):
        extended({"extends": "trian"})


@pytest.mark.parametrize("name", BUNDLES)
def test_the_bundles_share_their_wiring(name):
    hcp, other = (
        ConfigParser(extended(ConfigParser.load_config_file(ROOT / f"bundles/{bundle}/train.json")))
        for bundle in ("hcp", name)
    )
    assert all(other[section] == hcp[section] for section in SHARED_WITH_HCP)


def test_nested_overrides_and_overlays_reach_the_shared_sections(hcp_dir, cache_dir, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("optimizer#eps: 0.001\ntrain#term:\n  _target_: monai_blurvae.losses.LaplaceLoss\n")
    settings = {**TINY, "dataset_dir": str(hcp_dir), "cache_dir": cache_dir, "train#trainer#max_epochs": 7}
    workflow = ConfigWorkflow(config_file=[TRAIN, str(overlay)], logging_file=False, **settings)
    for _ in range(2):  # MonaiAlgo initializes twice
        workflow.initialize()
        assert workflow.parser.get_parsed_content("optimizer").defaults["eps"] == 0.001
        assert type(workflow.parser.get_parsed_content("train#term")).__name__ == "LaplaceLoss"
        assert workflow.parser.get_parsed_content("train#trainer").state.max_epochs == 7
        assert len(workflow.parser["train#handlers"]) == 3


def test_a_recorded_run_stands_alone(finished_run):
    config = json.loads((finished_run[1] / "config.json").read_text())
    assert "extends" not in config
    assert len(config["train"]["handlers"]) == 3


def test_a_wrong_name_on_the_command_line(tmp_path, hcp_dir):
    with pytest.raises(RuntimeError) as error:
        run("training", TRAIN, extends="volumes", dataset_dir=str(hcp_dir), runs_dir=str(tmp_path / "runs"))
    assert "'extends' is 'volumes', but has to be one of" in str(cause(error.value))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("file", ["train.json", "evaluate.json"])
def test_a_bundles_empty_sections_are_shared_ones(name, file):
    own = ConfigParser.load_config_file(ROOT / "bundles" / name / file)
    config = extended(own)
    for section in (key for key, value in own.items() if value in ({}, [])):
        assert config[section]
    for section in (key for key, value in own.items() if isinstance(value, dict)):
        assert all(config[section][key] for key in own[section])


def test_experiment_tracking_adds_its_handlers(hcp_dir, cache_dir, tmp_path):
    tracker = {"_target_": "StatsHandler", "name": "tracker"}
    engines = {
        "trainer": {"id": "train#trainer", "handlers": "train#handlers"},
        "validator": {"id": "validate#evaluator", "handlers": "validate#handlers"},
    }
    tracking = {
        "handlers_id": engines,
        "configs": {"save_execute_config": False, "trainer": tracker, "validator": tracker},
    }
    settings = {**TINY, "dataset_dir": str(hcp_dir), "cache_dir": cache_dir, "runs_dir": str(tmp_path)}
    workflow = ConfigWorkflow(config_file=TRAIN, logging_file=False, tracking=tracking, **settings)
    workflow.initialize()
    assert workflow.parser["train#handlers"][-1] == tracker
    assert workflow.parser["validate#handlers"][-1] == tracker
    assert len(workflow.parser["train#handlers"]) == 4


@pytest.mark.parametrize("text", ["null", "None"])
def test_null_may_be_given_on_the_command_line(text):
    settings = {"volume_size": text, "gradient_clip": text, "loss": "l2", "device": "cpu"}
    workflow = ConfigWorkflow(config_file=[TRAIN, str(ROOT / "configs/paper_hcp.yaml")], logging_file=False, **settings)
    workflow.initialize()
    assert workflow.parser.get_parsed_content("volume_size") is None
    assert workflow.parser.get_parsed_content("gradient_clip") is None


def test_null_is_refused_where_nothing_is_expected_to_be_missing():
    workflow = ConfigWorkflow(config_file=TRAIN, logging_file=False, lr="null", device="cpu")
    with pytest.raises(RuntimeError) as error:
        workflow.initialize()
    assert "--lr is 'null', but has to be a positive number" in str(cause(error.value))
