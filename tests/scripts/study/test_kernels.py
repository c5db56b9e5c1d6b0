import numpy as np
import pytest
import torch

from monai_blurvae.errors import RunFolderError
from monai_blurvae.handlers.monitoring import open_event_file
from monai_blurvae.handlers.pictures import FigureRow, draw_rows, scale_kernels
from study.kernels import read_kernels


def picture(kernels):
    return draw_rows([FigureRow("kernels", scale_kernels(kernels, 6))])


def write(folder, epochs, kernels, width=2.5, train=True):
    """What a training writes of its kernels, in an event file of its own."""
    writer = open_event_file(folder, epochs[0])
    for epoch in epochs:
        if train:
            writer.add_scalar("train/kernel_loss", 1.0, epoch)
        writer.add_scalar("train/kernel_width", epoch / 2, epoch)
        writer.add_scalar("validation/kernel_width", width, epoch)
        writer.add_image("kernels", picture(kernels), epoch, dataformats="HWC")
    writer.close()


def point(row, column):
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[..., row, column] = 1.0
    return kernel


def test_kernels_are_read_as_they_were(tmp_path):
    write(tmp_path, (3, 6), torch.cat([point(0, 2), point(1, 1)]))
    history = read_kernels(tmp_path)
    assert dict(history.training) == {3: 1.5, 6: 3.0}
    assert dict(history.validation) == {3: 2.5, 6: 2.5}
    assert history.pictures.keys() == {3, 6}
    shown = history.pictures[3]
    side = (shown.shape[1] - 3 * 4) // 2  # two pictures, three gaps of 4 pixels
    first, second = shown[:side, 4 : 4 + side], shown[:side, 8 + side : 8 + 2 * side]
    third = side // 3
    expected = np.zeros((side, side), np.uint8)
    expected[:third, 2 * third :] = 255
    assert np.array_equal(first, expected)
    assert np.array_equal(second, np.roll(expected, (third, -third), (0, 1)))


def test_of_an_epoch_that_was_done_again_the_last_counts(tmp_path):
    write(tmp_path, (1, 2, 3), point(1, 1))
    write(tmp_path, (3,), point(0, 0), width=1.5)
    history = read_kernels(tmp_path)
    assert sorted(history.pictures) == [1, 2, 3]
    assert [history.validation[epoch] for epoch in (1, 2, 3)] == [2.5, 2.5, 1.5]
    assert not np.array_equal(history.pictures[2], history.pictures[3])


def test_a_finished_run_has_kernels(finished_run):
    history = read_kernels(finished_run[1] / "tensorboard")
    assert history.pictures
    assert history.pictures.keys() <= history.validation.keys()
    assert min(history.training.values()) > 0
    assert all(p.ndim == 2 and p.max() == 255 for p in history.pictures.values())


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(RunFolderError, match="absent holds no kernels"):
        read_kernels(tmp_path / "absent")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RunFolderError, match="holds no kernels"):
        read_kernels(empty)
    (empty / "events.out.tfevents.1.x").write_bytes(b"no events, but long enough to hold a header and a checksum")
    with pytest.raises(RunFolderError, match=str(empty)):
        read_kernels(empty)


def test_a_generator_that_was_not_trained_has_no_kernels(tmp_path):
    write(tmp_path, (1,), point(1, 1), train=False)
    with pytest.raises(RunFolderError, match="holds no kernels"):
        read_kernels(tmp_path)


def test_a_broken_picture_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "monai_blurvae.report.figures.Image.open", lambda file: (_ for _ in ()).throw(OSError("cut off"))
    )
    write(tmp_path, (1,), point(1, 1))
    with pytest.raises(RunFolderError, match="cut off"):
        read_kernels(tmp_path)
