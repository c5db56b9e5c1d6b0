"""What goes into an iteration and comes out of it: images, events, keys, and means of the terms over an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import EventEnum
from monai.data.meta_tensor import MetaTensor
from monai.engines import Workflow
from monai.engines.utils import default_prepare_batch
from monai.utils import StrEnum
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_blurvae.errors import DataError
from monai_blurvae.functional import kernel_width


class BlurVAEEvents(EventEnum):
    """Events around the two steps of an iteration, in the order in which they fire.

    Those of ``monai.utils.IterationEvents`` fire too: FORWARD_COMPLETED before the kernel step, LOSS_COMPLETED and
    BACKWARD_COMPLETED inside the VAE step, MODEL_COMPLETED after it.
    """

    KERNEL_STEP_STARTED = "kernel_step_started"
    KERNEL_STEP_COMPLETED = "kernel_step_completed"
    VAE_STEP_STARTED = "vae_step_started"
    VAE_STEP_COMPLETED = "vae_step_completed"
    DISCRIMINATOR_STEP_COMPLETED = "discriminator_step_completed"


class BlurVAEKeys(StrEnum):
    """Keys of ``engine.state.output`` beside MONAI's ``image``, ``label``, ``pred`` and ``loss``.

    The terms are means over the batch without dimensions; the others have the batch first.
    """

    MU = "mu"
    LOG_VAR = "log_var"
    LATENT = "latent"
    KERNEL = "kernel"
    RECONSTRUCTION_TERM = "reconstruction"
    HALF_LOG_DET = "half_log_det"
    KL = "kl"
    KERNEL_LOSS = "kernel_loss"
    AUXILIARY = "auxiliary"
    ADVERSARIAL_TERM = "adversarial"
    DISCRIMINATOR_LOSS = "discriminator_loss"


def images_of(engine: Workflow, batch: Any) -> Tensor:
    """The images ``(B, C, *image_size)`` of a batch on the engine's device, as a plain tensor.

    Args:
        engine: whose hook ``prepare_batch`` takes them out.
        batch: of the data loader; for MONAI's own hook a dictionary with ``image``.

    Raises:
        DataError: if there are none, their type is not float32, or they hold NaN or infinite values, which would stay
            in the running statistics of batch norms and likelihoods.
    """
    if engine.prepare_batch is default_prepare_batch and not (isinstance(batch, Mapping) and CommonKeys.IMAGE in batch):
        found = f"the keys {sorted(batch)}" if isinstance(batch, Mapping) else f"the type {type(batch).__name__}"
        raise DataError(
            f"a batch has {found}, where a dictionary with 'image' is expected; let the data set give "
            "{'image': image} for each of its items."
        )
    images = engine.prepare_batch(batch, engine.state.device, engine.non_blocking, **engine.to_kwargs)[0]
    if not isinstance(images, Tensor) or images.dtype != torch.float32:
        found = f"numbers of {images.dtype}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise DataError(
            f"'image' of a batch is {found}, where a tensor of torch.float32 with values from -1 to 1 is expected; "
            "scale and convert the images in the transforms."
        )
    # as the loader gave them, mostly on the CPU: a look at the device's copy would have to wait for it
    given = batch[CommonKeys.IMAGE] if engine.prepare_batch is default_prepare_batch else images
    if not bool(torch.isfinite(given).all()):
        sources = ", ".join(sorted(set(batch.get("source", [])))) if isinstance(batch, Mapping) else ""
        raise DataError(
            f"'image' of a batch holds NaN or infinite values{f', cut from {sources}' if sources else ''}; repair the "
            "images, or replace such values in the transforms."
        )
    return images.as_tensor() if isinstance(images, MetaTensor) else images


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
