"""What a prior is to the reconstructions, and one density over images of any size, made of that of their patches."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from monai_blurvae.functional import covering_steps, image_of, patches_of
from monai_blurvae.seeding import torch_rng

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


IMAGINARY_SHARE = 0.02
"""Standard deviation of the imaginary part, over the length of ``intensity``, where none is given."""


class ScoredPatches(NamedTuple):
    """The log-density of patches and its gradient.

    Attributes:
        log_prob: ``(N,)``, in nats on [−1, 1].
        score: ∇ log p, ``(N, p, p)``.
    """

    log_prob: Tensor
    score: Tensor


class _Evaluated(NamedTuple):
    log_prob: Tensor  # (B,)
    grad: Tensor  # like the images


class PatchPrior(nn.Module, ABC):
    """log p_σ(x) = (1 / n) Σ log p_σ(patch) over a grid of patches, of which n cover each pixel.

    Opposite borders of the image are joined, so that there are neither seams nor borders: along each axis patches are
    the greatest common divisor of ``stride`` and size apart, which is the stride itself along axes that are multiples
    of it. Patches with noise σ are a density of their own, p_σ = p * N(0, σ²), whose gradient is that of the posterior
    mean (Tweedie): ∇ log p_σ(x) = (denoise(x, σ) − x) / σ². Averaged over patches, both sides keep it: ``denoise`` is
    the mean, at each pixel, of the posterior means of the patches that cover it.

    Images are real ``(B, 1, H, W)``, or complex as real and imaginary part ``(B, 2, H, W)``. Of complex ones the phase
    is taken out; the real part that is left is under the patches' density, the imaginary one under N(0, τ² + σ²), pixel
    by pixel.

    Args:
        patch_size: side p of the patches; images are at least as large.
        stride: wanted distance of neighbouring patches, a divisor of p.
        intensity: (low, high) of the images, which the patches' density has at −1 and 1: for magnitudes (0, white).
        imaginary_std: standard deviation τ of the imaginary part, in the units of the images; by default 2 % of
            high − low.
        seed: of random latents, which are the same in every call.
        chunk_size: patches that are looked at together; memory grows with it, results do not depend on it.

    Raises:
        ValueError: naming the argument that does not fit.
    """

    def __init__(
        self,
        patch_size: int,
        stride: int,
        intensity: tuple[float, float],
        imaginary_std: float | None,
        seed: int,
        chunk_size: int,
    ) -> None:
        super().__init__()
        if stride < 1 or patch_size % stride:
            raise ValueError(f"stride must be a divisor of the patches' size {patch_size}, but is {stride}.")
        low, high = (float(value) for value in intensity)
        if not low < high or not math.isfinite(high - low):
            raise ValueError(f"intensity must be two numbers (low, high), the smaller first, but is {intensity}.")
        if imaginary_std is not None and not imaginary_std > 0:
            raise ValueError(f"imaginary_std must be positive, but is {imaginary_std}.")
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be positive, but is {chunk_size}.")
        self.patch_size = patch_size
        self.stride = stride
        self.intensity = (low, high)
        self.imaginary_std = IMAGINARY_SHARE * (high - low) if imaginary_std is None else float(imaginary_std)
        self.seed = seed
        self.chunk_size = chunk_size

    @property
    def scale(self) -> float:
        """Length of [−1, 1] over that of ``intensity``."""
        return 2.0 / (self.intensity[1] - self.intensity[0])

    @abstractmethod
    def patch_score(self, patches: Tensor, sigma: float, noise: Tensor) -> ScoredPatches:
        """Log-density of patches with noise, and its gradient, which autograd can differentiate by ``patches``.

        Args:
            patches: ``(N, p, p)`` on [−1, 1], with noise.
            sigma: its standard deviation on [−1, 1].
            noise: rows of :meth:`patch_noise` for these patches.
        """

    def patch_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """The random numbers of ``count`` patches, ``(count, ...)``; none by default."""
        return torch.empty(count, 0)

    def log_prob(
        self, x: Tensor, sigma: float | Tensor, *, phase: Tensor | None = None, offset: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """Log p_σ(x), with respect to the units of ``x``; its autograd is :meth:`grad`.

        Args:
            x: images with noise, ``(B, 1, H, W)`` or ``(B, 2, H, W)``.
            sigma: standard deviation of the noise in the units of ``x``, of real and imaginary part each; a number, or
                one for each image, ``(B,)``.
            phase: of complex images: numbers of modulus 1, or their angles, that broadcast to ``(B, 1, H, W)``.
            offset: (row, column) of the grid's first patch.

        Returns:
            ``(B,)``, in nats.

        Raises:
            ValueError: for images, noise levels or a phase that do not fit, in a sentence.
        """
        _check(self, x, phase)
        log_prob: Tensor = _LogProb.apply(x, lambda images: self._evaluate(images, sigma, phase, offset))
        return log_prob

    def grad(
        self, x: Tensor, sigma: float | Tensor, *, phase: Tensor | None = None, offset: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """∇ log p_σ(x) = (denoise(x, σ) − x) / σ², like ``x``; arguments and errors as in :meth:`log_prob`.

        Its autograd is the product of a vector with the derivative of this function of ``x``, chunk by chunk; that is
        the Hessian of log p_σ, symmetric, where :meth:`patch_score` has the exact gradient. σ and phase get none.
        """
        _check(self, x, phase)
        return self._evaluate(x, sigma, phase, offset).grad

    def denoise(
        self, x: Tensor, sigma: float | Tensor, *, phase: Tensor | None = None, offset: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """Posterior mean of the image without noise, like ``x``; arguments and errors as in :meth:`log_prob`.

        Its derivative is I + σ² ∇² log p_σ(x), the covariance of the posterior over σ²; autograd as of :meth:`grad`.
        """
        levels = _levels(sigma, x).to(x)
        return x + levels.square().view(-1, 1, 1, 1) * self.grad(x, sigma, phase=phase, offset=offset)

    def _evaluate(self, x: Tensor, sigma: float | Tensor, phase: Tensor | None, offset: tuple[int, int]) -> _Evaluated:
        levels = _levels(sigma, x)
        if x.shape[1] == 1:
            return self._real(x, levels, offset)
        assert phase is not None
        turn = phase if phase.is_complex() else torch.polar(torch.ones_like(phase), phase)
        turned = torch.complex(x[:, :1], x[:, 1:]) * turn.conj().to(x.device)
        real = self._real(turned.real, levels, offset)
        variance = self.imaginary_std**2 + levels.square().view(-1, 1, 1, 1).to(x)
        imaginary = turned.imag
        log_prob = -0.5 * (imaginary.square() / variance + (2 * math.pi * variance).log()).double().sum((1, 2, 3))
        grad = torch.complex(real.grad, -imaginary / variance) * turn.to(x.device)
        return _Evaluated(real.log_prob + log_prob.to(x), torch.cat([grad.real, grad.imag], 1).to(x))

    def _real(self, x: Tensor, levels: Tensor, offset: tuple[int, int]) -> _Evaluated:
        """Image by image, which bounds the memory, and lets each have a noise of its own."""
        scaled = (x - self.intensity[0]) * self.scale - 1.0
        parts = [self._one(scaled[i : i + 1], float(level) * self.scale, offset) for i, level in enumerate(levels)]
        jacobian = x.shape[2] * x.shape[3] * math.log(self.scale)
        log_prob = torch.stack([part.log_prob for part in parts]) + jacobian
        return _Evaluated(log_prob.to(x), (self.scale * torch.cat([part.grad for part in parts])).to(x))

    def _one(self, x: Tensor, sigma: float, offset: tuple[int, int]) -> _Evaluated:
        """Of one image on [−1, 1]."""
        size = x.shape[2:]
        rows, columns = covering_steps(size, self.stride)
        dtype, device = self._place(x)
        patches = patches_of(x.to(device, dtype), self.patch_size, self.stride, offset)[0]
        noise = self.patch_noise(len(patches), torch_rng(self.seed, "prior")).to(device, dtype)
        chunks = zip(patches.split(self.chunk_size), noise.split(self.chunk_size), strict=True)
        scored = [
            _PatchScore.apply(chunk, partial(self.patch_score, sigma=sigma, noise=part)) for chunk, part in chunks
        ]
        log_probs, scores = (torch.cat(parts) for parts in zip(*scored, strict=True))
        total = log_probs.double().sum()
        score = image_of(scores[None], size, self.stride, offset)
        return _Evaluated(total * (rows * columns / self.patch_size**2), score)

    def _place(self, x: Tensor) -> tuple[torch.dtype, torch.device]:
        """Where the network computes, and in what."""
        parameter = next(self.parameters(), x)
        return parameter.dtype, parameter.device


class _LogProb(torch.autograd.Function):
    """The log-density with the gradient that came with it, so that no graph of all patches is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, evaluate: Callable[[Tensor], _Evaluated]) -> Tensor:
        value = evaluate(x.detach())
        ctx.save_for_backward(value.grad)
        return value.log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return upstream.view(-1, 1, 1, 1) * grad, None


