"""Two processes, each with half of the batches, end with the same weights, and measure what one measures."""

import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from monai_blurvae.engines import BlurVAEEvaluator
from monai_blurvae.losses import ELBOLoss, L2Loss, RobustLoss, SigmaVAELoss, WienerLoss
from monai_blurvae.metrics import additional_metrics, key_metric
from monai_blurvae.networks import BlurVAE
from tests.commands import environment

OBJECTIVES = {
    "l2": lambda: ELBOLoss(L2Loss()),
    "wiener": lambda: ELBOLoss(WienerLoss(), warmup_epochs=1),
    "exact": lambda: ELBOLoss(WienerLoss(detach_weight=False), "exact"),
    "sigma": lambda: ELBOLoss(SigmaVAELoss(WienerLoss())),
    "robust": lambda: ELBOLoss(RobustLoss()),
}

CASES = [*((name, "float32") for name in OBJECTIVES), ("wiener", "float16")]
ACCUMULATIONS = (1, 1, 3)

WORKER = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from monai_blurvae.data import ShareSampler
from monai_blurvae.engines import BlurVAETrainer
from tests.engines.test_parallel import ACCUMULATIONS, CASES, OBJECTIVES, five_images, measured, small_network
from tests.parallel import FrozenNorms


def train(name, precision, *handlers, eps=1e-8, **arguments):
    network = DistributedDataParallel(small_network(), find_unused_parameters=True)
    model, objective = network.module, OBJECTIVES[name]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    batches = [{"image": torch.rand(4, 1, 16, 16) * 2 - 1} for _ in range(3)]
    trainer = BlurVAETrainer(
        "cpu", 2, batches, network,
        torch.optim.Adam([*model.vae_parameters(), *objective.parameters()], 1e-3, eps=eps),
        torch.optim.Adam(model.kernel_parameters(), 1e-3, eps=eps),
        loss_function=objective, precision=precision, train_kernel=True, gradient_clip=10.0, **arguments,
    )
    for handler in handlers:
        handler(network).attach(trainer)
    if precision == "float16":
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    trainer.run()
    images = five_images()
    metrics = measured(network, DataLoader(images, 2, sampler=ShareSampler(images, 2, dist.get_rank())))
    weights = {"before": before, "after": model.state_dict(), "objective": objective.state_dict()}
    return {**weights, "batch": batches[0], "metrics": metrics}


def accumulated(parts):
    torch.manual_seed(rank)
    return train("exact", "float32", FrozenNorms, accumulation=parts, eps=1e-3)["after"]


torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(rank)  # the wrapper starts all of them with the first one's weights
torch.save([train(*case) for case in CASES], f"{sys.argv[1]}/{rank}.pt")
torch.save([accumulated(parts) for parts in ACCUMULATIONS], f"{sys.argv[1]}/accumulated_{rank}.pt")
dist.destroy_process_group()
"""


def small_network():
    return BlurVAE(image_size=16, channels=(4, 8), latent_size=3, kernel_size=3)


def five_images():
    """Of which one of two processes has two batches of two, and the other has one."""
    generator = torch.Generator().manual_seed(0)
    return [{"image": torch.rand(1, 16, 16, generator=generator) * 2 - 1} for _ in range(5)]


def measured(network, loader):
    metrics = {"key_val_metric": key_metric(), "additional_metrics": additional_metrics()}
    evaluator = BlurVAEEvaluator("cpu", loader, network, **metrics)
    evaluator.run()
    return {name: float(value) for name, value in evaluator.state.metrics.items()}


@pytest.mark.slow
def test_both_processes_end_with_the_same_weights(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, str(tmp_path / "worker.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for case, *pair in zip(CASES, *(torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)), strict=True):
        assert_same_training(case, *pair)
    for rank in (0, 1):
        whole, again, micro_batches = torch.load(tmp_path / f"accumulated_{rank}.pt")
        torch.testing.assert_close(again, whole, rtol=0, atol=0)  # bit-equal on repetition
        # of frozen norms; the trainer averages their gradients without the wrapper
        torch.testing.assert_close(micro_batches, whole, rtol=1e-4, atol=1e-6)


def assert_same_training(case, first, second):
    assert not torch.equal(first["batch"]["image"], second["batch"]["image"])
    parameters = [key for key in first["after"] if key.endswith(("weight", "bias"))]
    for part in ("after", "objective"):  # the first one's running estimates, too
        for key in first[part]:
            assert torch.equal(first[part][key], second[part][key]), (case, key)
    for part in ("encoder.", "decoder.", "kernel_generator."):
        changed = [not torch.equal(first["before"][k], first["after"][k]) for k in parameters if k.startswith(part)]
        assert any(changed), (case, part)
    alone = small_network()
    alone.load_state_dict(first["after"])
    metrics = measured(alone, DataLoader(five_images(), 5))
    for found in (first, second):
        assert found["metrics"] == pytest.approx(metrics, rel=1e-6, abs=1e-6), case
