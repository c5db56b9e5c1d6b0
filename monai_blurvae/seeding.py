"""Random numbers as pure functions of what they are for.

Nothing in a training draws from a stream whose position depends on what was drawn before: that is why the number of
workers, an interruption or a validation in between changes no result.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from the run's seed and the purpose, the same on every machine."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def numpy_rng(seed: int, *purpose: str | int) -> np.random.Generator:
    """NumPy generator for one purpose."""
    return np.random.default_rng(derive_seed(seed, *purpose))


NOISE_BLOCK = 64
"""Rows of :func:`normal_rows` that are drawn together."""


def torch_rng(seed: int, *purpose: str | int) -> torch.Generator:
    """Torch generator of the CPU for one purpose, so that every device sees the same numbers."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


def normal_rows(first: int, count: int, width: int, seed: int, *purpose: str | int) -> torch.Tensor:
    """Some rows of an endless table of standard normal numbers, whoever asks for them and for whichever others.

    Several processes that take their places of a batch so have the noise that one process would have.

    Args:
        first: row, from 0.
        count: of rows.
        width: numbers in a row; another width is another table.
        seed: of the run.
        purpose: of the table.

    Returns:
        ``(count, width)`` float32 on the CPU.
    """
    blocks = range(first // NOISE_BLOCK, -(-(first + count) // NOISE_BLOCK))
    drawn = [torch.randn(NOISE_BLOCK, width, generator=torch_rng(seed, *purpose, block)) for block in blocks]
    return torch.cat(drawn)[first % NOISE_BLOCK :][:count]
