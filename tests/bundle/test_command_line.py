"""The lines that a user types, in a new process, from the repository's root."""

import os
import signal
import time

import pytest
import torch

from monai_blurvae.handlers.checkpoint import load_safely
from monai_blurvae.networks import BlurVAEReconstructor
from tests.commands import BUNDLE, RUN, Forked, command, environment, options
from tests.volumes import TINY, make_dataset

TRAINING = (*RUN, "training", "--config_file", "bundles/hcp/train.json")


@pytest.mark.slow
def test_train_and_evaluate_as_typed(root):
    """The README's line and its data from $HCP_DIR, with all extras; the settings only make it small."""
    make_dataset(root / "hcp")
    here = {
        "cwd": root,
        "extras": ["all"],
        "imports": True,
        "HCP_DIR": str(root / "hcp"),
        "BLURVAE_CACHE_DIR": str(root / "cache"),
    }
    small = options(**TINY | {"max_epochs": 3, "num_workers": 2})
    done = command(*TRAINING, *small, **here)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = root / "outputs" / "hcp" / "0001"
    assert torch.load(folder / "model.pt", weights_only=True)
    assert "epoch 3/3" in done.stderr
    assert "Finished." in done.stdout

    done = command(*RUN, "evaluating", "--config_file", "bundles/hcp/evaluate.json", "--device", "cpu", **here)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "evaluation" / "0001" / "reconstructions.png").is_file()

    exported = root / "model.ts"
    done = command(
        *BUNDLE, "ckpt_export", "network_def", "--filepath", exported, "--ckpt_file", folder / "model.pt",
        "--meta_file", folder / "metadata.json", "--config_file", folder / "inference.json", cwd=root,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    # A process that has neither this package nor MONAI.
    images, result = root / "images.pt", root / "result.pt"
    torch.save(torch.rand(3, 1, 32, 32) * 2 - 1, images)
    program = (
        "import sys; sys.modules['monai_blurvae'] = sys.modules['monai'] = None\n"
        f"import torch; torch.save(torch.jit.load({str(exported)!r})(torch.load({str(images)!r})), {str(result)!r})"
    )
    done = command("-c", program, cwd=root, imports=True)
    assert done.returncode == 0, done.stderr
    eager = BlurVAEReconstructor(image_size=32, channels=(4, 8), latent_size=4, kernel_size=5)
    eager.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    torch.testing.assert_close(torch.load(result), eager.eval()(torch.load(images)), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_mistyped_key_is_one_line_and_not_zero(root):
    done = command(*TRAINING, "--max_epoch", "3", cwd=root)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "error: 'max_epoch' is no key of this config; did you mean 'max_epochs'?"
    )
    assert "Traceback" not in done.stderr
    assert not (root / "outputs").exists()


SMALL_STORE = {"cache_dir": "cache", "patch_size": 32, "channels": "[4,8]", "kernel_size": 5, "device": "cpu"}


@pytest.mark.slow
def test_preparing(root):
    make_dataset(root / "data")
    line = [*RUN, "preparing", *TRAINING[-2:], *options(dataset_dir="data", **SMALL_STORE)]
    done = command(*line, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "5 files are ready." in done.stdout
    assert len(list((root / "cache" / "volumes").glob("*.json"))) == 5
    (root / "data" / "100" / "T1w" / "T1w_acpc_dc_restore_brain.nii.gz").write_bytes(b"")
    done = command(*line, cwd=root)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")


@pytest.mark.slow
def test_two_processes_build_one_store_together(root):
    make_dataset(root / "data")
    line = [*RUN, "preparing", *TRAINING[-2:], *options(dataset_dir="data", **SMALL_STORE)]
    with (root / "log.txt").open("w") as log:
        both = [Forked(line, root, environment(), log, log) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    volumes = root / "cache" / "volumes"
    assert len(list(volumes.glob("*.json"))) == 5
    assert not list(volumes.rglob("*.part*"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "run_dir", "output_dir"), [("a#b", "./1e3", "./1200"), ("1200", "./a#b", "./1e3")])
def test_folders_with_awkward_names_and_a_tilde_after_an_equals_sign(root, name, run_dir, output_dir):
    make_dataset(root / name)
    small = options(**TINY | {"max_epochs": 1, "cache_dir": "cache", "gradient_clip": "null", "lr": "1e-3"})
    done = command(*TRAINING, *small, f"--dataset_dir=~/{name}", "--run_dir", run_dir, cwd=root, HOME=root)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (root / run_dir / "summary.json").is_file()
    done = command(
        *RUN, "inference", "--config_file", "bundles/hcp/inference.json", "--run_dir", run_dir,
        "--dataset_dir", f"./{name}", "--output_dir", output_dir, "--device", "cpu", cwd=root,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((root / output_dir).rglob("*_reconstruction.nii.gz"))) == 5


@pytest.mark.slow
@pytest.mark.parametrize("where", ["bundle folder", "absolute path"])
def test_from_elsewhere(root, where):
    make_dataset(root / "data")
    small = options(**TINY | {"max_epochs": 1, "cache_dir": root / "cache", "dataset_dir": root / "data"})
    folder = root / "bundles" / "hcp" if where == "bundle folder" else root / "data"
    config = "train.json" if where == "bundle folder" else root / "bundles" / "hcp" / "train.json"
    done = command(*RUN, "training", "--config_file", config, *small, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    names = {p.name for p in (folder / "outputs" / "hcp" / "0001").iterdir()}
    assert names >= {"config.json", "inference.json", "metadata.json", "logging.conf"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_process_group_ends_the_run_with_a_checkpoint(root, number):
    """As ``timeout`` and a terminal send it: the workers get it too, and must not die before the checkpoint."""
    make_dataset(root / "data")
    small = {
        **TINY,
        "max_epochs": 10_000,
        "num_workers": 2,
        "dataset_dir": "data",
        "cache_dir": "cache",
        "run_dir": "run",
    }
    with (root / "log.txt").open("w") as log:
        process = Forked([*TRAINING, *options(**small)], root, environment(), log, log, new_session=True)
    deadline = time.monotonic() + 300
    while not (root / "run" / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, number)
    assert process.wait(timeout=120) == 128 + number, (root / "log.txt").read_text()[-3000:]
    assert "Traceback" not in (root / "log.txt").read_text()
    assert load_safely(root / "run" / "checkpoint.pt")["trainer"]["iteration"] > 0
