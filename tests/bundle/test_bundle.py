"""The bundle through MONAI's own command, in this process; the command line itself is in test_command_line.py."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image

from monai_blurvae.handlers.checkpoint import load_safely
from monai_blurvae.handlers.evaluation_record import EvaluationRecord
from monai_blurvae.run_files import EVALUATION_NPZ
from tests.volumes import EVALUATE, HCP, ROOT, TINY, TRAIN, brain, cause, make_dataset, run, save

INFERENCE = str(ROOT / "bundles/hcp/inference.json")


def weights(folder):
    return torch.load(folder / "model.pt", weights_only=True)


def test_a_run_leaves_model_checkpoint_tables_picture_and_record(finished_run, hcp_dir):
    _, folder = finished_run
    names = {p.name for p in folder.iterdir()}
    assert names >= {
        "model.pt",
        "checkpoint.pt",
        "config.json",
        "settings.json",
        "datalist.json",
        "summary.json",
        "versions.json",
        "test",
    }
    assert not list(folder.rglob("*.part"))
    rows = list(csv.DictReader((folder / "test" / "metrics.csv").open()))
    assert len(rows) == 2  # one test subject of five, two patches
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["epochs"] == 2
    assert summary["test"]["psnr"] == pytest.approx(np.mean([float(row["psnr"]) for row in rows]), rel=1e-4)
    assert summary["test"]["ssim"] == pytest.approx(np.mean([float(row["ssim"]) for row in rows]), rel=1e-4)
    assert "PSNR" in (folder / "test" / "metrics.md").read_text()
    assert Image.open(folder / "test" / "reconstructions.png").width > 60
    assert Image.open(folder / "test" / "samples.png").width > 60
    drawn = EvaluationRecord.read(folder / "test" / EVALUATION_NPZ).about["draws"]
    assert drawn["likelihoods"] == ["variance", "kernel", "spectrum"]
    assert (drawn["fitted_on"], drawn["missing"]) == ("2 patches of 1 subject", "")
    listed = json.loads((folder / "datalist.json").read_text())
    assert [len(listed[s]) for s in ("training", "validation", "test")] == [3, 1, 1]
    config = json.loads((folder / "config.json").read_text())
    assert config["dataset_dir"] == str(hcp_dir)
    assert config["batch_size"] == TINY["batch_size"]


def test_model_holds_no_path_and_no_subject(finished_run, hcp_dir):
    _, folder = finished_run
    content = (folder / "model.pt").read_bytes()
    assert str(hcp_dir).encode() not in content
    assert all(isinstance(value, torch.Tensor) for value in weights(folder).values())
    torch.testing.assert_close(weights(folder)["voxel_size"], torch.ones(2))


def test_tensorboard_holds_terms_metrics_and_pictures(finished_run):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(finished_run[1] / "tensorboard"))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert scalars >= {f"train/{n}" for n in ("loss", "reconstruction", "kl", "kernel_loss", "kernel_width")}
    assert scalars >= {f"validation/{n}" for n in ("psnr", "ssim", "kl", "active_units", "kernel_width")}
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2]
    assert {"input, reconstruction, sample", "kernels"} <= set(events.Tags()["images"])


def test_the_workers_change_no_weight(finished_run, hcp_dir, cache_dir, tmp_path):
    settings = TINY | {"num_workers": 2}
    run("training", TRAIN, dataset_dir=str(hcp_dir), cache_dir=cache_dir, run_dir=str(tmp_path / "run"), **settings)
    expected, found = weights(finished_run[1]), weights(tmp_path / "run")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_l2_overlay_differs_only_after_the_warm_up(hcp_dir, cache_dir, tmp_path):
    common = {"dataset_dir": str(hcp_dir), "cache_dir": cache_dir, **TINY}
    l2 = [TRAIN, str(ROOT / "configs/losses/l2.yaml")]
    run("training", l2, run_dir=str(tmp_path / "l2"), **common | {"warmup_epochs": 0})
    run("training", TRAIN, run_dir=str(tmp_path / "warm"), **common | {"warmup_epochs": 2})
    run("training", TRAIN, run_dir=str(tmp_path / "wiener"), **common)
    last = {n: load_safely(tmp_path / n / "checkpoint.pt")["objects"]["network"] for n in ("l2", "warm", "wiener")}
    vae = [n for n in last["l2"] if n.startswith(("encoder", "decoder"))]
    for name in vae:
        assert torch.equal(last["l2"][name], last["warm"][name])
    assert any(not torch.equal(last["l2"][n], last["wiener"][n]) for n in vae)


def test_a_compiled_network_has_the_same_weights_under_the_same_names(finished_run, hcp_dir, cache_dir, tmp_path):
    overlay = [TRAIN, str(ROOT / "configs/training/compile.yaml")]
    settings = TINY | {"compile_backend": "aot_eager"}  # as traced, without the compiler, which takes a minute
    run("training", overlay, dataset_dir=str(hcp_dir), cache_dir=cache_dir, run_dir=str(tmp_path / "run"), **settings)
    expected, found = weights(finished_run[1]), weights(tmp_path / "run")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_continues_as_if_nothing_had_happened(hcp_dir, cache_dir, tmp_path, workers):
    common = {"dataset_dir": str(hcp_dir), "cache_dir": cache_dir, **TINY, "num_workers": workers, "warmup_epochs": 3}
    common |= {"lr_warmup": 0.0, "lr_final": 1.0}  # the learning rate of a run of more epochs falls more slowly
    run("training", TRAIN, run_dir=str(tmp_path / "straight"), **common | {"max_epochs": 4})
    cut = {"run_dir": str(tmp_path / "cut")}
    run("training", TRAIN, **cut, **common)
    run("training", TRAIN, **cut, **common | {"max_epochs": 4}, resume="true")
    a, b = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in ("straight", "cut"))
    for name in ("network", "optimizer", "kernel_optimizer"):
        torch.testing.assert_close(a["objects"][name], b["objects"][name], rtol=0, atol=0)
    assert a["trainer"] == b["trainer"]
    assert a["validator"] == b["validator"]


def test_resume_alone_takes_the_newest_unfinished_run(hcp_dir, cache_dir, tmp_path):
    common = {"dataset_dir": str(hcp_dir), "cache_dir": cache_dir, "output_dir": str(tmp_path), **TINY}
    for _ in range(3):
        run("training", TRAIN, **common | {"max_epochs": 1})
    (tmp_path / "0002" / "summary.json").unlink()
    run("training", TRAIN, **common, resume=True)
    epochs = [json.loads((tmp_path / n / "summary.json").read_text())["epochs"] for n in ("0001", "0002", "0003")]
    assert epochs == [1, 2, 1]
    with pytest.raises(RuntimeError) as error:
        run("training", TRAIN, **common, resume="true")
    assert "holds no unfinished run to resume" in str(cause(error.value))


def test_resume_auto_starts_a_run_where_there_is_none(hcp_dir, cache_dir, tmp_path):
    common = {"dataset_dir": str(hcp_dir), "cache_dir": cache_dir, "resume": "auto", **TINY}
    for epochs in (1, 2):
        run("training", TRAIN, **common | {"max_epochs": epochs}, run_dir=str(tmp_path / "run"))
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == epochs
    run("training", TRAIN, **common, output_dir=str(tmp_path / "runs"))
    assert (tmp_path / "runs" / "0001" / "summary.json").is_file()


def test_the_recorded_config_repeats_the_run(finished_run, cache_dir, tmp_path):
    run("training", str(finished_run[1] / "config.json"), output_dir=str(tmp_path))
    expected, found = weights(finished_run[1]), weights(tmp_path / "0001")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_evaluating_takes_the_newest_finished_run(finished_run, cache_dir):
    output_dir, folder = finished_run
    run("evaluating", EVALUATE, output_dir=str(output_dir), cache_dir=cache_dir)
    again = (folder / "evaluation" / "0001" / "metrics.csv").read_text()
    assert again == (folder / "test" / "metrics.csv").read_text()
    run("evaluating", EVALUATE, output_dir=str(output_dir), cache_dir=cache_dir, split="all")
    table = (folder / "evaluation" / "0002" / "metrics.md").read_text()
    assert "10 patches of 5 subjects" in table


def test_evaluating_other_images_warns_of_their_voxel_size(finished_run, cache_dir, tmp_path, caplog):
    make_dataset(tmp_path / "other", subjects=1, voxel_size=(2.0, 1.0, 1.0))
    caplog.set_level("WARNING")
    logging_off = {"logging_file": False}
    workflow = ConfigWorkflow(
        config_file=EVALUATE,
        run_id="evaluating",
        **logging_off,
        run_dir=str(finished_run[1]),
        dataset_dir=str(tmp_path / "other"),
        cache_dir=cache_dir,
        evaluation_dir=str(tmp_path / "tables"),
    )
    workflow.initialize()
    __import__("logging").getLogger("monai_blurvae").propagate = True
    workflow.run()
    assert "1 of 1 images have voxels unlike those" in caplog.text
    assert "2×1 mm along the axes of a patch in place of 1×1 mm" in caplog.text
    assert (tmp_path / "tables" / "metrics.csv").is_file()


def test_synthetic_images_are_named_in_every_table(cache_dir, tmp_path):
    make_dataset(tmp_path / "data", subjects=3, description=b"synthetic: test")
    common = {"dataset_dir": str(tmp_path / "data"), "cache_dir": cache_dir, **TINY}
    run("run", TRAIN, run_dir=str(tmp_path / "run"), **common)  # the name that other tools of MONAI expect
    assert "SYNTHETIC" in (tmp_path / "run" / "test" / "metrics.md").read_text()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["remark"] == "SYNTHETIC images"


def test_inference_writes_volumes_in_their_own_space(finished_run, tmp_path):
    affine = np.array([[0, 0, -1.0, 10], [-1.0, 0, 0, 20], [0, 1.0, 0, 30], [0, 0, 0, 1]])
    path = save(tmp_path / "in" / "7" / HCP, brain(3), affine=affine)
    run(
        "inference",
        INFERENCE,
        dataset_dir=str(tmp_path / "in"),
        output_dir=str(tmp_path / "out"),
        run_dir=str(finished_run[1]),
        device="cpu",
    )
    (written,) = (tmp_path / "out").rglob("*_reconstruction.nii.gz")
    source, result = nib.load(path), nib.load(written)
    assert result.shape == source.shape
    np.testing.assert_allclose(result.affine, source.affine)
    values, scan = result.get_fdata(), source.get_fdata()  # a decoder ends in tanh, which scales to percentiles
    assert values.min() >= scan.min()
    assert values.max() <= scan.max()
    assert values.max() > 1


@pytest.mark.parametrize("given", ["run_dir", "model_file", "own config"])
def test_inference_knows_its_run(finished_run, hcp_dir, tmp_path, given):
    """Size, slices, channels and scaling are the run's, however it is named."""
    folder = finished_run[1]
    settings = {"dataset_dir": str(hcp_dir), "output_dir": str(tmp_path), "device": "cpu"}
    config = INFERENCE
    if given == "own config":
        config = str(folder / "inference.json")
    else:
        settings[given] = str(folder if given == "run_dir" else folder / "model.pt")
    run("inference", config, **settings)
    assert len(list(tmp_path.rglob("*_reconstruction.nii.gz"))) == 5


