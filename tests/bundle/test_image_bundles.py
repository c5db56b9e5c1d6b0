"""The bundles for natural images through MONAI's own command, in this process; as typed at the end."""

import csv
import json
import logging
import sys

import monai.bundle
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from monai_blurvae.bundle.run_report import report_run
from monai_blurvae.errors import BlurVAEError
from monai_blurvae.networks import BlurVAEReconstructor
from tests.cifar import make_cifar
from tests.commands import RUN, command, options
from tests.photographs import CELEBA, CIFAR, TINY_IMAGES, make_photographs, write_partition
from tests.volumes import ROOT, cause, per_image, run

EVALUATE = str(ROOT / "bundles/celeba/evaluate.json")
INFERENCE = str(ROOT / "bundles/celeba/inference.json")
METADATA = str(ROOT / "bundles/celeba/metadata.json")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Ten colour images, six of them for training, two for validation and two for the test."""
    folder = make_photographs(tmp_path_factory.mktemp("photographs"))
    write_partition(folder, (6, 2, 2))
    return folder


@pytest.fixture(scope="module")
def image_run(photographs, cache_dir, tmp_path_factory):
    """A finished tiny training on colour images: (output_dir, the run's folder)."""
    output_dir = tmp_path_factory.mktemp("image_outputs")
    run(
        "training", CELEBA, dataset_dir=str(photographs), cache_dir=cache_dir, output_dir=str(output_dir), **TINY_IMAGES
    )
    return output_dir, output_dir / "0001"


def weights(folder):
    return torch.load(folder / "model.pt", weights_only=True)


def same_weights(a, b):
    return all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())


def test_a_run_on_colour_images_leaves_what_a_run_on_volumes_does(image_run, photographs):
    folder = image_run[1]
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
    rows = list(csv.DictReader((folder / "test" / "metrics.csv").open()))
    assert [row["image"] for row in rows] == ["000008", "000009"]
    assert "2 images." in (folder / "test" / "metrics.md").read_text()
    assert weights(folder)["encoder.blocks.0.conv.weight"].shape[1] == 3
    assert weights(folder)["voxel_size"].tolist() == [0, 0]
    listed = json.loads((folder / "datalist.json").read_text())
    assert [len(listed[split]) for split in ("training", "validation", "test")] == [6, 2, 2]
    assert json.loads((folder / "summary.json").read_text())["remark"] == ""


def test_psnr_and_ssim_are_those_of_scikit_image_over_the_channels(image_run, photographs):
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    network = BlurVAEReconstructor(in_channels=3, image_size=32, channels=(4, 8), latent_size=4, kernel_size=5).eval()
    network.load_state_dict(weights(image_run[1]))
    for row in csv.DictReader((image_run[1] / "test" / "metrics.csv").open()):
        pixels = Image.open(photographs / f"{row['image']}.png").crop((0, 2, 36, 38)).resize((32, 32), Image.LANCZOS)
        image = torch.from_numpy(np.asarray(pixels)).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            pair = [((x[0].double() + 1) / 2).clamp(0, 1).numpy() for x in (image, network(image))]
        assert float(row["psnr"]) == pytest.approx(peak_signal_noise_ratio(*pair, data_range=1), abs=1e-3)
        found = structural_similarity(
            *pair,
            data_range=1,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )[1]
        inside = found[:, 5:-5, 5:-5]  # MONAI averages where the window fits, scikit-image up to its own border
        assert float(row["ssim"]) == pytest.approx(inside.mean(), abs=1e-4)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_and_repetition_to_the_bit(image_run, photographs, cache_dir, tmp_path, workers):
    common = {**TINY_IMAGES, "dataset_dir": str(photographs), "cache_dir": cache_dir, "num_workers": workers}
    run("training", CELEBA, **common | {"max_epochs": 1}, run_dir=str(tmp_path / "cut"))
    run("training", CELEBA, **common, run_dir=str(tmp_path / "cut"), resume="true")
    assert same_weights(image_run[1], tmp_path / "cut")
    run("training", str(image_run[1] / "config.json"), output_dir=str(tmp_path / "again"))
    assert same_weights(image_run[1], tmp_path / "again" / "0001")


def test_resuming_with_other_images_is_refused(photographs, cache_dir, tmp_path):
    common = {**TINY_IMAGES, "cache_dir": cache_dir, "run_dir": str(tmp_path / "run")}
    run("training", CELEBA, **common | {"max_epochs": 1}, dataset_dir=str(photographs))
    other = make_photographs(tmp_path / "other", count=11)
    with pytest.raises(RuntimeError) as error:
        run("training", CELEBA, **common, dataset_dir=str(other), resume="true")
    assert 'data is "data with checksum' in str(cause(error.value))


