"""What stands in several config files, as in the model zoo, and must agree."""

import pytest
from monai.bundle import ConfigParser

from monai_blurvae.runs.configs import MULTI_GPU, in_one_process
from tests.volumes import ROOT, TRAIN

CONFIGS = {
    (bundle, file): ConfigParser.load_config_file(ROOT / "bundles" / bundle / f"{file}.json")
    for bundle in ("hcp", "hcp3d", "celeba")
    for file in ("train", "evaluate", "inference")
}
BUNDLE_SECTIONS = ("network_def", "network", "optimizer", "kernel_optimizer", "checkpoint", "run_folder")
TRAIN_SECTIONS = ("term", "objective", "kernel_objective", "dataloader", "inferer", "trainer", "preprocessing")
SETTINGS = (
    "architecture",
    "channels",
    "latent_size",
    "kernel_size",
    "wiener_c",
    "beta",
    "lr",
    "batch_size",
    "precision",
)


@pytest.mark.parametrize("section", BUNDLE_SECTIONS + SETTINGS)
def test_the_bundles_train_the_same_model_alike(section):
    assert CONFIGS["hcp", "train"][section] == CONFIGS["celeba", "train"][section]


@pytest.mark.parametrize("section", TRAIN_SECTIONS)
def test_the_bundles_train_alike(section):
    assert CONFIGS["hcp", "train"]["train"][section] == CONFIGS["celeba", "train"]["train"][section]


def test_the_bundles_have_the_same_handlers_but_for_the_voxel_size():
    hcp, celeba = (CONFIGS[bundle, "train"]["train"]["handlers"] for bundle in ("hcp", "celeba"))
    assert [h for h in hcp if "VoxelSize" not in h["_target_"]] == celeba


SAME_OF_CUBES = {"architecture", "latent_size", "kernel_size", "wiener_c", "beta", "lr", "precision", "max_epochs"}


def test_cubes_are_trained_as_slices_are_but_for_their_dimension():
    slices, cubes = (CONFIGS[bundle, "train"] for bundle in ("hcp", "hcp3d"))
    assert {name: cubes[name] for name in SAME_OF_CUBES} == {name: slices[name] for name in SAME_OF_CUBES}
    assert cubes["network_def"] == {**slices["network_def"], "spatial_dims": 3}
    assert cubes["train"]["objective"] == {**slices["train"]["objective"], "spatial_dims": 3}
    assert cubes["kernel_optimizer"] == {**slices["kernel_optimizer"], "lr": "@kernel_lr"}
    for section in {*BUNDLE_SECTIONS} - {"network_def", "kernel_optimizer"}:
        assert cubes[section] == slices[section]
    same = {*TRAIN_SECTIONS, "handlers", "deterministic_transforms", "dataset"} - {"objective"}
    assert {name: cubes["train"][name] for name in same} == {name: slices["train"][name] for name in same}
    assert cubes["test"]["handlers"] == slices["test"]["handlers"]
    overlays = [ConfigParser.load_config_file(ROOT / f"bundles/{name}/{MULTI_GPU}") for name in ("hcp", "hcp3d")]
    assert overlays[0] == overlays[1]


def test_the_bundles_train_in_several_processes_alike_and_the_overlay_can_be_taken_off():
    hcp, celeba = (ConfigParser.load_config_file(ROOT / f"bundles/{name}/{MULTI_GPU}") for name in ("hcp", "celeba"))
    assert hcp == celeba
    train = CONFIGS["hcp", "train"]
    both = ConfigParser.load_config_files([TRAIN, str(ROOT / f"bundles/hcp/{MULTI_GPU}")])
    assert both != train
    assert in_one_process(both, train, hcp) == in_one_process(train, train, hcp) == train


@pytest.mark.parametrize("bundle", ["hcp", "hcp3d", "celeba"])
@pytest.mark.parametrize("file", ["evaluate", "inference"])
def test_images_are_prepared_alike_in_training_evaluation_and_inference(bundle, file):
    trained = CONFIGS[bundle, "train"]["train"]["deterministic_transforms"]
    assert CONFIGS[bundle, file]["deterministic_transforms"] == trained


@pytest.mark.parametrize("bundle", ["hcp", "hcp3d", "celeba"])
def test_an_evaluation_looks_at_images_as_the_validation_does(bundle):
    train, evaluate = (CONFIGS[bundle, file]["validate"] for file in ("train", "evaluate"))
    for section in ("random_transforms", "random_transform", "inferer", "key_metric"):
        assert train[section] == evaluate[section]


@pytest.mark.parametrize("bundle", ["hcp", "celeba"])
def test_the_default_is_the_papers_method(bundle):
    config = CONFIGS[bundle, "train"]
    assert config["train"]["term"] == {"_target_": "monai_blurvae.losses.WienerLoss", "c": "@wiener_c"}
    assert config["train"]["objective"]["determinant"] == "omit"
    assert (config["beta"], config["wiener_c"]) == (1.0, 0.025)
    assert config["warmup_epochs"] == {"hcp": 20, "celeba": 10}[bundle]
    paper = ConfigParser.load_config_file(ROOT / "configs" / f"paper_{bundle}.yaml")
    shared = paper.keys() & config.keys() - {"min_foreground", "lr", "lr_warmup", "lr_final"}  # ours
    assert {name: config[name] for name in shared} == {name: paper[name] for name in shared}


@pytest.mark.parametrize("config", CONFIGS, ids="/".join)
def test_every_component_stands_there_by_its_name(config):
    assert "extends" not in CONFIGS[config]

    def empty(section):
        if isinstance(section, dict):
            return not section or any(empty(value) for value in section.values())
        return isinstance(section, list) and any(empty(value) for value in section)

    assert not empty(CONFIGS[config])


def test_a_prior_is_trained_on_what_slices_are_trained_on():
    hcp, prior = (ConfigParser.load_config_file(ROOT / f"bundles/{name}/train.json") for name in ("hcp", "patch_prior"))
    for section in ("data", "network", "optimizer", "run_folder", "initialize", "preparing", "training"):
        assert prior[section] == hcp[section]
    for section in ("random_transforms", "preprocessing", "random_transform", "dataset", "dataloader"):
        assert prior["train"][section] == hcp["train"][section]
    *before, scaling = hcp["train"]["deterministic_transforms"]
    assert prior["train"]["deterministic_transforms"] == [*before, scaling | {"clip": False}]