def test_inference_without_a_model(hcp_dir, tmp_path):
    with pytest.raises(RuntimeError) as error:
        run("inference", INFERENCE, dataset_dir=str(hcp_dir), output_dir=str(tmp_path))
    assert "there is no model; give the folder of a training as run_dir, or a model_file" in str(cause(error.value))


def test_an_option_of_another_file_is_refused(tmp_path):
    with pytest.raises(RuntimeError) as error:
        run("inference", INFERENCE, dataset_dir=str(tmp_path), max_epochs=3)
    assert "'max_epochs' is no key of this config" in str(cause(error.value))


def test_the_runs_own_configs(finished_run):
    folder = finished_run[1]
    inference = json.loads((folder / "inference.json").read_text())
    assert {name: inference[name] for name in ("patch_size", "channels", "latent_size", "kernel_size")} == {
        name: TINY[name] for name in ("patch_size", "channels", "latent_size", "kernel_size")
    }
    trained = json.loads((folder / "config.json").read_text())
    assert inference["deterministic_transforms"] == trained["train"]["deterministic_transforms"]
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [32, 32]


def test_evaluation_on_top_of_the_training(finished_run, cache_dir, tmp_path):
    files = [TRAIN, EVALUATE]
    settings = {"cache_dir": cache_dir, "run_dir": str(finished_run[1]), "evaluation_dir": str(tmp_path / "tables")}
    run("evaluating", files, **settings, device="cpu")
    tables = [folder / "metrics.csv" for folder in (tmp_path / "tables", finished_run[1] / "test")]
    assert tables[0].read_text() == tables[1].read_text()