def test_evaluating_with_measures_of_eight_bit_images(image_run, cache_dir, tmp_path):
    settings = {"measures": "true", "importance_samples": 2, "weights_dir": str(tmp_path), "device": "cpu"}
    run("evaluating", EVALUATE, output_dir=str(image_run[0]), cache_dir=cache_dir, **settings)
    folder = image_run[1] / "evaluation" / "0001"
    assert per_image(folder / "metrics.csv") == per_image(image_run[1] / "test" / "metrics.csv")
    content = json.loads((folder / "measures.json").read_text())
    assert (content["evaluated_on"], content["fitted_on"], content["eight_bit"]) == ("2 images", "2 images", True)
    nats, bits = (content["measures"][f"{name}_variance"]["value"] for name in ("nll", "bpd"))
    grey_levels = 3 * 32 * 32 * np.log(127.5)  # from the density on [-1, 1] to that on [0, 255]
    assert bits == pytest.approx((nats + grey_levels) / (3 * 32 * 32 * np.log(2)), rel=1e-6)


def test_inference_writes_the_reconstruction_of_each_image(image_run, photographs, tmp_path):
    settings = {"run_dir": str(image_run[1]), "device": "cpu", "batch_size": 4}
    run("inference", INFERENCE, dataset_dir=str(photographs), output_dir=str(tmp_path), **settings)
    assert sorted(p.name for p in tmp_path.rglob("*.png")) == [f"{i:06d}_reconstruction.png" for i in range(10)]
    network = BlurVAEReconstructor(in_channels=3, image_size=32, channels=(4, 8), latent_size=4, kernel_size=5).eval()
    network.load_state_dict(weights(image_run[1]))
    pixels = Image.open(photographs / "000003.png").crop((0, 2, 36, 38)).resize((32, 32), Image.LANCZOS)
    with torch.no_grad():
        expected = network(torch.from_numpy(np.asarray(pixels)).permute(2, 0, 1)[None] / 127.5 - 1)
    found = np.asarray(Image.open(next(tmp_path.rglob("000003*.png"))), dtype=float)
    np.testing.assert_allclose(found, (expected[0].permute(1, 2, 0).numpy() + 1) * 127.5, atol=1.01)


def test_export_to_torchscript_by_monai(image_run, tmp_path):
    monai.bundle.ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(image_run[1] / "model.pt"),
        meta_file=str(image_run[1] / "metadata.json"),
        config_file=str(image_run[1] / "inference.json"),
    )
    eager = BlurVAEReconstructor(in_channels=3, image_size=32, channels=(4, 8), latent_size=4, kernel_size=5).eval()
    eager.load_state_dict(weights(image_run[1]))
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(x), eager(x), rtol=0, atol=1e-5)


def test_verify_net_in_out_by_monai():
    monai.bundle.verify_net_in_out("network_def", meta_file=METADATA, config_file=INFERENCE, device="cpu")


@pytest.mark.parametrize(("file", "kind"), [("train.json", "train"), ("inference.json", "infer")])
def test_monais_property_check(file, kind, photographs, tmp_path):
    config = str(ROOT / "bundles/celeba" / file)
    settings = {"dataset_dir": str(photographs), "output_dir": str(tmp_path), "device": "cpu", "channels": [4, 8]}
    workflow = ConfigWorkflow(config_file=config, workflow_type=kind, logging_file=False, **settings)
    workflow.initialize()
    assert workflow.check_properties() == []
    assert not list(tmp_path.glob("0*"))


LOSS_OVERLAYS = sorted(str(p) for folder in ("losses", "ablations") for p in (ROOT / "configs" / folder).glob("*.yaml"))


@pytest.mark.parametrize("overlay", LOSS_OVERLAYS, ids=lambda path: path.removeprefix(str(ROOT)))
def test_overlays_build_the_objective_and_the_trainer(overlay, random_weights_dir, tmp_path):
    own = {"device": "cpu", "dataset_dir": str(tmp_path), "output_dir": str(tmp_path)}
    if overlay.endswith("vgg.yaml"):
        own["weights_dir"] = str(random_weights_dir)
    workflow = ConfigWorkflow(config_file=[CELEBA, overlay], logging_file=False, **own)
    workflow.initialize()
    assert workflow.parser.get_parsed_content("network_def").image_shape[0] == 3
    workflow.parser.get_parsed_content("train#trainer")


