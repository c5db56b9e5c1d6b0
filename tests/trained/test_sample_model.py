"""The model that comes with the package."""

import json
import zipfile

import numpy as np
import pytest

import monai_blurvae
from monai_blurvae.data import sample


def test_it_says_what_it_is_and_holds_no_path():
    assert monai_blurvae.SAMPLE_MODEL.stat().st_size < 4e6
    with zipfile.ZipFile(monai_blurvae.SAMPLE_MODEL) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith((".md", ".json"))}
    assert "SYNTHETIC images" in texts["hcp/docs/model_card.md"]
    assert "| PSNR (dB) | 26.54 |" in texts["hcp/docs/model_card.md"]
    assert not [name for name, text in texts.items() if "/home/" in text or "/root" in text or "/tmp" in text]
    assert len(json.loads(texts["hcp/models/reference.json"])["volumes"]) == 2
    assert "synthetic0" not in texts["hcp/models/reference.json"]


@pytest.mark.slow
def test_it_reconstructs_a_subject_that_it_has_never_seen():
    """Of another seed than the sample's; its own test subjects had 26.5 ± 1.9 dB, a blank image has less than 15."""
    pytest.importorskip("nilearn")
    model = monai_blurvae.load()
    template, _ = sample._load_template()
    volume = sample._subject(template, seed=999)
    low, high = model.intensity(volume)
    patches = volume[100:164, 60:-60:20, 100:164].swapaxes(0, 1)
    made = np.stack([np.asarray(model.reconstruct(patch, intensity=(low, high))) for patch in patches])
    error = (made.clip(low, high) - patches.clip(low, high)) / (high - low)
    assert -10 * np.log10((error**2).mean()) > 23
    assert model.sample(2, seed=0).shape == (2, 1, 64, 64)
    nats = [model.log_prob(x, intensity=(low, high)).item() for x in (patches[4], np.roll(patches[4], 32, (0, 1)))]
    assert nats[0] > nats[1]  # anatomy is likelier than the same pixels with a cross through them