def test_a_nested_override_and_what_really_ran(hcp_dir, cache_dir, tmp_path):
    common = {"dataset_dir": str(hcp_dir), "cache_dir": cache_dir, **TINY, "max_epochs": 1}
    nested = {"train#handlers#0#minutes": 5, "train#objective#beta": 2.0}
    run("training", TRAIN, run_dir=str(tmp_path / "run"), **common, **nested)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["train"]["handlers"][0]["minutes"] == 5
    assert config["train"]["objective"]["beta"] == 2.0


def test_any_transform_of_monai_in_either_part(hcp_dir, cache_dir, tmp_path):
    overlay = bad_yaml(
        tmp_path,
        "+train#deterministic_transforms:\n"
        "  - {_target_: Rand2DElasticd, keys: image, prob: 0.0, spacing: [9, 9], magnitude_range: [0, 1]}\n"
        "train#deterministic_transforms#5: {_target_: AdjustContrastd, keys: image, gamma: 1.2, invert_image: true}\n"
        "+train#random_transforms:\n"
        "  - {_target_: RandFlipd, keys: image, prob: 0.5, spatial_axis: 0}\n"
        "  - {_target_: RandGaussianNoised, keys: image, prob: 1.0, std: 0.01}\n",
    )
    common = {"dataset_dir": str(hcp_dir), "cache_dir": cache_dir, **TINY}
    for name, workers in (("a", 0), ("b", 2)):
        run("training", overlay, run_dir=str(tmp_path / name), **common | {"num_workers": workers})
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(first[name], second[name]) for name in first)