@pytest.mark.parametrize("overlay", ["losses/robust.yaml", "ablations/adversarial.yaml"])
@pytest.mark.parametrize("extra", [{}, {"train#term#representation": "dct", "train#term#image_size": 32}])
def test_terms_that_depend_on_the_channels(photographs, cache_dir, tmp_path, overlay, extra):
    if extra and "robust" not in overlay:
        pytest.skip("only the robust term has a representation")
    if extra:
        extra = {**extra, "train#term#channels": 3}
    files = [CELEBA, str(ROOT / "configs" / overlay)]
    settings = {**TINY_IMAGES, "max_epochs": 1, "dataset_dir": str(photographs), "cache_dir": cache_dir, **extra}
    run("training", files, run_dir=str(tmp_path / "r"), **settings)
    assert (tmp_path / "r" / "summary.json").is_file()


def test_grey_images(photographs, cache_dir, tmp_path):
    settings = {**TINY_IMAGES, "max_epochs": 1, "in_channels": 1}
    run(
        "training",
        CELEBA,
        dataset_dir=str(photographs),
        cache_dir=cache_dir,
        run_dir=str(tmp_path / "r"),
        **settings,
    )
    assert weights(tmp_path / "r")["encoder.blocks.0.conv.weight"].shape[1] == 1


def test_cifars_batches_are_trained_on_and_evaluated(cache_dir, tmp_path):
    folder = make_cifar(tmp_path / "cifar-10-batches-py")
    common = {"cache_dir": cache_dir, "output_dir": str(tmp_path / "runs")}
    run("training", CIFAR, dataset_dir=str(folder), **common, **TINY_IMAGES)
    listed = json.loads((tmp_path / "runs" / "0001" / "datalist.json").read_text())
    assert [len(listed[split]) for split in ("training", "validation", "test")] == [18, 2, 4]
    config = str(ROOT / "bundles/celeba/evaluate.json")
    run("evaluating", config, measures="true", importance_samples=1, weights_dir=str(tmp_path), **common)
    evaluated = per_image(tmp_path / "runs" / "0001" / "evaluation" / "0001" / "metrics.csv")
    assert evaluated == per_image(tmp_path / "runs" / "0001" / "test" / "metrics.csv")
    assert evaluated[0]["image"] == "test_batch#0"


def test_eval_images_limits_validation_and_test_but_not_the_list(photographs, cache_dir, tmp_path):
    settings = {**TINY_IMAGES, "eval_images": 1, "max_epochs": 1}
    run(
        "training",
        CELEBA,
        dataset_dir=str(photographs),
        cache_dir=cache_dir,
        run_dir=str(tmp_path / "r"),
        **settings,
    )
    assert len((tmp_path / "r" / "test" / "metrics.csv").read_text().splitlines()) == 2
    assert len(json.loads((tmp_path / "r" / "datalist.json").read_text())["test"]) == 2


def spoil(folder, name):
    """Cut an image file in two."""
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_training_image_stops_the_run_and_is_named(cache_dir, tmp_path, workers):
    folder = make_photographs(tmp_path / "data")
    write_partition(folder, (6, 2, 2))
    bad = spoil(folder, "000003.png")
    settings = {**TINY_IMAGES, "num_workers": workers, "dataset_dir": str(folder), "cache_dir": cache_dir}
    with pytest.raises(RuntimeError) as error:
        run("training", CELEBA, run_dir=str(tmp_path / "run"), **settings)
    shown = cause(error.value)
    assert isinstance(shown, BlurVAEError)
    assert str(shown).startswith(f"{bad} cannot be read as an image")
    assert "\n" not in str(shown)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_skipped_and_listed(cache_dir, tmp_path, workers):
    folder = make_photographs(tmp_path / "data")
    write_partition(folder, (6, 2, 2))
    bad = [str(spoil(folder, name)) for name in ("000003.png", "000008.png")]
    (folder / "notes.txt").write_text("no image")
    settings = {**TINY_IMAGES, "num_workers": workers, "dataset_dir": str(folder), "cache_dir": cache_dir}
    run("training", CELEBA, run_dir=str(tmp_path / "run"), skip_bad_files="true", **settings)
    skipped = json.loads((tmp_path / "run" / "summary.json").read_text())["skipped"]
    assert sorted(sentence.split(" ")[0] for sentence in skipped) == bad
    rows = list(csv.DictReader((tmp_path / "run" / "test" / "metrics.csv").open()))
    assert [row["image"] for row in rows] == ["000009"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_channels": 2}, "channels must be 1 (greyscale) or 3 (colour), but is 2"),
        ({"crop_size": -1}, "crop_size must be"),
        ({"eval_images": 0}, "max_images must be"),
        ({"partition_file": "nowhere.txt"}, "partition_file nowhere.txt is not there"),
        ({"dataset_dir": "nowhere"}, "nowhere is not a folder, nothing is there; give the folder that holds"),
    ],
    ids=str,
)
def test_bad_settings_stop_before_anything_is_written(photographs, cache_dir, tmp_path, settings, message):
    common = {
        "dataset_dir": str(photographs),
        "cache_dir": cache_dir,
        "output_dir": str(tmp_path / "runs"),
        **TINY_IMAGES,
    }
    with pytest.raises(RuntimeError) as error:
        run("training", CELEBA, **common | settings)
    assert message in str(cause(error.value))
    assert not list((tmp_path / "runs").glob("0*"))


