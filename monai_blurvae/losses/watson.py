"""Watson's perceptual model of block DCTs as a reconstruction term, the paper's row "Watson"."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_blurvae.errors import WeightsError
from monai_blurvae.functional import dct_matrix
from monai_blurvae.losses.base import ReconstructionTerm
from monai_blurvae.networks.perceptual import read_tensors

BLOCK_SIZE = 8

WATSON_SENSITIVITY = (
    (1.40, 1.01, 1.16, 1.66, 2.40, 3.43, 4.79, 6.56),
    (1.01, 1.45, 1.32, 1.52, 2.00, 2.71, 3.67, 4.93),
    (1.16, 1.32, 2.24, 2.59, 2.98, 3.64, 4.60, 5.88),
    (1.66, 1.52, 2.59, 3.77, 4.55, 5.30, 6.28, 7.60),
    (2.40, 2.00, 2.98, 4.55, 6.15, 7.46, 8.71, 10.17),
    (3.43, 2.71, 3.64, 5.30, 7.46, 9.62, 11.58, 13.51),
    (4.79, 3.67, 4.60, 6.28, 8.71, 11.58, 14.50, 17.29),
    (6.56, 4.93, 5.88, 7.60, 10.17, 13.51, 17.29, 21.15),
)
"""Watson's table t_ij: the change of DCT coefficient (i, j) that is just visible, for intensities 0 to 255 (1993)."""

# JPEG's (ITU-R BT.601) luma and chroma of red, green and blue.
_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))

# In place of a coefficient of zero, where the derivative of |C|^w by C is infinite.
_MASKING_EPSILON = 1e-10

_COLOUR_PREFIXES = ("ly.", "lcb.", "lcr.")
_UNUSED_KEYS = ("blocksize", "dct.", "to_YCbCr.")


class WatsonParameters(NamedTuple):
    """Parameters of C channels, C = 1 for grey and 3 for Y, Cb, Cr; or C = 1 for all three alike.

    Attributes:
        table: sensitivities t_ij > 0, ``(C, 8, 8)``, in units of intensity.
        alpha: exponent of the luminance masking, ``(C,)``.
        w: exponent of the contrast masking in [0, 1], ``(C,)``.
        p: exponent of the pooling, positive, ``(C,)``.
        channel_weights: λ of Y, Cb and Cr, ``(3,)``.
    """

    table: Tensor
    alpha: Tensor
    w: Tensor
    p: Tensor
    channel_weights: Tensor


def block_dct(images: Tensor) -> Tensor:
    """Orthonormal DCT-II of the 8×8 blocks of images.

    Args:
        images: ``(B, C, H, W)``; where H or W is no multiple of 8, the last row or column is repeated.

    Returns:
        ``(B, C, blocks, 8, 8)``, the blocks row by row.
    """
    height, width = images.shape[2:]
    images = F.pad(images, (0, -width % BLOCK_SIZE, 0, -height % BLOCK_SIZE), mode="replicate")
    blocks = images.unfold(2, BLOCK_SIZE, BLOCK_SIZE).unfold(3, BLOCK_SIZE, BLOCK_SIZE).flatten(2, 3)
    matrix = dct_matrix(BLOCK_SIZE, images.dtype, images.device)
    return matrix @ blocks @ matrix.T


