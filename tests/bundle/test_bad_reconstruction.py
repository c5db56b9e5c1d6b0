"""Input that cannot be reconstructed: one sentence, and by the line that a user types an exit code other than 0."""

import numpy as np
import pytest
import torch

from monai_blurvae.networks import PatchVAE
from monai_blurvae.priors.reconstruction import centred_fft, simulate_coil_maps
from tests.commands import RUN, command, options
from tests.priors.phantom import head
from tests.priors.raw_data import write_fastmri
from tests.volumes import ROOT, cause, run

pytest.importorskip("h5py")

SIZE = (40, 48)
RECONSTRUCT = str(ROOT / "bundles/patch_prior/reconstruct.json")
FEWER = {"acceleration": 2, "centre_lines": 13}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A model as a training leaves it, as far as loading can tell."""
    network = PatchVAE(latent_size=2, hidden_size=8, bank_size=4)
    path = tmp_path_factory.mktemp("model") / "model.pt"
    torch.save(network.state_dict() | {"calibration": torch.ones(4, 3)}, path)
    return path


def fastmri(folder, change=lambda samples: samples, coils=1, **arguments):
    images = simulate_coil_maps(coils, SIZE) * head(*SIZE) if coils > 1 else head(*SIZE).to(torch.complex64)
    return write_fastmri(folder / "a.h5", change(centred_fft(images).numpy()), **arguments)


def without_centre(folder):
    lines = np.arange(48) % 3 == 1
    return fastmri(folder, lambda samples: samples * lines, mask=lines)


def maps(folder, coils, factor=1.0):
    np.save(folder / "maps.npy", factor * simulate_coil_maps(coils, SIZE)[0].numpy())
    return folder / "maps.npy"


CASES = {
    "unreadable": (lambda f: (fastmri(f, mask=np.ones(32)), {}), "a.h5 has a mask of 32 lines, but k-space"),
    "other maps": (
        lambda f: (fastmri(f, coils=3), {"coil_maps": maps(f, 2), **FEWER}),
        "maps.npy holds torch.complex64 of shape (1, 2, 40, 48), where complex (3, 40, 48)",
    ),
    "maps in other units": (
        lambda f: (fastmri(f, coils=3), {"coil_maps": maps(f, 3, 1e6), **FEWER}),
        "maps.npy holds maps whose root sum of squares is up to 1e+06, where 1 is expected",
    ),
    "noise in other units": (
        lambda f: (fastmri(f, lambda k: 1e-6 * k), {"noise_std": 0.01, **FEWER}),
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


def settings_of(case, weights, folder):
    path, settings = CASES[case][0](folder)
    given = {"run_dir": weights, "input": path or "a.h5", "output_dir": folder / "out", "device": "cpu"} | settings
    return {name: value if isinstance(value, (int, float)) else str(value) for name, value in given.items()}


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_sentence_and_nothing_written(case, weights, tmp_path):
    with pytest.raises(RuntimeError) as error:
        run("reconstructing", RECONSTRUCT, **settings_of(case, weights, tmp_path))
    assert CASES[case][1] in str(cause(error.value))
    assert not list((tmp_path / "out").glob("*/*.nii.gz"))


def test_no_exit_code_of_0(weights, tmp_path):
    settings = settings_of("unreadable", weights, tmp_path)
    done = command(*RUN, "reconstructing", "--config_file", RECONSTRUCT, *options(**settings), extras=("recon",))
    assert done.returncode != 0
    assert CASES["unreadable"][1] in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
