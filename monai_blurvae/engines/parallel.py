"""A batch in several processes or micro-batches, whose gradients add up to those of the whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

logger = logging.getLogger(__name__)


def with_shared_norms(network: nn.Module) -> nn.Module:
    """The network, on a GPU with batch norms over the batch of all processes; elsewhere torch has none, and it says so.

    Args:
        network: on its device; its weights stay the same objects, for optimizers that hold them.
    """
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        return network
    if next(network.parameters()).is_cuda:
        shared: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        logger.info("Batch norms see the batch of all processes.")
        return shared
    logger.info("On a CPU the batch norms of each process see its own batch alone; the first one's estimates are kept.")
    return network


@torch.no_grad()
def share_buffers(network: nn.Module) -> None:
    """Give all processes the first one's buffers, as the wrapper does before a forward pass that goes through it.

    Args:
        network: as an engine has it, wrapped or not.
    """
    if isinstance(network, DistributedDataParallel):
        for buffer in network.module.buffers():
            torch.distributed.broadcast(buffer, src=0)


class Averaging:
    """The mean over the processes of gradients and running estimates; nothing without a wrapper around the network.

    DistributedDataParallel averages the gradients of the weights that its forward uses. The kernel generator, the
    parameters of an objective and a discriminator are left.

    Args:
        network: as the trainer has it, wrapped or not.
        everything: whether no pass goes through the wrapper, so that it averages nothing.
    """

    def __init__(self, network: nn.Module, everything: bool = False) -> None:
        self.network = network
        self.everything = everything

    def gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients that the wrapper did not."""
        if isinstance(self.network, DistributedDataParallel):
            done = set() if self.everything else {id(p) for p in self.network.module.vae_parameters()}
            self._average(p.grad for p in parameters if p.grad is not None and id(p) not in done)

    def estimates(self, objective: nn.Module) -> None:
        """Average the running estimates of an objective, each a mean over the batches of its process."""
        if isinstance(self.network, DistributedDataParallel):
            parameters = {name for name, _ in objective.named_parameters()}
            self._average(value for name, value in objective.state_dict().items() if name not in parameters)

    @staticmethod
    @torch.no_grad()
    def _average(tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)
            tensor /= torch.distributed.get_world_size()


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
