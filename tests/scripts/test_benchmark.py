"""The loop that the training is timed against does the same: its objectives are those of the package."""

import argparse
import csv

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
    accumulation=1,
    compile=None,
    pairs=2,
)


@pytest.fixture
def step():
    """Output, images and kernels of a network."""
    images = benchmark.make_batch(OPTIONS)
    network = benchmark.make_network(OPTIONS)
    output = network(images)
    return output, images, network.kernel(output.z.detach())


def test_cuda_graphs_without_a_gpu_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--compile", "reduce-overhead", "--device", "cpu"])
    with pytest.raises(SystemExit, match="2"):
        benchmark.main()
    assert "takes CUDA graphs, and cpu is no GPU" in capsys.readouterr().err


def test_the_full_ffts_give_the_same_objectives(step):
    output, images, kernel = step
    expected = KernelLoss()(output.reconstruction, images, kernel)
    torch.testing.assert_close(benchmark.full_kernel_loss(*step), expected)
    torch.testing.assert_close(benchmark.full_elbo(*step), ELBOLoss(WienerLoss())(output, images, kernel, epoch=1).loss)


def test_the_memory_of_a_step_is_that_of_its_parts():
    """Weights, gradients and two moments are 16 bytes a parameter; what is saved grows with the batch."""
    found = benchmark.memory_of(OPTIONS)
    parameters = sum(p.numel() for p in benchmark.make_network(OPTIONS).parameters())
    assert found["weights"] == 16 * parameters
    larger = benchmark.memory_of(argparse.Namespace(**vars(OPTIONS) | {"batch_size": 6}))
    assert larger["weights"] == found["weights"]
    assert 1.9 < larger["activations"] / found["activations"] <= 2
    first = 3 * 4 * 8 * 8 * 4  # what the first block's convolution gives, at the least
    assert found["activations"] > first
    whole, half, quarter, twelfth = (
        benchmark.memory_of(argparse.Namespace(**vars(OPTIONS) | {"batch_size": 12, "accumulation": parts}))[
            "activations"
        ]
        for parts in (1, 2, 4, 12)
    )
    assert whole > half > quarter
    assert 2 * (half - quarter) == pytest.approx(3 * (quarter - twelfth), rel=0.01)  # of three images, and of two


def test_the_cost_names_what_bounds_each_point(tmp_path, monkeypatch):
    """By a clock to which a batch of patches takes 30 ms, and whatever a network does 6 ms."""
    steps = {"batch_size": [2, 4], "channels": [[4, 4], [4, 8]], "num_workers": [0], "volumes": [1, 2]}
    monkeypatch.setattr(benchmark, "STEPS_OF_COST", steps)
    monkeypatch.setattr(benchmark, "SHAPE_OF_COST", (20, 24, 20))
    monkeypatch.setattr(benchmark, "OF_DATA", {"num_workers": 0, "volumes": 1})
    done = []

    def seconds_of(run, device):
        done.append(run())
        return 0.03 if isinstance(done[-1], dict) else 0.006

    monkeypatch.setattr(benchmark, "seconds_of", seconds_of)
    benchmark.benchmark_cost(argparse.Namespace(**vars(OPTIONS) | {"in_channels": 1, "output": tmp_path}))
    assert {tuple(batch["image"].shape) for batch in done if isinstance(batch, dict)} == {(3, 1, 16, 16)}
    with (tmp_path / "cost.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    columns = ("varied", "value", "iteration", "patches", "bound", "iteration_over_bound")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("batch_size", "2", "3", "0", "network", "1"),
        ("batch_size", "4", "1.5", "0", "network", "1"),
        *(("channels", "4", "2", "0", "network", "1") for _ in range(2)),
        ("num_workers", "0", "2", "10", "patches", "0.2"),
        *(("volumes", value, "2", "10", "patches", "0.2") for value in "12"),
    ]
    assert (tmp_path / "cost.png").stat().st_size > 1000


def test_an_iteration_of_each_changes_the_weights_and_the_table_has_all(capsys):
    benchmark.benchmark_iteration(OPTIONS)
    printed = capsys.readouterr().out
    for name in ("L2 ", "L2, MONAI's trainer", "two forward passes"):
        assert f"\n{name}" in printed
    assert printed.count("alternating over it") == 3
