"""Barron's general and adaptive robust loss (CVPR 2019) as a likelihood with all its constants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from monai_blurvae.functional import dct_matrix, without_autocast
from monai_blurvae.losses.base import ReconstructionTerm, as_size

ALPHA_MIN = 0.001
ALPHA_MAX = 1.999
REPRESENTATIONS = ("pixel", "dct")

_EPSILON = 1e-12  # keeps the general formula of ρ defined at α = 0 and 2, where it is a limit
_TABLE_NODES = 512


def general_robust_rho(residual: Tensor, alpha: Tensor) -> Tensor:
    """ρ(r, α, 1) = (b/α) [(r²/b + 1)^(α/2) − 1] with b = |α − 2|, eq. 1 of Barron 2019.

    α = 2 is r²/2, α = 1 √(r² + 1) − 1, and α = 0 log(r²/2 + 1); the power is taken through log1p and expm1, so that
    one formula has full precision near both ends.

    Args:
        residual: errors divided by the scale c.
        alpha: shape α in [0, 2], to broadcast with ``residual``.

    Returns:
        Of the broadcast shape, not negative.
    """
    b = (alpha - 2).abs() + _EPSILON
    d = alpha + _EPSILON
    return b / d * torch.expm1(0.5 * d * torch.log1p(residual.square() / b))


def integrate_log_partition(alpha: Tensor) -> Tensor:
    """Log Z(α), Z(α) = ∫ exp(−ρ(r, α, 1)) dr, by numerical integration.

    After r = sinh t the tails, which fall as r⁻² at α = 0, fall at least as exp(−t); the trapezoidal rule on such a
    smooth, even function converges exponentially, and 2,000 steps up to t = 40 leave nothing but rounding.

    Args:
        alpha: ``(K,)`` in float64, in [0, 2].

    Returns:
        ``(K,)``.
    """
    step = 0.02
    t = step * torch.arange(2001, dtype=alpha.dtype, device=alpha.device)
    weight = torch.full_like(t, 2 * step)  # both halves of the axis …
    weight[0] = step  # … which share the origin
    log_integrand = -general_robust_rho(t.sinh(), alpha[:, None]) + t.cosh().log() + weight.log()
    return log_integrand.logsumexp(1)


# Nodes even in log α/(2 − α) lie closest together where log Z bends most: near α = 2 it goes as b log b.
_FIRST_NODE, _LAST_NODE = (math.log(a / (2 - a)) for a in (ALPHA_MIN, ALPHA_MAX))
_NODE_SPACING = (_LAST_NODE - _FIRST_NODE) / (_TABLE_NODES - 1)


@lru_cache(maxsize=8)
def _log_partition_table(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Log Z at the nodes, and its derivative in their coordinate times their spacing; ``(_TABLE_NODES,)`` each."""
    # An inference tensor, once cached, could take part in no later training.
    with torch.inference_mode(False), torch.enable_grad():
        nodes = torch.linspace(_FIRST_NODE, _LAST_NODE, _TABLE_NODES, dtype=torch.float64).requires_grad_()
        values = integrate_log_partition(2 * nodes.sigmoid())
        (slopes,) = torch.autograd.grad(values.sum(), nodes)
        return values.detach().to(device, dtype), (slopes * _NODE_SPACING).to(device, dtype)


def log_partition(alpha: Tensor) -> Tensor:
    """Log Z(α), Z(α) = ∫ exp(−ρ(r, α, 1)) dr, differentiable in α, by cubic Hermite interpolation of a table.

    Args:
        alpha: any shape, in [0.001, 1.999].

    Returns:
        Of the same shape; within 1e-8 of the integral in float64.
    """
    values, slopes = _log_partition_table(alpha.dtype, alpha.device)
    position = (alpha.log() - (2 - alpha).log() - _FIRST_NODE) / _NODE_SPACING
    left = position.detach().floor().clamp(0, _TABLE_NODES - 2)
    t = position - left
    i = left.long()
    rest = 1 - t
    # not values[i]: an index without dimensions is read by the host, which would have to wait for the device
    return rest.square() * ((1 + 2 * t) * values.take(i) + t * slopes.take(i)) + t.square() * (
        (1 + 2 * rest) * values.take(i + 1) - rest * slopes.take(i + 1)
    )


