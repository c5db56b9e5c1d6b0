"""The loop that the training is timed against does the same: its objectives are those of the package."""

import argparse

import pytest
import torch

from monai_blurvae.losses import ELBOLoss, KernelLoss, WienerLoss
from scripts import benchmark

OPTIONS = argparse.Namespace(
    in_channels=2,
    channels=(4, 8),
    image_size=16,
    kernel_size=5,
    batch_size=3,
    device="cpu",
    precision="float32",
    pairs=2,
)


@pytest.fixture
def step():
    """Output, images and kernels of a network."""
    images = benchmark.make_batch(OPTIONS)
    network = benchmark.make_network(OPTIONS)
    output = network(images)
    return output, images, network.kernel(output.z.detach())


def test_the_full_ffts_give_the_same_objectives(step):
    output, images, kernel = step
    expected = KernelLoss()(output.reconstruction, images, kernel)
    torch.testing.assert_close(benchmark.full_kernel_loss(*step), expected)
    torch.testing.assert_close(benchmark.full_elbo(*step), ELBOLoss(WienerLoss())(output, images, kernel, epoch=1).loss)


def test_an_iteration_of_each_changes_the_weights_and_the_table_has_all(capsys):
    benchmark.benchmark_iteration(OPTIONS)
    printed = capsys.readouterr().out
    for name in ("L2 ", "L2, MONAI's trainer", "two forward passes"):
        assert f"\n{name}" in printed
    assert printed.count("alternating over it") == 3
