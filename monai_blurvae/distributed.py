"""Several processes that train one model: how they join, which of them writes, what the others learn from it."""

from __future__ import annotations

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from monai_blurvae.errors import FirstProcessError, SettingsError

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

LONGEST_WAIT = timedelta(hours=2)
"""For another process, which may be preparing data or testing; torchrun sees by itself when one dies."""


def launched_processes() -> int:
    """How many processes torchrun, or what sets the variables that it sets, has started."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def join_processes(device: str | torch.device) -> None:
    """Join the processes that torchrun has started, by NCCL for CUDA, by Gloo else; of the others' log errors are left.

    A process that has joined, by itself or by this function, is left as it is.

    Args:
        device: of this process; several on one node need a GPU each.

    Raises:
        SettingsError: if torchrun has not started this process, or a CUDA device has no number.
    """
    if _has_joined():
        return
    if "WORLD_SIZE" not in os.environ:
        raise SettingsError(
            "this config trains in several processes; start it by torchrun --standalone --nproc_per_node=2 -m "
            "monai.bundle run training …, or leave multi_gpu_train.json out."
        )
    device = torch.device(device)
    if device.type == "cuda":
        if device.index is None:
            raise SettingsError("device is 'cuda', where all processes would meet; leave the option out, or say cpu.")
        torch.cuda.set_device(device)
    # the first convolution's, nine numbers a channel, which channels_last leaves in another order
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    store, rank, world_size = next(rendezvous("env://", timeout=LONGEST_WAIT))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=_unused_part(store, rank, world_size),
        rank=rank,
        world_size=world_size,
        timeout=LONGEST_WAIT,
    )
    if not is_main_process():
        logging.getLogger("monai_blurvae").setLevel(logging.ERROR)  # the first one says the rest for all
    logger.info(f"{world_size} processes train together, by {dist.get_backend()}.")


def _unused_part(store: Store, rank: int, world_size: int) -> Store:
    """A part of the launch's store that nobody has written to, the same in all processes.

    torchrun keeps the store when it starts its processes again, with the addresses of those that have died, which the
    next would wait for. So the first process names the part, to each of the others in answer to a question of its own.
    """
    name = uuid4().hex
    if rank:
        store.set(f"question {rank}", name)
        part = store.get(name).decode()
        store.set(f"{part} {rank}", "heard")
        return PrefixStore(part, store)
    deaf = set(range(1, world_size))
    while deaf:
        for other in deaf:
            if store.check([f"question {other}"]):
                store.set(store.get(f"question {other}").decode(), name)
        deaf = {other for other in deaf if not store.check([f"{name} {other}"])}
        time.sleep(0.02)
    return PrefixStore(name, store)


def is_main_process() -> bool:
    """Whether this is the only process or the one with rank 0, which alone writes files."""
    return not _has_joined() or dist.get_rank() == 0


def from_main_process(make: Callable[[], Value]) -> Value:
    """What the main process makes, in every process; all have to call it at the same point.

    Args:
        make: called in the main process only.

    Raises:
        FirstProcessError: in the other processes, if ``make`` fails in the main one, which raises its own error.
    """
    if not _has_joined():
        return make()
    box: list[object] = [None, None]
    error: BaseException | None = None
    if is_main_process():
        try:
            box[0] = make()
        except Exception as caught:
            error, box[1] = caught, str(caught)
    dist.broadcast_object_list(box, src=0)
    if error is not None:
        raise error
    if box[1] is not None:
        raise FirstProcessError(f"the first process, whose result this one needs, has failed: {box[1]}")
    return box[0]  # type: ignore[return-value]


def launch_id() -> str | None:
    """What tells a launch by torchrun from others, the same after it has started its processes again; None without one.

    That is torchrun's ``rdzv_id``; where it was given none, which it calls "none", the process that it runs in.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{socket.gethostname()}:{os.getppid()}" if name == "none" else name


def was_restarted() -> bool:
    """Whether torchrun has started the processes again since one died; all have to call it at the same point.

    On a node whose own processes were well, they are not told.
    """
    counts: list[str | None] = [os.environ.get("TORCHELASTIC_RESTART_COUNT")]
    if _has_joined():
        own, counts = counts[0], [None] * dist.get_world_size()
        dist.all_gather_object(counts, own)
    return any(int(count or 0) for count in counts)


def _has_joined() -> bool:
    return dist.is_available() and dist.is_initialized()
