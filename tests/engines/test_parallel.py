"""Two processes, each with half of the batches, end with the same weights."""

import subprocess
import sys

import pytest
import torch

from monai_blurvae.losses import ELBOLoss, L2Loss, RobustLoss, SigmaVAELoss, WienerLoss
from tests.commands import environment

OBJECTIVES = {
    "l2": lambda: ELBOLoss(L2Loss()),
    "wiener": lambda: ELBOLoss(WienerLoss(), warmup_epochs=1),
    "exact": lambda: ELBOLoss(WienerLoss(detach_weight=False), "exact"),
    "sigma": lambda: ELBOLoss(SigmaVAELoss(WienerLoss())),
    "robust": lambda: ELBOLoss(RobustLoss()),
}

CASES = [*((name, "float32") for name in OBJECTIVES), ("wiener", "float16")]

WORKER = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from monai_blurvae.engines import BlurVAEEvaluator, BlurVAETrainer
from monai_blurvae.networks import BlurVAE
from tests.engines.test_parallel import CASES, OBJECTIVES


def train(name, precision):
    network = DistributedDataParallel(
        BlurVAE(image_size=8, channels=(4, 8), latent_size=3, kernel_size=3), find_unused_parameters=True
    )
    model, objective = network.module, OBJECTIVES[name]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    batches = [{"image": torch.rand(4, 1, 8, 8) * 2 - 1} for _ in range(3)]
    trainer = BlurVAETrainer(
        "cpu", 2, batches, network,
        torch.optim.Adam([*model.vae_parameters(), *objective.parameters()], 1e-3),
        torch.optim.Adam(model.kernel_parameters(), 1e-3),
        loss_function=objective, precision=precision, train_kernel=True, gradient_clip=10.0,
    )
    if precision == "float16":
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    trainer.run()
    BlurVAEEvaluator("cpu", batches, network).run()
    return {"before": before, "after": model.state_dict(), "objective": objective.state_dict(), "batch": batches[0]}


torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(rank)  # the wrapper starts all of them with the first one's weights
torch.save([train(*case) for case in CASES], f"{sys.argv[1]}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_both_processes_end_with_the_same_weights(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, str(tmp_path / "worker.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for case, *pair in zip(CASES, *(torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)), strict=True):
        assert_same_training(case, *pair)


def assert_same_training(case, first, second):
    assert not torch.equal(first["batch"]["image"], second["batch"]["image"])
    parameters = [key for key in first["after"] if key.endswith(("weight", "bias"))]
    for part, keys in (("after", parameters), ("objective", list(first["objective"]))):
        for key in keys:
            assert torch.equal(first[part][key], second[part][key]), (case, key)
    for part in ("encoder.", "decoder.", "kernel_generator."):
        changed = [not torch.equal(first["before"][k], first["after"][k]) for k in parameters if k.startswith(part)]
        assert any(changed), (case, part)
