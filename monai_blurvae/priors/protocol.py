"""What a prior is to the reconstructions and to deepinv."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

Sigma = float | Tensor
"""Standard deviation of white Gaussian noise in the units of the image: a number, or one for each image, ``(B,)``."""


@runtime_checkable
class ImagePrior(Protocol):
    """A density p_σ over images of any size that were smoothed by white noise, p_σ = p * N(0, σ²).

    Images are real, ``(B, 1, H, W)``, or complex as their real and imaginary parts, ``(B, 2, H, W)``; then ``phase``,
    ``(B, 1, H, W)`` complex numbers of modulus 1, is taken out first, so that the real part is the anatomy and the
    imaginary one small. ``offset`` shifts a grid of patches; a prior without a grid ignores it.
    """

    def log_prob(
        self, x: Tensor, sigma: Sigma, *, phase: Tensor | None = None, offset: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """The log-density log p_σ(x) in nats, ``(B,)``."""
        ...

    def grad(self, x: Tensor, sigma: Sigma, *, phase: Tensor | None = None, offset: tuple[int, int] = (0, 0)) -> Tensor:
        """∇ log p_σ(x) = (denoise(x, σ) − x) / σ² (Tweedie), like ``x``."""
        ...

    def denoise(
        self, x: Tensor, sigma: Sigma, *, phase: Tensor | None = None, offset: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """Posterior mean E[clean image | x] where x has noise σ, like ``x``."""
        ...
