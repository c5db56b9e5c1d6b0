"""Three kills of a real training; the script's default is thirty."""

import os
import subprocess
import sys

import pytest

from tests.volumes import ROOT, make_dataset


@pytest.mark.slow
def test_three_kills(tmp_path):
    make_dataset(tmp_path / "data")
    command = [sys.executable, str(ROOT / "scripts/kill_test.py"), "--dataset_dir", str(tmp_path / "data")]
    done = subprocess.run(
        [*command, "--kills", "3", "--seed", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("3 kills")
