"""A batch in micro-batches, whose gradients add up to those of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def in_micro_batches(forward: Callable[..., Any], network: nn.Module, images: Tensor, noise: Tensor, parts: int) -> Any:
    """The output of a whole batch, in whose backward pass no more than one micro-batch has its activations.

    Autograd keeps the inputs of each micro-batch and runs it again when its turn comes. A norm over the batch is one
    over the micro-batch; the second run leaves its running estimates alone.

    Args:
        forward: called with images, network and the keyword ``noise``; returns a named tuple of tensors whose first
            axis is that of the images, or of so many rows for each image.
        network: not in a wrapper, which would hear of each pass.
        images: ``(B, C, *image_size)``.
        noise: ``(rows, width)``, as many rows for each image.
        parts: number of micro-batches, whose sizes differ by one at most; B of them where B is smaller.

    Returns:
        What ``forward`` returns, of all images.
    """
    parts = min(parts, len(images))
    rows = noise.unflatten(0, (len(images), -1))
    outputs = [
        checkpoint(
            forward,
            part,
            network,
            noise=part_noise.flatten(0, 1),
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _kept_buffers(network)),
        )
        for part, part_noise in zip(images.tensor_split(parts), rows.tensor_split(parts), strict=True)
    ]
    return type(outputs[0])(*map(torch.cat, zip(*outputs, strict=True)))


@contextmanager
def _kept_buffers(network: nn.Module) -> Iterator[None]:
    """Give the buffers their values back at the end."""
    kept = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
