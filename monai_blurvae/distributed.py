"""Which of several processes writes, and what the others learn from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

Value = TypeVar("Value")


def is_main_process() -> bool:
    """Whether this is the only process or the one with rank 0, which alone writes files."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def from_main_process(make: Callable[[], Value]) -> Value:
    """What the main process makes, in every process; all have to call it at the same point.

    Args:
        make: called in the main process only.

    Raises:
        RuntimeError: in the other processes, if ``make`` fails in the main one, which raises its own error.
    """
    if not (dist.is_available() and dist.is_initialized()):
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
        raise RuntimeError(f"the process with rank 0 has failed: {box[1]}")
    return box[0]  # type: ignore[return-value]
