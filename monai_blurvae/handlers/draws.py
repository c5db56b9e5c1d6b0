"""Images drawn from p(x|z), beside the means that an evaluation looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from monai_blurvae.metrics.likelihood import Densities
from monai_blurvae.seeding import torch_rng

if TYPE_CHECKING:
    from monai_blurvae.networks import LatentImageModel


class ImageDraws:
    """Draws from each density, all from the same white noise, which its covariance colours.

    Args:
        densities: to draw from.
        seed: of the noise.
    """

    def __init__(self, densities: Densities, seed: int) -> None:
        self.densities = densities
        self._seed = seed
        self._generators = {name: torch_rng(seed, "draws") for name in densities.likelihoods}

    def around(self, means: Tensor, z: Tensor) -> dict[str, Tensor]:
        """An image of each density around each mean; of the next call the noise is another.

        Args:
            means: x̂(z), ``(B, C, *image_size)``.
            z: latents, ``(B, latent_size)``.

        Returns:
            By the density's name, like ``means``, unclipped.
        """
        likelihoods = self.densities.likelihoods
        return {name: likelihoods[name].sample(means, z, self._generators[name]) for name in likelihoods}

    def samples(self, network: LatentImageModel, n: int, *purpose: str) -> tuple[Tensor, dict[str, Tensor]]:
        """``network.sample(n, torch_rng(seed, *purpose))``, and of the same latents an image of each density.

        Args:
            network: whose decoder the densities were fitted around.
            n: number of samples.
            purpose: of the random numbers.
        """
        device = network.get_buffer("voxel_size").device
        generators = [torch_rng(self._seed, *purpose) for _ in (None, *self.densities.likelihoods)]
        latents = [torch.randn(n, network.latent_size, generator=generator) for generator in generators]
        z = latents[0].to(device)
        with torch.no_grad():
            means = network.decode(z)
            drawn = zip(self.densities.likelihoods.items(), generators[1:], strict=True)
            return means, {name: likelihood.sample(means, z, generator) for (name, likelihood), generator in drawn}


def outside(images: Tensor) -> Tensor:
    """Share of the pixels outside of [−1, 1], of each image ``(B,)``: what a picture clips."""
    return (images.abs() > 1).flatten(1).to(torch.float64).mean(1)
