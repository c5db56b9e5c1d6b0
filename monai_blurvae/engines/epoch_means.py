"""Means of the training terms over an epoch, which survive an interruption in its middle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_blurvae.engines.events import BlurVAEKeys
from monai_blurvae.functional import kernel_width

TERMS = (
    CommonKeys.LOSS,
    BlurVAEKeys.RECONSTRUCTION_TERM,
    BlurVAEKeys.HALF_LOG_DET,
    BlurVAEKeys.KL,
    BlurVAEKeys.KERNEL_LOSS,
    BlurVAEKeys.AUXILIARY,
    BlurVAEKeys.ADVERSARIAL_TERM,
    BlurVAEKeys.DISCRIMINATOR_LOSS,
)


class EpochMeans:
    """Running sums in float64 of the terms of the iterations since the last :meth:`reset`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def reset(self) -> None:
        """Begin a new epoch."""
        self._sums, self._count = {}, 0

    def add(self, output: Mapping[str, Any]) -> None:
        """Take the output of one iteration."""
        values = {str(name): output[name] for name in TERMS if name in output}
        if BlurVAEKeys.KERNEL in output:
            values["kernel_width"] = kernel_width(output[BlurVAEKeys.KERNEL]).mean()
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value, dtype=torch.float64)) + value.double()
        self._count += 1

    def compute(self) -> dict[str, float]:
        """The means: loss, its terms, and the kernel width in pixels."""
        return {name: value.item() / self._count for name, value in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Sums and count."""
        return {"sums": {name: value.clone() for name, value in self._sums.items()}, "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take sums and count back."""
        self._sums, self._count = dict(state_dict["sums"]), int(state_dict["count"])
