"""A discriminator that tells reconstructions from images, to put on top of any other term."""

from __future__ import annotations

from typing import Any

import torch
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from torch import Tensor


class Adversary:
    """MONAI's patch discriminator with its least-squares objective and its own optimiser.

    Least squares GAN (Mao et al., ICCV 2017) on overlapping patches (Isola et al., CVPR 2017). The objective with it is
    no bound on the evidence. Its norm is that of each image (instance norm) and not of the batch, so that the verdict
    on an image does not depend on the others.

    Args:
        weight: of the adversarial term in the objective of the VAE, > 0.
        in_channels: channels of the images, which are judged together.
        spatial_dims: 2 or 3.
        channels: feature channels of the discriminator's first layer.
        layers: layers of the discriminator.
        lr: learning rate of its Adam.
        device: of the discriminator.

    Raises:
        ValueError: if the weight is not positive; when called, for images of another number of dimensions.
    """

    def __init__(
        self,
        weight: float,
        in_channels: int = 1,
        spatial_dims: int = 2,
        channels: int = 32,
        layers: int = 2,
        lr: float = 1e-4,
        device: str | torch.device = "cpu",
    ) -> None:
        if not weight > 0:
            raise ValueError(f"the weight of the adversarial term must be positive, but is {weight!r}.")
        self.weight = weight
        self.spatial_dims = spatial_dims
        self.discriminator = PatchDiscriminator(
            spatial_dims=spatial_dims, channels=channels, in_channels=in_channels, num_layers_d=layers, norm="INSTANCE"
        ).to(device)
        self.criterion = PatchAdversarialLoss(criterion="least_squares", reduction="mean", no_activation_leastsq=True)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr, betas=(0.5, 0.999))

    def generator_term(self, reconstruction: Tensor) -> Tensor:
        """Weight · D · mean over batch and places of (discriminator(x̂) − 1)², D the pixels and channels of an image.

        Args:
            reconstruction: x̂ in [−1, 1], ``(B, C, *image_size)``.

        Returns:
            A number without dimensions.
        """
        judged = self._judged(reconstruction)
        term = self.criterion(judged, target_is_real=True, for_discriminator=False)
        return self.weight * reconstruction[0].numel() * term

    def discriminator_loss(self, reconstruction: Tensor, images: Tensor) -> Tensor:
        """½ E[discriminator(x̂)²] + ½ E[(discriminator(x) − 1)²]; x̂ is detached.

        Args:
            reconstruction: x̂ in [−1, 1], ``(B, C, *image_size)``.
            images: x, likewise.

        Returns:
            A number without dimensions.
        """
        fake, real = self._judged(reconstruction.detach()), self._judged(images)
        as_fake = self.criterion(fake, target_is_real=False, for_discriminator=True)
        return 0.5 * (as_fake + self.criterion(real, target_is_real=True, for_discriminator=True))

    def _judged(self, images: Tensor) -> Tensor:
        if images.ndim - 2 != self.spatial_dims:
            raise ValueError(
                f"images of shape {tuple(images.shape)} have {images.ndim - 2} spatial dimensions, but spatial_dims of "
                f"Adversary is {self.spatial_dims}; set it to theirs."
            )
        judged: Tensor = self.discriminator(images)[-1]
        return judged

    def state_dict(self) -> dict[str, Any]:
        """Of the discriminator and its optimiser."""
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take both back."""
        self.discriminator.load_state_dict(state_dict["discriminator"])
        self.optimizer.load_state_dict(state_dict["optimizer"])
