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


def torch_rng(seed: int, *purpose: str | int) -> torch.Generator:
    """Torch generator of the CPU for one purpose, so that every device sees the same numbers."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
