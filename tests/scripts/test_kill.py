"""Three kills of a real training; the script's default is thirty."""

import json
import subprocess
import sys

import pytest

from tests.commands import environment
from tests.volumes import ROOT, make_dataset


@pytest.mark.slow
def test_three_kills(tmp_path):
    make_dataset(tmp_path / "data")
    command = [sys.executable, str(ROOT / "scripts/kill_test.py"), "--dataset_dir", str(tmp_path / "data")]
    command += ["--settings", json.dumps({"yardstick_images": 64, "eval_patches_per_volume": 2})]
    done = subprocess.run(
        [*command, "--kills", "3", "--seed", "1"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("3 kills")
