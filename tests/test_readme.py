"""The README's Python runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

from monai_blurvae.losses import ELBOLoss, WienerLoss
from monai_blurvae.networks import VAEOutput
from scripts import export
from tests.volumes import HCP

README = Path(__file__).parents[1] / "README.md"
TRAINING, PLAIN, LOADING, EXPORTS = re.findall(
    r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL
)


def run(code):
    namespace = {}
    exec(compile(code, str(README), "exec"), namespace)
    return namespace


def small(code, folder):
    """The code for a run of patches of 32."""
    return code.replace("outputs/hcp/0001", str(folder)).replace("64, 64", "32, 32").replace("8:72", "4:36")


def test_the_python_example_runs_and_is_short():
    namespace = run(TRAINING)
    assert namespace["log_density"].shape == (8,)
    assert torch.isfinite(namespace["log_density"]).all()
    assert len([line for line in TRAINING.splitlines() if line.strip()]) <= 15


def test_the_plain_loop_does_an_alternating_step():
    """Its loss is the objective of the trainer, of its own output; both networks have moved, the kernels' first."""
    torch.manual_seed(0)
    names = run(PLAIN)
    latent = {"mu": names["mu"].flatten(1), "log_var": 2 * names["sigma"].flatten(1).log(), "z": names["z"].flatten(1)}
    output = VAEOutput(names["reconstruction"], **latent)
    expected = ELBOLoss(WienerLoss(), beta=1.0)(output, names["image"], names["kernel"], epoch=1).loss
    torch.testing.assert_close(names["loss"], expected)
    assert torch.equal(names["kernel"], names["generator"](output.z))
    torch.manual_seed(0)
    untrained = run(PLAIN.partition("for batch")[0])
    for part in ("vae", "generator"):
        pairs = zip(names[part].parameters(), untrained[part].parameters(), strict=True)
        assert all(not torch.equal(after, before) for after, before in pairs if after.grad is not None)


def test_a_loaded_model(finished_run, hcp_dir):
    namespace = run(small(LOADING, finished_run[1]).replace("t1.nii.gz", str(hcp_dir / "100" / HCP)))
    assert namespace["scan"].shape == (1, 48, 40, 44)
    assert namespace["nats"].shape == (1,)
    assert namespace["images"].shape == (4, 1, 32, 32)
    assert namespace["score"].shape == (1, 1, 48, 44)


@pytest.mark.slow
def test_the_exports(finished_run):
    pytest.importorskip("onnxruntime")
    assert export.main([str(finished_run[1])]) == 0
    namespace = run(small(EXPORTS, finished_run[1]))
    reconstruction = namespace["reconstruction"]
    torch.testing.assert_close(namespace["program"](namespace["x"]), reconstruction, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(namespace["pred"]), reconstruction, rtol=0, atol=1e-5)
    assert namespace["nats"].shape == (8,)
