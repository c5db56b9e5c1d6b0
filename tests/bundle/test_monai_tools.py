"""MONAI's own tools on a run that was packed, unzipped into an empty folder."""

import contextlib
import json
import math
import sqlite3
import zipfile
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.fl.client import MonaiAlgo, MonaiAlgoStats
from monai.fl.utils.constants import ExtraItems, FlStatistics, ModelType, WeightType
from monai.fl.utils.exchange_object import ExchangeObject
from monai.transforms import AsDiscreted, CopyItemsd, EnsureChannelFirstd, LoadImaged

from monai_blurvae.data import sample
from tests.commands import RUN, command
from tests.parallel import torchrun
from tests.volumes import HCP, ROOT, brain, make_dataset

REQUIRED = (
    *("schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task"),
    *("description", "authors", "copyright", "network_data_format"),
)
"""What MONAI's specification of a bundle's metadata demands."""

IMAGE = ("type", "format", "num_channels", "spatial_shape", "dtype", "value_range")

SCHEMA = {
    "type": "object",
    "required": list(REQUIRED),
    "properties": {
        "changelog": {"type": "object"},
        "eval_metrics": {"type": "object"},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "additionalProperties": {
                "type": "object",
                "additionalProperties": {"type": "object", "required": list(IMAGE)},
            },
        },
    },
}


@pytest.fixture(scope="module")
def packed(finished_run, tmp_path_factory):
    """The unpacked bundle of the shared tiny run."""
    work = tmp_path_factory.mktemp("packed")
    done = command(ROOT / "scripts/pack_bundle.py", finished_run[1], work / "out")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(done.stdout.strip()) as archive:
        assert all(name.startswith("hcp/") for name in archive.namelist())
        archive.extractall(work / "empty")
    return work / "empty" / "hcp"


@pytest.fixture(scope="module")
def small_sample(cache_dir):
    """The built-in sample in the cache, as a command finds it from the second time on, of volumes that take no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "_load_template", lambda: ({}, np.diag([0.7, 0.7, 0.7, 1.0])))
        patch.setattr(sample, "_subject", lambda template, seed: brain(seed).T.astype(np.float32))
        return sample.make_sample(sample.sample_dir(cache_dir))


def test_the_layout_and_nothing_of_this_machine_in_it(packed, hcp_dir):
    names = {p.relative_to(packed).as_posix() for p in packed.rglob("*") if p.is_file()}
    names_of_configs = ("train", "multi_gpu_train", "evaluate", "inference", "score", "metadata")
    configs = {f"configs/{name}.json" for name in names_of_configs} | {"configs/logging.conf"}
    models = {"models/model.pt", "models/settings.json", "models/linear.pt", "models/densities.pt"}
    docs = {"docs/README.md", "docs/model_card.md", "docs/data_license.txt"}
    assert names == {*configs, *models, *docs, "LICENSE"}
    for path in packed.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert str(hcp_dir).encode() not in content
        assert str(Path.home()).encode() not in content


def test_packing_twice_overwrites_nothing(packed, finished_run):
    out = packed.parents[1] / "out"
    done = command(ROOT / "scripts/pack_bundle.py", finished_run[1], out)
    assert done.returncode == 1
    assert done.stderr == f"error: {out / 'hcp'} is there already; choose another folder, or remove it.\n"


def test_verify_metadata(packed, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    meta = packed / "configs/metadata.json"
    monai.bundle.verify_metadata(meta_file=str(meta), filepath=str(schema))
    content = json.loads(meta.read_text())
    assert content["version"] in content["changelog"]
    assert content["pytorch_version"] == torch.__version__.split("+")[0]
    assert content["network_data_format"]["inputs"]["image"]["spatial_shape"] == [32, 32]
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps({k: v for k, v in content.items() if k != "task"}))
    with pytest.raises(ValueError, match="task"):
        monai.bundle.verify_metadata(meta_file=str(broken), filepath=str(schema))


def test_verify_net_in_out(packed, monkeypatch):
    monkeypatch.chdir(packed)
    configs = packed / "configs"
    monai.bundle.verify_net_in_out(
        "network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        device="cpu",
    )


@pytest.mark.parametrize(("config", "kind"), [("train.json", "train"), ("inference.json", "infer")])
def test_property_checks(packed, config, kind, monkeypatch, tmp_path):
    monkeypatch.chdir(packed)
    (tmp_path / "no data").mkdir()
    settings = {"dataset_dir": str(tmp_path / "no data"), "output_dir": str(tmp_path / "out")}
    workflow = ConfigWorkflow(
        config_file=str(packed / "configs" / config), workflow_type=kind, logging_file=False, **settings
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert not (tmp_path / "out").exists()


def test_load_by_monai(packed, monkeypatch):
    monkeypatch.chdir(packed)
    network = monai.bundle.load("hcp", bundle_dir=str(packed.parent), workflow_type="inference")
    weights = torch.load(packed / "models/model.pt", weights_only=True)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    x = torch.rand(2, 1, 32, 32) * 2 - 1
    assert network.eval()(x).shape == x.shape


def test_ckpt_export(packed, tmp_path, monkeypatch):
    monkeypatch.chdir(packed)
    monai.bundle.ckpt_export("network_def", filepath=str(tmp_path / "model.ts"), config_file="configs/inference.json")
    network = monai.bundle.load("hcp", bundle_dir=str(packed.parent), workflow_type="inference").eval()
    x = torch.rand(3, 1, 32, 32) * 2 - 1
    scripted = torch.jit.load(tmp_path / "model.ts")
    torch.testing.assert_close(scripted(x), network(x), rtol=0, atol=1e-5)
    assert scripted.encode(x)[0].shape == (3, 4)


@pytest.mark.slow
@pytest.mark.usefixtures("small_sample")
def test_training_evaluation_and_inference_from_the_folder_without_further_options(packed, hcp_dir, cache_dir):
    here = {"HCP_DIR": hcp_dir, "BLURVAE_CACHE_DIR": cache_dir}
    for run_id, config in (("training", "train"), ("evaluating", "evaluate"), ("inference", "inference")):
        done = command(*RUN, run_id, "--config_file", f"configs/{config}.json", cwd=packed, **here)
        assert done.returncode == 0, done.stderr[-3000:]
    assert (packed / "outputs/hcp/0001/summary.json").is_file()
    assert (packed / "evaluation/0001/metrics.csv").is_file()
    assert len(list((packed / "outputs/hcp_reconstructions").rglob("*_reconstruction.nii.gz"))) == 5
    assert len(list((packed / "outputs/hcp_reconstructions").rglob("*_neg_log_prob.nii.gz"))) == 5


ROUNDS = 3


class Start:
    """What each round begins with, and the learning rates of its iterations."""

    def __init__(self):
        self.weights, self.rates = {}, []

    def attach(self, engine):
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.rate)

    def __call__(self, engine):
        self.weights = {name: value.clone() for name, value in engine.network.state_dict().items()}

    def rate(self, engine):
        self.rates.append(engine.optimizer.param_groups[0]["lr"])


def site(bundle, data, work, name):
    settings = {"dataset_dir": str(data), "cache_dir": str(work / "cache"), "output_dir": str(work / name)}
    train = settings | {"lr_epochs": ROUNDS, "lr_warmup": 0.0}
    algo = MonaiAlgo(str(bundle), train_kwargs=train, eval_kwargs=dict(settings), send_weight_diff=False)
    algo.initialize(extra={ExtraItems.CLIENT_NAME: name})
    return algo


def federated_average(states):
    """The mean of the sites' weights, in the types that they have."""
    means = {name: torch.stack([state[name].double() for state in states]).mean(0) for name in states[0]}
    return {name: value.to(states[0][name].dtype) for name, value in means.items()}


