"""Events and output keys of the engines."""

from __future__ import annotations

from ignite.engine import EventEnum
from monai.utils import StrEnum


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