class WatsonLoss(ReconstructionTerm):
    """Watson-DCT distance of each image (Watson 1993; made differentiable by Czolbe et al., NeurIPS 2020).

    With C and Ĉ the orthonormal DCTs of the 8×8 blocks k of image and reconstruction:

    - luminance masking, t_L = t_ij · (C_00k / C̄_00)^α, where C̄_00 is the mean over the blocks of this image;
    - contrast masking, S_ijk = smax(t_L, |C_ijk|^w · t_L^(1−w)), smax(a, b) = (a eᵃ + b eᵇ) / (eᵃ + eᵇ);
    - pooling, D = (Σ_ijk |(Ĉ_ijk − C_ijk) / S_ijk|^p)^(1/p).

    Colour images (RGB) are compared in Y, Cb, Cr at full resolution, Σ λ_c D_c, as Czolbe et al. do, all λ = 1/3 unless
    learned: a mean over the channels and no sum, in which a grey image told in RGB counts a third of the grey one. The
    masking is the image's, not the reconstruction's: the distance is not symmetric. D is a norm of error over
    visibility in just-noticeable differences, pooled over all blocks and not averaged. No likelihood.

    Three things differ from the code of Czolbe et al. C̄_00 is of one image, there of the whole batch. C_00k / C̄_00 has
    a floor, because a black block, as all around a brain, would otherwise have the threshold zero and an infinite
    distance. And no small number is added to the errors: D is exactly zero at x̂ = x, and so is its gradient there, a
    subgradient.

    Args:
        weights_path: a file of learned parameters in place of Watson's table, ``alpha``, ``w`` and ``p``: a dictionary
            of tensors with the keys that Czolbe et al. publish theirs with. Grey: ``t_tild`` ``(8, 8)``, log t;
            ``alpha``; ``w_tild``, the logit of w; ``beta``, the exponent p. Colour: the same three times, with ``ly.``,
            ``lcb.`` and ``lcr.`` before the key, and ``w_tild`` ``(3,)``, whose softmax is λ.
        alpha: exponent of the luminance masking; 0 for none.
        w: exponent of the contrast masking in [0, 1]; 0 for none.
        p: exponent of the pooling, positive; below 1, as in the published grey weights (0.965), D is no norm.
        intensity_max: intensity of white, to which images in [−1, 1] are scaled from 0 up; None for 255, which
            Watson's table is for, or 1 with learned weights, as the authors trained theirs.
        luminance_floor: smallest C_00k / C̄_00, positive.
        random_shift: whether, in training mode, the grid of blocks is moved by up to 4 pixels at random in each
            call, as the authors do against block artefacts; the random numbers are torch's. Off, the term is
            deterministic.
        reduction: as in :class:`ReconstructionTerm`.

    Raises:
        ValueError: for a number out of range or an unknown reduction; when called, for images that are not grey or
            RGB in two dimensions.
        WeightsError: if the file cannot be used.
    """

    table: Tensor
    alpha: Tensor
    w: Tensor
    channel_weights: Tensor
    ycbcr: Tensor

    def __init__(
        self,
        weights_path: str | Path | None = None,
        alpha: float = 0.649,
        w: float = 0.7,
        p: float = 4.0,
        intensity_max: float | None = None,
        luminance_floor: float = 0.05,
        random_shift: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        if intensity_max is None:
            intensity_max = 255.0 if weights_path is None else 1.0
        _check_numbers(w, p, intensity_max, luminance_floor)
        parameters = watson_parameters(alpha, w, p) if weights_path is None else load_watson_weights(weights_path)
        for name in ("table", "alpha", "w", "channel_weights"):
            self.register_buffer(name, getattr(parameters, name), persistent=False)
        self.exponents: list[float] = parameters.p.tolist()
        self.register_buffer("ycbcr", torch.tensor(_YCBCR), persistent=False)
        self.weights_path = weights_path
        self.intensity_max = intensity_max
        self.luminance_floor = luminance_floor
        self.random_shift = random_shift

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """D, for colour images Σ λ_c D_c, ``(B,)``."""
        self._check_images(target)
        both = self._intensities(torch.cat([input, target]))
        if self.random_shift and self.training:
            both = _shifted(both)
        coefficients, reference = block_dct(both).chunk(2)
        errors = (coefficients - reference) / self._visibility(reference)
        exponents = self.exponents * (target.shape[1] // len(self.exponents))
        # The gradient of vector_norm at zero is zero, not NaN.
        norms = [torch.linalg.vector_norm(errors[:, c], p, dim=(1, 2, 3)) for c, p in enumerate(exponents)]
        distance = torch.stack(norms, 1)
        return distance[:, 0] if target.shape[1] == 1 else distance @ self.channel_weights.to(distance)

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"images must have shape (batch, 1 or 3, height, width) for WatsonLoss, but have {tuple(images.shape)}."
            )
        if self.weights_path is not None and len(self.table) != images.shape[1]:
            raise ValueError(
                f"images have {images.shape[1]} channels, but {self.weights_path} holds weights for {len(self.table)}; "
                "choose the file for grey or for colour images to match."
            )

    def _intensities(self, images: Tensor) -> Tensor:
        """From [−1, 1] to [0, intensity_max]; colour as Y, Cb, Cr, the chroma moved into the same range."""
        intensities = (images + 1) * (self.intensity_max / 2)
        if images.shape[1] == 1:
            return intensities
        middle = torch.tensor([0.0, 0.5, 0.5]).to(images).view(1, 3, 1, 1) * self.intensity_max
        return torch.einsum("dc,bchw->bdhw", self.ycbcr.to(images), intensities) + middle

    def _visibility(self, reference: Tensor) -> Tensor:
        """The just visible change S of each coefficient, like ``reference``, ``(B, C, blocks, 8, 8)``."""
        alpha, w = (value.to(reference).view(1, -1, 1, 1, 1) for value in (self.alpha, self.w))
        direct = reference[..., :1, :1]
        mean = direct.mean(2, keepdim=True).clamp_min(torch.finfo(reference.dtype).tiny)
        threshold = self.table.to(reference)[None, :, None] * (direct / mean).clamp_min(self.luminance_floor) ** alpha
        contrast = (reference.abs() + _MASKING_EPSILON) ** w * threshold ** (1 - w)
        return _smooth_maximum(threshold, contrast)


def _smooth_maximum(a: Tensor, b: Tensor) -> Tensor:
    """(a eᵃ + b eᵇ) / (eᵃ + eᵇ)."""
    share = torch.sigmoid(a - b)
    return share * a + (1 - share) * b


def _shifted(images: Tensor) -> Tensor:
    """All images moved by the same random number of pixels, −4 to 3 along each axis; the border is repeated."""
    height, width = images.shape[2:]
    padded = F.pad(images, (BLOCK_SIZE // 2,) * 4, mode="replicate")
    top, left = torch.randint(BLOCK_SIZE, (2,)).tolist()
    return padded[..., top : top + height, left : left + width]


def _check_numbers(w: float, p: float, intensity_max: float, luminance_floor: float) -> None:
    if not 0 <= w <= 1:
        raise ValueError(f"w must lie in [0, 1], but is {w}.")
    if not p > 0:
        raise ValueError(f"p must be positive, but is {p}.")
    if not intensity_max > 0:
        raise ValueError(f"intensity_max must be positive, but is {intensity_max}.")
    if not luminance_floor > 0:
        raise ValueError(f"luminance_floor must be positive, but is {luminance_floor}.")


def watson_parameters(alpha: float = 0.649, w: float = 0.7, p: float = 4.0) -> WatsonParameters:
    """Watson's table and exponents, the same for all channels, and equal channel weights."""
    return WatsonParameters(
        torch.tensor(WATSON_SENSITIVITY)[None],
        torch.tensor([alpha]),
        torch.tensor([w]),
        torch.tensor([p]),
        torch.full((3,), 1 / 3),
    )


def load_watson_weights(path: str | Path) -> WatsonParameters:
    """Learned parameters from a file in the format that :class:`WatsonLoss` describes.

    Raises:
        WeightsError: if the file is missing or damaged, or a key is missing, unknown or of another shape.
    """
    content = read_tensors(path, "name a file of Watson weights by weights_path")
    colour = any(str(key).startswith(_COLOUR_PREFIXES) for key in content)
    prefixes = _COLOUR_PREFIXES if colour else ("",)
    expected: dict[str, tuple[int, ...]] = {"w_tild": (3,)} if colour else {}
    for prefix in prefixes:
        expected[f"{prefix}t_tild"] = (BLOCK_SIZE, BLOCK_SIZE)
        expected.update({f"{prefix}{name}": () for name in ("alpha", "w_tild", "beta")})
    values = _checked(content, expected, str(path))
    p = torch.stack([values[f"{prefix}beta"] for prefix in prefixes])
    if not bool((p > 0).all()):
        raise WeightsError(f"{path} has the pooling exponents {p.tolist()} under 'beta', which must be positive.")
    return WatsonParameters(
        torch.stack([values[f"{prefix}t_tild"].exp() for prefix in prefixes]),
        torch.stack([values[f"{prefix}alpha"] for prefix in prefixes]),
        torch.stack([values[f"{prefix}w_tild"].sigmoid() for prefix in prefixes]),
        p,
        values["w_tild"].softmax(0) if colour else torch.full((3,), 1 / 3),
    )


def _checked(content: Mapping[str, object], expected: Mapping[str, tuple[int, ...]], path: str) -> dict[str, Tensor]:
    """The expected tensors in the default precision."""
    for key in content:
        name = str(key)
        for prefix in _COLOUR_PREFIXES:
            name = name.removeprefix(prefix)
        if key not in expected and not name.startswith(_UNUSED_KEYS):
            raise WeightsError(f"{path} has the unknown key {key!r}; the keys of Watson weights are {list(expected)}.")
    values = {}
    for key, shape in expected.items():
        value = content.get(key)
        if not isinstance(value, Tensor) or value.squeeze().shape != shape or not bool(torch.isfinite(value).all()):
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else "no tensor"
            raise WeightsError(f"{path} has {found} under {key!r}, where finite numbers of shape {shape} are expected.")
        values[key] = value.detach().squeeze().to(torch.get_default_dtype(), copy=True)
    return values