def exchanged(weights):
    return ExchangeObject(weights=weights, weight_type=WeightType.WEIGHTS)


@pytest.mark.slow
@pytest.mark.parametrize("copied", [True, False])
def test_three_federated_rounds_on_two_sites(packed, hcp_dir, tmp_path, monkeypatch, copied):
    monkeypatch.chdir(tmp_path)
    sites = [site(packed, hcp_dir, tmp_path, "a"), site(packed, make_dataset(tmp_path / "b_data", 4), tmp_path, "b")]
    starts = [Start() for _ in sites]
    for algo, start in zip(sites, starts, strict=True):
        start.attach(algo.trainer)
    weights = sites[0].get_weights(extra={}).weights
    kernels = [name for name in weights if name.startswith("kernel_generator.")]
    for _ in range(ROUNDS):
        sent = {name: value.clone() if copied else value for name, value in weights.items()}
        for algo, start in zip(sites, starts, strict=True):
            average = {name: value.clone() for name, value in sent.items()}  # the first are site a's own
            algo.train(exchanged(dict(sent)), extra={})
            for name, value in start.weights.items():  # the voxel size is the site's own
                assert torch.equal(value, torch.ones(2) if name == "voxel_size" else average[name]), name
        gathered = [algo.get_weights(extra={}).weights for algo in sites]
        assert kernels
        for name in kernels:
            assert not torch.equal(gathered[0][name], starts[0].weights[name])
            assert not torch.equal(gathered[1][name], starts[1].weights[name])
            assert not torch.equal(gathered[0][name], gathered[1][name])
        weights = federated_average(gathered)
        metrics = [algo.evaluate(exchanged(dict(weights)), extra={}).metrics for algo in sites]
        assert all(m["psnr"] > 0 for m in metrics)
    assert [algo.trainer.state.epoch for algo in sites] == [ROUNDS, ROUNDS]
    for start in starts:
        steps = len(start.rates)
        curve = [0.5e-3 * (1 + math.cos(math.pi * (i + 0.5) / steps)) for i in range(steps)]
        assert start.rates == pytest.approx(curve)
    best = sites[0].get_weights(extra={ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL})
    assert best.weights.keys() == weights.keys()
    for algo in sites:
        algo.finalize()


