"""What the report of a learned prior says."""

import numpy as np
import pytest

from monai_blurvae.files import Record
from monai_blurvae.report import write_report
from monai_blurvae.report.checks import behind_elbo, patch_collapsed
from monai_blurvae.report.record import History
from monai_blurvae.report.run import prior_charts, prior_verdict
from tests.report.html import Document
from tests.report.runs import make_run

SIGMAS = [0.01, 0.1]  # white noise of 40 and 20 dB
NETWORK = {"_target_": "monai_blurvae.networks.PatchVAE"}


def about(bank=(50.0, -7.0), psnr=(41.0, 26.0), kl=(2.0, 1.0)):
    columns = {"elbo": (49.0, -8.0), "bank": bank, "psnr": psnr, "kl": kl}
    metrics = {f"{name}_{s:g}": values[i] for name, values in columns.items() for i, s in enumerate(SIGMAS)}
    return {
        "title": "test",
        "remark": "",
        "evaluated_on": "2 patches of 1 subject",
        "sigmas": SIGMAS,
        "metrics": metrics | {f"{name}_0.02": 47.0 for name in columns},
        "examples": [{"subject": "a", "slice": 3}],
        "inference": "bank" if sum(bank) >= 41 else "importance",
        "bank": 256,
        "patch_size": 8,
        "latent_size": 12,
        "quarter_turns": 1,
    }


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        (
            {},
            [
                "The bank of 256 latents is above the ELBO at every σ, by at least 1.00 nats a patch: take the "
                "inference 'bank'.",
                "The denoiser takes out noise: the PSNR rises by 1.00 to 6.00 dB.",
            ],
        ),
        (
            {"bank": (45.5, -7.0), "psnr": (39.5, 26.0)},
            [
                "The bank of 256 latents is below the ELBO at σ = 0.01, by up to 3.50 nats a patch: take "
                "'importance', 'bank' is refused.",
                "The denoiser does harm at some σ: the PSNR changes by −0.50 to 6.00 dB.",
            ],
        ),
    ],
)
def test_the_verdict(changes, sentences):
    assert prior_verdict(about(**changes)) == sentences


def page_of(folder):
    return Document(write_report(folder).read_text(encoding="utf-8"))


def make_prior(folder, about):
    """A finished training of a prior and its test."""
    make_run(folder, network_def=NETWORK)
    images = np.linspace(0, 1, 16 * 16, dtype=np.float32).reshape(1, 16, 16)
    levels = np.stack([images, images], 1)
    patches = dict.fromkeys(("real_patches", "mean_patches", "drawn_patches"), np.zeros((20, 8, 8), np.float32))
    (folder / "test").mkdir()
    arrays = {"images": images, "noisy": levels, "denoised": levels, **patches}
    Record(arrays, about).write(folder / "test" / "denoising.npz")
    return folder


def test_a_model_that_sums_over_all_latents_has_one_log_density(tmp_path):
    text = page_of(make_prior(tmp_path / "0001", about(bank=(49.0, -8.0)) | {"latent_size": 0})).text
    assert "The density sums over all 256 latents, so that log p is exact: take the inference 'bank'." in text
    assert "log p at σ = 0.02 47.00 nats a patch" in text
    assert "ELBO at σ" not in text
    assert "ELBO (nats" not in text


@pytest.mark.parametrize(("gap", "titles"), [(1e-5, 1), (0.5, 2)])
def test_curves_of_bound_and_bank_where_they_differ(gap, titles):
    values = {f"validation/{name}_0.02": {5: 47.0, 10: 48.0 + gap * (name == "bank")} for name in ("elbo", "bank")}
    charts = prior_charts(History({name: dict(line) for name, line in values.items()}, {}))
    assert len(charts) == titles
    assert ("Best at epoch 10" in charts[0]) == (titles == 1)
    assert ("Bank minus ELBO" in charts[-1]) == (titles == 2)


def test_findings():
    assert behind_elbo(about()) is None
    found = behind_elbo(about(bank=(45.5, -7.0))).found
    assert "a mean log-density of 19.25 nats a patch" in found
    assert "is 20.50 (expected: a bank above it)." in found
    assert patch_collapsed(about()) is None
    assert "at σ = 0.01 is 0.05 nats" in patch_collapsed(about(kl=(0.05, 0.0))).found


def test_a_run_in_whatever_state(tmp_path):
    page = page_of(make_prior(tmp_path / "0001", about()))
    assert "is above the ELBO" in page.text
    assert len(page.all("img")) == 1 + 2 * 2 + 3
    page = page_of(make_run(tmp_path / "0002", network_def=NETWORK, finished=False))
    assert "There is no evaluation in" in page.text
    assert not page.all("img")
    assert "blur kernel" not in page.text


def test_a_broken_record_is_told(tmp_path):
    folder = make_run(tmp_path / "0001", network_def=NETWORK)
    (folder / "test").mkdir()
    (folder / "test" / "denoising.npz").write_bytes(b"x")
    assert "denoising.npz cannot be read" in page_of(folder).text
    Record({"images": np.zeros(1)}, {}).write(folder / "test" / "denoising.npz")
    assert "denoising.npz has no noisy; evaluate the run again." in page_of(folder).text
