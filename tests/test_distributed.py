"""How processes find each other in a store that a launch has used before."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from monai_blurvae import distributed
from monai_blurvae.distributed import _unused_part, join_processes
from monai_blurvae.errors import SettingsError


def test_processes_that_are_started_again_share_a_part_that_the_dead_have_not_written_to():
    store, ranks = HashStore(), range(3)
    for attempt in ("first", "second"):
        with ThreadPoolExecutor(3) as pool:
            parts = list(pool.map(lambda rank: _unused_part(store, rank, 3), ranks))
        assert not any(part.check([f"address {rank}"]) for part in parts for rank in ranks)
        for rank, part in zip(ranks, parts, strict=True):
            part.set(f"address {rank}", attempt)
        assert all(part.get(f"address {rank}") == attempt.encode() for part in parts for rank in ranks)


def test_processes_need_torchrun_and_a_gpu_each(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(SettingsError, match="start it by torchrun"):
        join_processes("cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="device is 'cuda', where all processes would meet"):
        join_processes("cuda")


def test_a_launch_without_a_name_is_known_by_its_process(monkeypatch):
    monkeypatch.setattr(distributed.os, "getppid", lambda: 5)
    monkeypatch.setattr(distributed.socket, "gethostname", lambda: "node")
    names = []
    for given in ("job 7", "none"):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", given)
        names.append(distributed.launch_id())
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert [*names, distributed.launch_id()] == ["job 7", "node:5", None]