@pytest.mark.slow
def test_federated_statistics(packed, hcp_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HCP_DIR", str(hcp_dir))
    # MONAI's statistics are those of segmentation data: the foreground stands for the label that images here lack
    transforms = [
        LoadImaged(keys="image"),
        EnsureChannelFirstd(keys="image"),
        CopyItemsd(keys="image", names="label"),
        AsDiscreted(keys="label", threshold=1.0),
    ]
    stats = MonaiAlgoStats(str(packed), data_stats_transform_list=transforms)
    stats.initialize(extra={ExtraItems.CLIENT_NAME: "a"})
    found = stats.get_data_stats(extra={FlStatistics.HIST_BINS: 10, FlStatistics.HIST_RANGE: [0, 2000]}).statistics
    counts = {key: (part[FlStatistics.DATA_COUNT], part[FlStatistics.FAIL_COUNT]) for key, part in found.items()}
    assert counts[stats.train_data_key] == (3, 0)


@pytest.mark.slow
def test_monai_labels_overrides_train(packed, hcp_dir, tmp_path):
    items = [{"image": str(path)} for path in sorted(hcp_dir.glob(f"*/{HCP}"))]
    monai.bundle.run(
        "run",
        config_file=str(packed / "configs/train.json"),
        bundle_root=str(packed),
        dataset_dir=str(hcp_dir),
        cache_dir=str(tmp_path / "cache"),
        output_dir=str(tmp_path / "out"),
        device="cpu",
        **{
            "train#dataset#data": items[:3],
            "validate#dataset#data": items[3:],
            "train#trainer#max_epochs": 1,
            "train#dataloader#batch_size": 4,
            "validate#dataloader#batch_size": 1,
        },
    )
    run = tmp_path / "out" / "0001"
    listed = json.loads((run / "datalist.json").read_text())
    assert [len(listed[split]) for split in ("training", "validation")] == [3, 2]
    assert json.loads((run / "summary.json").read_text())["epochs"] == 1


@pytest.mark.slow
def test_two_processes_train_by_the_packed_overlay(packed, hcp_dir, cache_dir, tmp_path):
    files = str([f"configs/{name}" for name in ("train.json", "multi_gpu_train.json")])
    arguments = ("training", "--config_file", files, "--output_dir", tmp_path / "out")
    done = torchrun(*arguments, cwd=packed, HCP_DIR=hcp_dir, BLURVAE_CACHE_DIR=cache_dir)
    assert done.returncode == 0, done.stderr[-4000:]
    assert [p.name for p in (tmp_path / "out").iterdir() if p.is_dir()] == ["0001"]
    checkpoint = torch.load(tmp_path / "out/0001/checkpoint.pt", weights_only=True)
    assert checkpoint["trainer"]["iteration"] > 0


@pytest.mark.machine
@pytest.mark.parametrize("decollate", [False, True])
def test_tracking_by_mlflow(packed, hcp_dir, cache_dir, tmp_path, decollate):
    pytest.importorskip("mlflow")
    output = tmp_path / "out"
    done = command(
        *RUN, "training", "--config_file", "configs/train.json", "--tracking", "mlflow",
        "--output_dir", output, "--train#trainer#decollate", decollate, "--validate#evaluator#decollate", decollate,
        cwd=packed, extras=["tracking", "study", "sample"], HCP_DIR=hcp_dir, BLURVAE_CACHE_DIR=cache_dir,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with contextlib.closing(sqlite3.connect(output / "mlruns.db")) as database:
        tracked = {name for (name,) in database.execute("SELECT DISTINCT key FROM metrics")}
    assert tracked >= {"train_loss", "psnr", "ssim"}


@pytest.mark.parametrize("bundle", ["hcp", "hcp3d", "celeba"])
@pytest.mark.parametrize("file", ["train.json", "evaluate.json", "inference.json"])
def test_every_section_parses_without_the_first_step(bundle, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLURVAE_CACHE_DIR", str(tmp_path / "cache"))
    parser = ConfigParser(ConfigParser.load_config_file(ROOT / "bundles" / bundle / file))
    parser["channels"], parser["latent_size"] = [4, 8], 4
    steps = ("initialize", "run", "training", "preparing", "evaluating", "inference", "_meta_")
    for name, section in parser.get().items():
        if name not in steps:
            parser.get_parsed_content(name)
            for part in section if isinstance(section, dict) and "_target_" not in section else ():
                parser.get_parsed_content(f"{name}#{part}")
    assert not list(tmp_path.glob("outputs*"))
