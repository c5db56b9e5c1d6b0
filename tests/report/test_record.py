import pytest
import torch

from monai_blurvae.errors import RunFolderError
from monai_blurvae.handlers.monitoring import open_event_file
from monai_blurvae.report.record import KERNELS, PICTURES, read_history, spread
from tests.report.runs import saturating, write_events


def test_nothing_is_dropped(tmp_path):
    write_events(tmp_path, range(1, 61), size=8)
    history = read_history(tmp_path)
    assert list(history.scalar("train/loss")) == list(range(1, 61))
    assert list(history.picture(KERNELS)) == list(history.picture(PICTURES)) == list(range(2, 61, 2))
    assert history.scalar("train/loss")[4] == pytest.approx(1000 / 4 + 50)
    assert history.epochs == 60
    assert history.trains_kernel


def test_a_run_that_was_resumed_twice(tmp_path):
    """What was written after the checkpoint of epoch 4 was done again, and then from epoch 7."""
    write_events(tmp_path, range(1, 7), size=8, psnr=lambda epoch: 1.0)
    write_events(tmp_path, range(5, 9), size=8, psnr=lambda epoch: 2.0)
    write_events(tmp_path, range(7, 8), size=8, psnr=lambda epoch: 3.0)
    assert len(list(tmp_path.iterdir())) == 3
    history = read_history(tmp_path)
    assert list(history.scalar("train/loss")) == list(range(1, 8))
    assert history.scalar("validation/psnr") == {2: 1.0, 4: 1.0, 6: 2.0}
    assert list(history.picture(KERNELS)) == [2, 4, 6]
    assert history.epochs == 7


def test_a_run_that_forgot_all_it_wrote(tmp_path):
    write_events(tmp_path, range(1, 3), size=8)
    with open_event_file(tmp_path, 1):
        pass
    history = read_history(tmp_path)
    assert history.epochs == 0
    assert not history.trains_kernel


def test_a_kernel_that_was_not_trained(tmp_path):
    write_events(tmp_path, range(1, 3), size=8, kernel=False)
    assert not read_history(tmp_path).trains_kernel


def test_no_and_broken_files(tmp_path):
    assert read_history(tmp_path / "absent") == ({}, {})
    (tmp_path / "empty").mkdir()
    assert read_history(tmp_path / "empty").epochs == 0
    write_events(tmp_path / "cut", range(1, 21), size=8)
    file = next((tmp_path / "cut").iterdir())
    file.write_bytes(file.read_bytes()[:-1000])
    assert 0 < read_history(tmp_path / "cut").epochs <= 20  # what was written before the cut counts


def test_files_that_tensorboard_cannot_read(tmp_path, monkeypatch):
    def fail(self):
        raise UnicodeDecodeError("utf-8", b"", 0, 1, "broken")

    monkeypatch.setattr("monai_blurvae.report.record.EventAccumulator.Reload", fail)
    with pytest.raises(RunFolderError, match=r"the event files in .* cannot be read \(UnicodeDecodeError"):
        read_history(tmp_path)


def test_spread():
    assert spread(list(range(0, 100, 10)), 3) == [0, 40, 90]
    assert spread([5, 6], 8) == [5, 6]
    assert spread([], 8) == []
    assert spread([7], 2) == [7]
    assert len(set(spread(list(range(9)), 8))) == 8


def test_the_runs_of_these_tests_are_converged():
    assert torch.tensor([saturating(epoch) for epoch in (16, 20)]).diff().item() < 0.01
