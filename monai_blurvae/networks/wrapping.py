"""A network and what wraps it for training on several devices."""

from __future__ import annotations

from typing import Any

from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(network: Any) -> Any:
    """The network itself, with its methods and the names of its weights, where a parallel wrapper is around it."""
    return network.module if isinstance(network, DataParallel | DistributedDataParallel) else network
