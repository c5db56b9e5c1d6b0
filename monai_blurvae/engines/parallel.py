"""What DistributedDataParallel leaves to a training whose steps do not all run through its forward."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class Averaging:
    """The mean over the processes of gradients and running estimates; nothing without a wrapper around the network.

    DistributedDataParallel averages the gradients of the weights that its forward uses. The kernel generator, the
    parameters of an objective and a discriminator are left.

    Args:
        network: as the trainer has it, wrapped or not.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients that the wrapper did not."""
        if isinstance(self.network, DistributedDataParallel):
            done = {id(p) for p in self.network.module.vae_parameters()}
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