class _PatchScore(torch.autograd.Function):
    """Log-density and gradient of patches, whose graph is made anew in the backward pass, for one chunk at a time."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, score: Callable[[Tensor], ScoredPatches]) -> tuple[Tensor, Tensor]:
        scored = score(patches.detach())
        ctx.save_for_backward(patches)
        ctx.score = score
        ctx.mark_non_differentiable(scored.log_prob)
        return scored.log_prob, scored.score

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, upstream: Tensor) -> tuple[Tensor, None]:
        (patches,) = ctx.saved_tensors
        with torch.enable_grad():
            patches = patches.detach().requires_grad_()
            (product,) = torch.autograd.grad(ctx.score(patches).score, patches, upstream)
        return product, None


def _levels(sigma: float | Tensor, x: Tensor) -> Tensor:
    """σ of each image, ``(B,)``, in float64 on the CPU, where each is looked at."""
    levels = torch.as_tensor(sigma, dtype=torch.float64, device="cpu").reshape(-1)
    if len(levels) not in (1, len(x)) or not bool(torch.isfinite(levels).all()) or bool((levels < 0).any()):
        raise ValueError(
            f"sigma must be a standard deviation of at least 0, or one for each of the {len(x)} images, but is {sigma}."
        )
    return levels.expand(len(x))


def _check(prior: PatchPrior, x: Tensor, phase: Tensor | None) -> None:
    if x.is_complex():
        raise ValueError("the images are complex numbers; give real and imaginary part as two channels (B, 2, H, W).")
    if x.ndim != 4 or x.shape[1] not in (1, 2) or not len(x):
        raise ValueError(
            f"the images have shape {tuple(x.shape)}, where (B, 1, H, W), or of complex ones (B, 2, H, W), is needed; "
            "give the slices of a volume as a batch."
        )
    if min(x.shape[2:]) < prior.patch_size:
        raise ValueError(
            f"the images have {x.shape[2]}×{x.shape[3]} pixels, fewer than the prior's patches of "
            f"{prior.patch_size}×{prior.patch_size}; pad them."
        )
    if not bool(torch.isfinite(x).all()):
        raise ValueError("the images hold NaN or infinite values; replace them first.")
    if (phase is not None) != (x.shape[1] == 2):
        found = "complex and come without a phase" if phase is None else "real and come with a phase"
        raise ValueError(f"the images are {found}; give a phase with complex images alone.")
    if phase is not None:
        _check_phase(phase, x)


def _check_phase(phase: Tensor, x: Tensor) -> None:
    expected = (len(x), 1, *x.shape[2:])
    try:
        fits = phase.ndim == 4 and torch.broadcast_shapes(phase.shape, expected) == expected
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"phase has shape {tuple(phase.shape)}, but the images need {expected}.")
    if phase.is_complex() and not bool(((phase.abs() - 1).abs() < 1e-3).all()):
        raise ValueError("phase must be complex numbers of modulus 1, or real angles; divide it by its modulus.")