def test_images_smaller_than_the_crop(photographs, cache_dir, tmp_path):
    settings = {**TINY_IMAGES, "crop_size": 38, "dataset_dir": str(photographs), "cache_dir": cache_dir}
    with pytest.raises(RuntimeError) as error:
        run("training", CELEBA, output_dir=str(tmp_path), **settings)
    assert "has 36×40 pixels, fewer than the crop_size 38; set crop_size to" in str(cause(error.value))


def test_a_fault_of_the_report_is_told_and_fails_no_run(image_run, monkeypatch, caplog):
    def fault(run_dir, evaluation_dir=None):
        raise KeyError("a chart")

    monkeypatch.setattr("monai_blurvae.bundle.run_report.write_report", fault)
    report_run(image_run[1])
    assert "No report, by a fault of the report" in caplog.text
    assert "KeyError: 'a chart'" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["celeba", "cifar10"])
def test_as_typed_without_data(root, name):
    """The line of the README, which trains on the built-in photographs and says so; the settings only make it small."""
    small = options(max_epochs=2, channels="[4,8]", latent_size=4, num_workers=2, device="cpu", yardstick_images=64)
    environment = {"BLURVAE_CACHE_DIR": str(root / "cache"), "CELEBA_DIR": "", "CIFAR10_DIR": ""}
    overlays = [] if name == "celeba" else [f"configs/{name}.yaml"]
    line = [*RUN, "training", "--config_file", str(["bundles/celeba/train.json", *overlays])]
    done = command(*line, *small, cwd=root, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = root / "outputs" / name / "0001"
    assert "built-in photographs" in (folder / "test" / "metrics.md").read_text()
    line = [*RUN, "evaluating", "--config_file", "bundles/celeba/evaluate.json", "--output_dir", f"outputs/{name}"]
    done = command(*line, cwd=root, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "built-in photographs" in (folder / "evaluation" / "0001" / "metrics.md").read_text()


@pytest.mark.slow
def test_an_error_is_one_line_for_the_user(root):
    folder = make_photographs(root / "data")
    bad = spoil(folder, "000001.png")
    small = options(**{**TINY_IMAGES, "num_workers": 2, "dataset_dir": "data"})
    done = command(
        *RUN, "training", "--config_file", "bundles/celeba/train.json", *small, cwd=root, BLURVAE_CACHE_DIR=root
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert bad.name in last
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_images_prepared_ahead_are_those_that_a_training_draws(root):
    folder = make_photographs(root / "data", count=10)
    write_partition(folder, (6, 2, 2))
    bad = spoil(folder, "000001.png")
    small = {**TINY_IMAGES, "crop_size": 36, "max_epochs": 1, "dataset_dir": "data", "cache_dir": root / "cache"}
    line = ["--config_file", "bundles/celeba/train.json", *options(**small)]
    refused = command(*RUN, "preparing", *line, cwd=root)
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1].startswith(f"error: {bad}")
    done = command(*RUN, "preparing", *line, "--skip_bad_files", "true", cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "9 files are ready." in done.stdout
    stores = sorted((root / "cache" / "images").glob("*/"))
    before = [(store / "images.npy").read_bytes() for store in stores]
    done = command(*RUN, "training", *line, "--skip_bad_files", "true", cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    assert stores == sorted((root / "cache" / "images").glob("*/"))
    assert before == [(store / "images.npy").read_bytes() for store in stores]


@pytest.mark.draws_report
def test_a_training_and_an_evaluation_end_with_a_report(image_run, cache_dir):
    assert "<h1>" in (image_run[1] / "report.html").read_text(encoding="utf-8")
    run("evaluating", EVALUATE, output_dir=str(image_run[0]), cache_dir=cache_dir, device="cpu")
    newest = max((image_run[1] / "evaluation").iterdir())
    assert "<h1>" in (newest / "report.html").read_text(encoding="utf-8")


@pytest.mark.draws_report
def test_without_matplotlib_the_run_ends_all_the_same_and_the_extra_is_named(image_run, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    logging.getLogger("monai_blurvae").propagate = True
    report_run(image_run[1])
    assert "No report: " in caplog.text
    assert "monai-blurvae[report]" in caplog.text
