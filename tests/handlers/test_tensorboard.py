import time

from monai_blurvae.handlers.monitoring import open_event_file
from monai_blurvae.report.record import read_history


def test_a_resume_within_the_second_of_its_cut(tmp_path):
    """The first file's process has the greater number, so that its name would sort last."""
    with open_event_file(tmp_path, 1) as writer:
        for epoch in (1, 2, 3):
            writer.add_scalar("train/loss", 1.0, epoch)
    (file,) = tmp_path.iterdir()
    file.rename(tmp_path / f"events.out.tfevents.{int(time.time()):010d}.machine.zzzz")
    with open_event_file(tmp_path, 3) as writer:
        for epoch in (3, 4):
            writer.add_scalar("train/loss", 2.0, epoch)
    assert read_history(tmp_path).scalar("train/loss") == {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0}