OVERLAYS = sorted(str(p) for p in (ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("overlay", OVERLAYS, ids=[p.removeprefix(str(ROOT)) for p in OVERLAYS])
def test_overlays_pass_the_checks_and_build_their_network(overlay, random_weights_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    of = {"crop_size": "celeba", "kernel_lr": "hcp3d"}  # by settings that these bundles alone have
    found = [of[name] for name in ConfigParser.load_config_file(overlay) if name in of]
    found += ["patch_prior"] * overlay.endswith("prior_vae.yaml")
    base = ROOT / "bundles" / (found[0] if found else "hcp") / "train.json"
    own = {"device": "cpu", "dataset_dir": str(tmp_path)}
    if overlay.endswith("vgg.yaml"):
        own["weights_dir"] = str(random_weights_dir)
    workflow = ConfigWorkflow(config_file=[str(base), overlay], logging_file=False, **own)
    parser = workflow.parser
    parser["initialize"] = ["$blurvae.begin()"]
    workflow.initialize()
    network = parser.get_parsed_content("network_def")
    settings = ConfigParser.load_config_file(overlay)
    if "channels" in settings:
        assert [block.conv.weight.shape[0] for block in network.encoder.blocks] == settings["channels"]
    parser.get_parsed_content("train#trainer")


def bad_yaml(tmp_path, text):
    path = tmp_path / "overlay.yaml"
    path.write_text(text)
    return [TRAIN, str(path)]


SETTINGS_ERRORS = [
    ({"max_epoch": 3}, "'max_epoch' is no key of this config; did you mean 'max_epochs'?"),
    ({"learning_rate": 3}, "'learning_rate' is no key of this config"),
    (
        {"train#trainer#max_epoch": 3},
        "'train#trainer#max_epoch' is no argument of monai_blurvae.engines.Blur",
    ),
    ({"train#trainer#max_epoch": 3}, "did you mean 'max_epochs'?"),
    ({"train#dataloaders": 3}, "'train#dataloaders' is no key of this config"),
    ({"train#term#_target_": "monai_blurvae.losses.L3Loss"}, "no class or function 'monai_blurvae.losses.L3Loss'"),
    ({"train#dataloader#batchsize": 3}, "unexpected keyword argument 'batchsize'"),
    ({"kernel_size": 4}, "kernel_size must be a positive odd number, but is 4"),
    ({"kernel_size": 33}, "kernel_size 33 is larger than the"),
    ({"wiener_c": 0}, "C must be a positive number, but is 0"),
    ({"patch_size": 30}, "30 cannot be halved 2 times"),
    ({"lr": "fast"}, "torch.optim.Adam cannot be built with these arguments"),
    ({"lr": -1.0}, "torch.optim.Adam cannot be built with these arguments: Invalid learning rate: -1.0"),
    ({"resume": "maybe"}, "resume must be true, false or auto, but is 'maybe'"),
    ({"device": "cuda:77"}, "device is 'cuda:77', which this machine does not offer"),
    ({"min_foreground": 2}, "min_foreground must be a share between 0 and 1, but is 2"),
    ({"slice_axis": 3}, "slice_axis must be 0 (sagittal), 1 (coronal) or 2 (axial), but is 3"),
    ({"beta": -1}, "beta must not be negative, but is -1"),
    ({"precision": "float8"}, "precision must be one of"),
    ({"train#objective#determinant": "exact"}, "detach_weight"),
    ({"dataset_dir": "/nowhere"}, "dataset_dir /nowhere is not a folder"),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS_ERRORS, ids=[str(s) for s, _ in SETTINGS_ERRORS])
def test_bad_settings_stop_before_anything_is_written(hcp_dir, cache_dir, tmp_path, settings, message):
    common = {"dataset_dir": str(hcp_dir), "cache_dir": cache_dir, "output_dir": str(tmp_path / "runs"), **TINY}
    with pytest.raises(RuntimeError) as error:
        run("training", TRAIN, **common | settings)
    assert message in str(cause(error.value))
    assert not (tmp_path / "runs").exists()


def test_a_key_that_the_users_own_overlay_refers_to_is_fine(tmp_path):
    config = bad_yaml(tmp_path, "my_momentum: 0.8\noptimizer:\n  betas: ['@my_momentum', 0.9]\n")
    workflow = ConfigWorkflow(config_file=config, logging_file=False)
    workflow.initialize()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: [1", "overlay.yaml"),
        ("lrr: 0.1", "did you mean 'lr'?"),
        ("train#term#weighting: heavy", "weighting must be one of"),
    ],
)
def test_bad_overlays(tmp_path, hcp_dir, text, message):
    with pytest.raises(Exception) as error:  # noqa: PT011  MONAI reads the file and raises what its parser raises
        run("training", bad_yaml(tmp_path, text), dataset_dir=str(hcp_dir), output_dir=str(tmp_path), **TINY)
    assert message in str(cause(error.value) or error.value)


def test_data_errors_name_the_file_and_leave_no_run(cache_dir, tmp_path):
    folder = make_dataset(tmp_path / "data", subjects=4)
    bad = folder / "101" / HCP
    bad.write_bytes(bad.read_bytes()[:3000])
    common = {"dataset_dir": str(folder), "cache_dir": cache_dir, "output_dir": str(tmp_path / "runs"), **TINY}
    with pytest.raises(RuntimeError) as error:
        run("training", TRAIN, **common)
    assert str(bad) in str(cause(error.value))
    assert not list((tmp_path / "runs").glob("*"))
    run("training", TRAIN, **common, skip_bad_files="true")
    summary = json.loads((tmp_path / "runs" / "0001" / "summary.json").read_text())
    assert len(summary["skipped"]) == 1
    assert str(bad) in summary["skipped"][0]
    assert "101" not in json.dumps(json.loads((tmp_path / "runs" / "0001" / "datalist.json").read_text())["training"])


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(finished_run, hcp_dir, cache_dir):
    folder = finished_run[1]
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    with pytest.raises(RuntimeError) as error:
        run("training", TRAIN, dataset_dir=str(hcp_dir), cache_dir=cache_dir, run_dir=str(folder), **TINY)
    assert "holds a run already" in str(cause(error.value))
    assert "resume true" in str(cause(error.value))
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_an_output_folder_that_cannot_be_written(hcp_dir, cache_dir, tmp_path):
    (tmp_path / "file").touch()  # a file where a folder should be; root may write anywhere else
    with pytest.raises(RuntimeError) as error:
        run("training", TRAIN, dataset_dir=str(hcp_dir), cache_dir=cache_dir, output_dir=str(tmp_path / "file"), **TINY)
    assert f"the folder {tmp_path / 'file'} cannot be written to" in str(cause(error.value))


def test_a_checkpoint_of_another_architecture(hcp_dir, cache_dir, tmp_path):
    common = {"dataset_dir": str(hcp_dir), "cache_dir": cache_dir, "run_dir": str(tmp_path / "run")}
    run("training", TRAIN, **common, **TINY)
    kept = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    with pytest.raises(RuntimeError) as error:
        run("training", TRAIN, **common, **TINY | {"latent_size": 6, "max_epochs": 3}, resume="true")
    assert "latent_size is 6, but the run in" in str(cause(error.value))
    assert (tmp_path / "run" / "summary.json").is_file()
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == kept


def test_nothing_to_evaluate(tmp_path):
    with pytest.raises(RuntimeError) as error:
        run("evaluating", EVALUATE, output_dir=str(tmp_path))
    assert "holds no finished run; train first" in str(cause(error.value))