class RobustLoss(ReconstructionTerm):
    """Σ [ρ(r, α, c) + log c + log Z(α)] of each image, r = x − x̂: −log of a density with learnt shape and scale.

    Shape α, between 2 (Gaussian) and 0 (Cauchy), and scale c are parameters of this module, so the optimiser of the
    VAE has to hold them: ``loss.parameters()``. All constants are in the term (eq. 16 of Barron 2019); without them
    the best scale would be infinite.

    Args:
        representation: ``"pixel"``: one α and one c for all pixels and channels. ``"dct"``: one pair for each
            coefficient of the orthonormal 2-D DCT-II of each channel; the transform is a rotation, so the density of
            the coefficients is that of the image. Colours stay RGB in both; Barron has a pair for each pixel and
            channel in the first, and by default turns RGB to YUV, scaled to keep volumes.
        image_size: height and width, or one number for both; for ``"dct"`` alone.
        channels: of the images, for ``"dct"`` alone.
        alpha: first value of α, in (0.001, 1.999).
        scale: first value of c, in the units of the images. The default is the RMS error at a PSNR of 20 dB for images
            in [−1, 1].
        min_scale: lower bound of c. A background that is reproduced exactly would otherwise draw c to 0 and the density
            to infinity. The default is half a gray level of 8-bit images in [−1, 1].
        reduction: as in :class:`ReconstructionTerm`.

    Attributes:
        raw_alpha: α = 0.001 + 1.998 · sigmoid(raw_alpha); without dimensions, or ``(C, H, W)``.
        raw_scale: c = min_scale + exp(raw_scale), of the same shape.

    Raises:
        ValueError: for an unknown representation or reduction, a ``"dct"`` without ``image_size``, or an ``alpha`` or
            ``scale`` outside its range.
    """

    is_likelihood = True

    def __init__(
        self,
        representation: str = "pixel",
        image_size: int | Sequence[int] | None = None,
        channels: int = 1,
        alpha: float = 1.0,
        scale: float = 0.2,
        min_scale: float = 1 / 255,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        if not ALPHA_MIN < alpha < ALPHA_MAX:
            raise ValueError(f"alpha must lie between {ALPHA_MIN} and {ALPHA_MAX}, but is {alpha!r}.")
        if not 0 < min_scale < scale:
            raise ValueError(
                f"scale and min_scale must satisfy 0 < min_scale < scale, but are {scale!r}, {min_scale!r}."
            )
        self.representation = representation
        self.min_scale = min_scale
        shape = self._parameter_shape(representation, image_size, channels)
        fraction = (alpha - ALPHA_MIN) / (ALPHA_MAX - ALPHA_MIN)
        self.raw_alpha = nn.Parameter(torch.full(shape, math.log(fraction / (1 - fraction))))
        self.raw_scale = nn.Parameter(torch.full(shape, math.log(scale - min_scale)))

    @staticmethod
    def _parameter_shape(representation: str, image_size: int | Sequence[int] | None, channels: int) -> tuple[int, ...]:
        if representation not in REPRESENTATIONS:
            raise ValueError(f"representation must be one of {REPRESENTATIONS}, but is {representation!r}.")
        if representation == "pixel":
            return ()
        size = () if image_size is None else as_size(image_size)
        if len(size) != 2:
            raise ValueError(f"image_size must be (height, width) for the representation 'dct', but is {image_size!r}.")
        return (channels, *size)

    @property
    def alpha(self) -> Tensor:
        """Shape α, without dimensions or ``(C, H, W)``."""
        return ALPHA_MIN + (ALPHA_MAX - ALPHA_MIN) * self.raw_alpha.sigmoid()

    @property
    def scale(self) -> Tensor:
        """Scale c in the units of the images, without dimensions or ``(C, H, W)``."""
        return self.min_scale + self.raw_scale.exp()

    def _coefficients(self, residual: Tensor) -> Tensor:
        if self.representation == "pixel":
            return residual
        if residual.shape[1:] != self.raw_alpha.shape:
            raise ValueError(
                f"the images have channels and size {tuple(residual.shape[1:])}, but channels and image_size of "
                f"{type(self).__name__} say {tuple(self.raw_alpha.shape)}."
            )
        rows, columns = (dct_matrix(n, residual.dtype, residual.device) for n in residual.shape[2:])
        return rows @ residual @ columns.T

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """Σ [ρ(r, α, c) + log c + log Z(α)], ``(B,)``, in nats.

        Raises:
            ValueError: if the images do not have the channels and size that the representation ``"dct"`` was made for.
        """
        coefficients = self._coefficients(target - input)
        # Float32 parameters without dimensions would leave log c and log Z in float32 for float64 images.
        alpha, scale = self.alpha.to(coefficients.dtype), self.scale.to(coefficients.dtype)
        distance = general_robust_rho(coefficients / scale, alpha)
        return (distance + (scale.log() + log_partition(alpha))).flatten(1).sum(1)

    def log_prob(self, input: Tensor, target: Tensor, kernel: Tensor | None = None) -> Tensor:
        """Log-density of x given x̂ with all constants, ``(B,)``, in nats."""
        with without_autocast(target.device):
            return -self.per_image(input, target, kernel)
