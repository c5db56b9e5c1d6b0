"""Kills of a real training; the script's default is thirty."""

import json

import pytest

from tests.commands import command
from tests.volumes import ROOT, make_dataset


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.machine)])
def test_kills(tmp_path, kills):
    make_dataset(tmp_path / "data")
    settings = json.dumps({"yardstick_images": 64, "eval_patches_per_volume": 2})
    line = [ROOT / "scripts/kill_test.py", "--dataset_dir", tmp_path / "data", "--settings", settings]
    done = command(*line, "--kills", kills, "--seed", 1, imports=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{kills} kill")
