"""Input that cannot be reconstructed, by the line that a user types: one sentence, and an exit code other than 0."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from monai_blurvae.networks import PatchVAE
from monai_blurvae.priors.reconstruction import centred_fft, gaussian_line_mask, simulate_coil_maps
from tests.priors.phantom import head
from tests.priors.raw_data import write_fastmri, write_ismrmrd
from tests.priors.reconstruction.test_scan import acquisitions
from tests.volumes import ROOT

pytest.importorskip("h5py")

SIZE = (40, 48)
LINES = gaussian_line_mask(48, 2, 13).bool().numpy()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A model as a training leaves it, as far as loading can tell."""
    network = PatchVAE(latent_size=2, hidden_size=8, bank_size=4)
    path = tmp_path_factory.mktemp("model") / "model.pt"
    torch.save(network.state_dict() | {"calibration": torch.ones(4, 3)}, path)
    return path


def kspace(coils=1):
    images = simulate_coil_maps(coils, SIZE) * head(*SIZE) if coils > 1 else head(*SIZE).to(torch.complex64)
    return centred_fft(images).numpy()


def fastmri(folder, change=lambda samples: samples, coils=1, **arguments):
    return write_fastmri(folder / "a.h5", change(kspace(coils)), **arguments)


def nan(samples):
    samples[0, 0, 3, 24] = np.nan
    return samples


def twice(folder):
    lines = acquisitions(np.ones((1, 2, 96, 40), np.complex64), range(40))
    return write_ismrmrd(folder / "a.h5", [*lines, lines[7]])


def without_centre(folder):
    lines = np.arange(48) % 3 == 1
    return fastmri(folder, lambda samples: samples * lines, mask=lines)


def maps(folder, coils, factor=1.0):
    np.save(folder / "maps.npy", factor * simulate_coil_maps(coils, SIZE)[0].numpy())
    return folder / "maps.npy"


CASES = {
    "mask of another size": (lambda f: (fastmri(f, mask=np.ones(32)), {}), "a.h5 has a mask of 32 lines, but k-space"),
    "no lines": (lambda f: (fastmri(f, mask=np.zeros(48)), {}), "a.h5 has no sampled line in slice 0; leave it out."),
    "duplicate lines": (lambda f: (twice(f), {}), "a.h5 has line 7 of slice 0 twice; remove or average one of them."),
    "NaN": (lambda f: (fastmri(f, nan), {}), "a.h5 holds 1 NaN or infinite samples of k-space"),
    "axes": (lambda f: (fastmri(f, lambda k: k[0, 0]), {}), "a.h5 has kspace of shape (40, 48), where (slices, H, W)"),
    "other maps": (
        lambda f: (fastmri(f, coils=3), {"coil_maps": maps(f, 2), "acceleration": 2, "centre_lines": 13}),
        "maps.npy holds torch.complex64 of shape (1, 2, 40, 48), where complex (3, 40, 48)",
    ),
    "maps in other units": (
        lambda f: (fastmri(f, coils=3), {"coil_maps": maps(f, 3, 1e6), "acceleration": 2, "centre_lines": 13}),
        "maps.npy holds maps whose root sum of squares is up to 1e+06, where 1 is expected",
    ),
    "noise in other units": (
        lambda f: (fastmri(f, lambda k: 1e-6 * k), {"noise_std": 0.01, "acceleration": 2, "centre_lines": 13}),
        "noise_std is 0.01, where a number between 0 and",
    ),
    "no centre": (
        lambda f: (without_centre(f), {}),
        "a.h5, slice 0: 0 neighbouring lines around the centre of k-space are sampled, where at least 4 are needed",
    ),
    "untrained": (
        lambda f: (torch.save(PatchVAE().state_dict(), f / "new.pt"), {"run_dir": f / "new.pt"}),
        "new.pt records no training of its weights; give the model of a run.",
    ),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_sentence_and_no_exit_code_of_0(case, weights, tmp_path):
    make, message = CASES[case]
    path, settings = make(tmp_path)
    settings = {"run_dir": weights, "input": path or "a.h5", "output_dir": tmp_path / "out", "device": "cpu"} | settings
    line = [sys.executable, "-m", "monai.bundle", "run", "reconstructing"]
    line += ["--config_file", str(ROOT / "bundles/patch_prior/reconstruct.json")]
    line += [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("*/*.nii.gz"))
