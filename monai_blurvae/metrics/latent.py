"""How much of the latent is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.metrics import Metric
from monai.utils import evenly_divisible_all_gather
from torch import Tensor


class ActiveUnits(Metric):
    """Number of latent units whose posterior mean varies over the images by more than a threshold.

    Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, ICLR 2016, section 5.2: unit u is active when
    Var_x(E[z_u | x]) > 0.01. Of several processes it counts the images of all.

    Args:
        output_transform: from the engine's output to posterior means ``(B, latent_size)``.
        threshold: of the variance.
    """

    def __init__(self, output_transform: Callable[[Any], Any] = lambda x: x, threshold: float = 0.01) -> None:
        self.threshold = threshold
        self._means: list[Tensor] = []
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        """Forget the images seen so far."""
        self._means = []
        super().reset()

    def update(self, output: Tensor) -> None:
        """Take the posterior means of a batch."""
        self._means.append(output.detach().double().cpu())

    def compute(self) -> int:
        """The number of active units; 0 with fewer than two images."""
        if not self._means:
            return 0
        means = evenly_divisible_all_gather(torch.cat(self._means))
        return int((means.var(0, correction=0) > self.threshold).sum())
