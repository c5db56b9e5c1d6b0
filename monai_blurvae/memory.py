"""The C library's allocator, whose defaults are not made for tensors."""

from __future__ import annotations

import ctypes
import sys

# malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc keep the memory of freed tensors for the next ones, in place of returning it to the system each time.

    A training on the CPU frees and allocates the same megabytes in every iteration, and spends a tenth to a fifth of
    its time on pages that the system has to empty anew. Results do not change.

    Returns:
        Whether it could be done: not where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return all(
        mallopt(option, value) == 1
        for option, value in ((M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD), (M_TRIM_THRESHOLD, LARGEST_INT))
    )
