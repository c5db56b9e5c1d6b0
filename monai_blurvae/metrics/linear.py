"""The exact optimum of a linear variational autoencoder: what a trained network has to beat."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from monai_blurvae.functional import kl_standard_normal
from monai_blurvae.functional.likelihood import spectral_filter
from monai_blurvae.metrics.image_quality import CappedPSNRMetric, make_ssim_metric, to_unit_range
from monai_blurvae.metrics.likelihood import VARIANCE_FLOOR
from monai_blurvae.metrics.spectra import log_spectrum_distance, relative_sharpness
from monai_blurvae.seeding import torch_rng

VALUES_AT_ONCE = 2**22
"""Pixels times channels of the images that are held in float64 at once, some copies of them: 1024 of 64×64."""

PAIRS_AT_ONCE = 64
"""Pairs that are compared at once: SSIM takes several times their memory."""

EXACT_SIZE = 1024
"""Largest symmetric matrix of which all eigenvectors are computed, since that takes no time to speak of."""

LEAST_BETA = 1e-30
"""β over the largest eigenvalue at which the search for a rate begins: some 34 nats for each component."""

RESIDUAL = 1e-9
"""Largest ‖S u − λ u‖ over the largest λ, at which a pair counts as found; the error of λ is of its square."""


class LinearTerms(NamedTuple):
    """The objective and its parts, in nats, without the constants of the Gaussian; ``(B,)`` each, or of no dimension.

    Attributes:
        objective: reconstruction + β · kl.
        reconstruction: E_q[½ Σ_j |W_j|² |X_j − X̂_j(z)|²].
        kl: KL(q(z|x) ‖ N(0, I)), the rate.
    """

    objective: Tensor
    reconstruction: Tensor
    kl: Tensor


@dataclass(frozen=True, eq=False)
class LinearVAE:
    """A linear VAE at its optimum, see :func:`fit_linear_vae`; all in float64, on the device of the training images.

    It has the ``encode`` and ``decode`` of a :class:`~monai_blurvae.metrics.likelihood.LatentModel`. What it gives is
    not clipped to the range of the images. Components and eigenvalues do not depend on β:
    ``dataclasses.replace(vae, beta=…)`` is the optimum at another β.

    Attributes:
        mean: m, the mean of the training images, ``(C, *image_size)``.
        components: orthonormal rows u_i, in whitened space, ``(latent_size, D)``; zeros where the eigenvalue is zero.
        eigenvalues: λ_i ≥ 0, the variance of W(x − m) along u_i, descending, ``(latent_size,)``.
        total_variance: the sum of all D eigenvalues, the mean of ‖W(x − m)‖² over the training images.
        beta: weight β > 0 of the KL.
        weight: |W|, half spectrum ``(1, 1 or C, *half)``; None for W = 1.
    """

    mean: Tensor
    components: Tensor
    eigenvalues: Tensor
    total_variance: float
    beta: float
    weight: Tensor | None = None

    def __post_init__(self) -> None:
        _check_beta(self.beta)

    @property
    def _modelled(self) -> Tensor:
        """max(λ, β), the variance that the model itself has along each component."""
        return self.eigenvalues.clamp_min(self.beta)

    @property
    def _scale(self) -> Tensor:
        """√(λ − β) = a, how far a latent of 1 goes along its component; 0 where λ ≤ β."""
        return (self._modelled - self.beta).sqrt()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log σ² of q(z|x); those of the prior in a component that is worth no rate.

        Args:
            x: images ``(B, C, *image_size)`` in [−1, 1].

        Returns:
            ``(B, latent_size)`` each.
        """
        whitened = _filter(x.to(self.mean) - self.mean, self.weight).flatten(1)
        mu = whitened @ self.components.T * (self._scale / self._modelled)
        return mu, (self.beta / self._modelled).log().expand_as(mu)

    def decode(self, z: Tensor) -> Tensor:
        """x̂(z) = m + W⁻¹ Σ_i a_i z_i u_i, ``(B, C, *image_size)``, of latents ``(B, latent_size)``."""
        whitened = (z.to(self.mean) * self._scale) @ self.components
        inverse = None if self.weight is None else 1 / self.weight
        return self.mean + _filter(whitened.unflatten(1, self.mean.shape), inverse)

    def reconstruct(self, images: Tensor) -> Tensor:
        """x̂(μ) of images ``(B, C, *image_size)`` in [−1, 1], of the same shape."""
        return self.decode(self.encode(images)[0])

    def terms(self, images: Tensor) -> LinearTerms:
        """The objective on images ``(B, C, *image_size)`` in [−1, 1], ``(B,)`` each; exact, no latent is drawn."""
        mu, log_var = self.encode(images)
        residual = _filter(images.to(self.mean) - self.decode(mu), self.weight)
        spread = (self._scale.square() * log_var.exp()).sum(1)
        return self._terms(0.5 * (residual.square().flatten(1).sum(1) + spread), kl_standard_normal(mu, log_var))

    def at_most_likely_variance(self) -> LinearVAE:
        """The same with β at the most likely noise variance, the mean of the eigenvalues that have no component.

        Of W = 1 it is probabilistic principal component analysis (Tipping and Bishop, 1999, equation 8).
        """
        others = self.components.shape[1] - len(self.eigenvalues)
        left = self.total_variance - float(self.eigenvalues.sum())
        return replace(self, beta=max(left / max(others, 1), VARIANCE_FLOOR))

    def log_prob(self, images: Tensor) -> Tensor:
        """The exact log-density of probabilistic principal component analysis with the noise variance β; for W = 1.

        The posterior of the optimum is the exact one, so that its evidence lower bound is log N(x; m, A Aᵀ + β).

        Args:
            images: ``(B, C, *image_size)`` in [−1, 1].

        Returns:
            In nats, ``(B,)``, float64.

        Raises:
            ValueError: if the model has a weight.
        """
        if self.weight is not None:
            raise ValueError("a linear model with a weight has no density of its own here; take the one of W = 1.")
        return -self.terms(images).objective / self.beta - 0.5 * images[0].numel() * math.log(2 * math.pi * self.beta)

    def expected_terms(self) -> LinearTerms:
        """Their means over the training images, by the formulas of :func:`fit_linear_vae`, without a dimension."""
        lost = self.total_variance - self.eigenvalues.sum() + self.eigenvalues.clamp_max(self.beta).sum()
        return self._terms(0.5 * lost, 0.5 * (self._modelled / self.beta).log().sum())

    def _terms(self, reconstruction: Tensor, kl: Tensor) -> LinearTerms:
        return LinearTerms(reconstruction + self.beta * kl, reconstruction, kl)


def fit_linear_vae(images: Tensor, latent_size: int, beta: float, weight: Tensor | None = None) -> LinearVAE:
    """The minimum over all linear encoders and decoders of the mean of ½ E_q Σ_j |W_j|² |X_j − X̂_j|² + β KL.

    The decoder is x̂ = A z + b, the posterior q(z|x) = N(M x + c, V), V any covariance, diagonal or not, the prior
    N(0, I). The objective is that of :class:`~monai_blurvae.losses.ELBOLoss` with
    :class:`~monai_blurvae.losses.L2Loss`, or for a weight with a :class:`~monai_blurvae.losses.WienerLoss` whose kernel
    is the same for all images. Its minimum is global and has a closed form:

    1. With y = W(x − m), m the training mean, the first term is ½ E_q ‖y − ŷ‖² (Parseval; W is circulant, and its
       phase plays no part). Over β, the objective is minus the evidence lower bound, but for constants, of the
       probabilistic PCA y = B z + noise of the fixed variance β, B = W A: β takes the place of the variance of 1 that
       the likelihood has in whitened space.
    2. The best q for any B is the posterior of that model, which is Gaussian, linear in y and of one covariance
       V = β (BᵀB + β)⁻¹; the bound is then tight, so the optimal decoder has maximum likelihood. For a
       fixed noise (Tipping and Bishop, Probabilistic principal component analysis, 1999, appendix A) that is b = m and
       B = U diag(a): u_i the eigenvectors of S, the covariance of y (over N, not N − 1), with the latent_size largest
       eigenvalues λ_i, and a_i² = max(λ_i − β, 0). BᵀB is diagonal and so is V: a diagonal posterior loses nothing.
    3. Along u_i, with v = u_iᵀ y of variance λ, any a has σ² = β / (a² + β), μ = a v / (a² + β), and with
       s = a² + β costs ½ λβ / s + ½ β log(s / β) on average, whose minimum over s ≥ β is at s = max(λ, β). So for
       λ > β:

       - posterior variance σ² = β / λ, mean μ = v √(λ − β) / λ, rate ½ log(λ / β) nats;
       - reconstruction from μ: (1 − β / λ) v; its residual has variance β² / λ;
       - expected squared error under q: β² / λ + a² σ² = β² / λ + (λ − β) β / λ = β.

       A component with λ ≤ β, or beyond latent_size, is not coded: rate 0, squared error λ. That is reverse
       water-filling, the water standing at β. In all, the minimum is
       ½ Σ_coded (β + β log(λ / β)) + ½ Σ_others λ.

    A weight that differs from image to image, such as that of a predicted kernel, has no closed form: take one, for
    example that of the mean kernel. More training images are better in two ways: of few, the components fit those
    images and not others, on which the optimum of the training images is then none.

    All is in float64, the images some at a time, the eigenvectors those of a matrix of min(N, D) rows: of 64×64 images
    and 256 components about 10 s on one core, and about as long again for the covariance of 4,000 images.

    Args:
        images: training images, ``(N, C, *image_size)`` in [−1, 1]; D = C · pixels.
        latent_size: number of latents, at least 1; those beyond the rank of the images stay without use.
        beta: weight β > 0 of the KL.
        weight: |W| > 0 as a half spectrum, ``(1, 1 or C, *half)``, for example of
            :func:`~monai_blurvae.functional.wiener_weight`, the same at j and −j as that of any kernel; None for W = 1.

    Returns:
        :class:`LinearVAE`.

    Raises:
        ValueError: if there are no images, ``latent_size`` or ``beta`` is not positive, or the weight is not positive
            or not of such a shape.
    """
    if images.ndim < 3 or not len(images):
        raise ValueError(f"images need the shape (N, C, *image_size) with N > 0, but have {tuple(images.shape)}.")
    if latent_size < 1:
        raise ValueError(f"latent_size must be at least 1, but is {latent_size}.")
    _check_beta(beta)
    mean = images.mean(0, dtype=torch.float64)
    if weight is not None:
        _check_weight(weight, images)
        weight = weight.to(mean)
    components, eigenvalues, total = _principal_components(images, mean, weight, latent_size)
    return LinearVAE(mean, components, eigenvalues, total, beta, weight)


def linear_yardstick(
    images: Tensor, reference: Tensor, latent_size: int, beta: float, weight: Tensor | None = None
) -> dict[str, float]:
    """The figures of the optimal linear VAE, to be set beside those of a network with the same objective.

    Args:
        images: test images in [−1, 1], ``(B, C, H, W)``, at least 11×11.
        reference: training images in [−1, 1], ``(N, C, H, W)``, on which it is fitted.
        latent_size: that of the network.
        beta: that of the objective.
        weight: as in :func:`fit_linear_vae`.

    Returns:
        As :func:`measure_linear_vae`.

    Raises:
        ValueError: as :func:`fit_linear_vae` and :func:`measure_linear_vae`.
    """
    return measure_linear_vae(fit_linear_vae(reference, latent_size, beta, weight), images)


def measure_linear_vae(vae: LinearVAE, images: Tensor) -> dict[str, float]:
    """Measure a linear VAE as :func:`~monai_blurvae.metrics.measure_model` measures a network.

    Args:
        vae: the model.
        images: in [−1, 1], ``(B, C, H, W)``, at least 11×11.

    Returns:
        Of the reconstructions from the posterior mean ``psnr`` (dB), ``ssim``, ``spectrum_reconstruction`` (decades)
        and ``sharpness_reconstruction``; ``kl`` and ``objective`` in nats. Means over the images.

    Raises:
        ValueError: if there are no images, or they are not of the shape of the training images.
    """
    if not len(images) or images.shape[1:] != vae.mean.shape:
        raise ValueError(
            f"images have the shape {tuple(images.shape)}, but at least one of {tuple(vae.mean.shape)}, that of the "
            "training images, is needed."
        )
    images = images.to(vae.mean.device)
    parts = _some_at_a_time(images)
    reconstructions = torch.cat([vae.reconstruct(part).float() for part in parts])
    terms = [vae.terms(part) for part in parts]
    figures = reconstruction_figures(reconstructions, images)
    kl, objective = (torch.cat([getattr(term, name) for term in terms]) for name in ("kl", "objective"))
    return {**figures, "kl": float(kl.mean()), "objective": float(objective.mean())}


def reconstruction_figures(reconstructions: Tensor, images: Tensor) -> dict[str, float]:
    """What is measured of reconstructions from the posterior mean, whatever model they are of.

    Args:
        reconstructions: in [−1, 1] or beyond, ``(B, C, H, W)``.
        images: in [−1, 1], of that shape, at least 11×11.

    Returns:
        ``psnr`` (dB), ``ssim``, ``spectrum_reconstruction`` (decades) and ``sharpness_reconstruction``; the first two
        are means over the images.
    """
    metrics = {"psnr": CappedPSNRMetric(), "ssim": make_ssim_metric(images.ndim - 2)}
    values: dict[str, list[Tensor]] = {key: [] for key in metrics}
    for pair in zip(reconstructions.split(PAIRS_AT_ONCE), images.split(PAIRS_AT_ONCE), strict=True):
        in_unit_range = to_unit_range(pair[0]), to_unit_range(pair[1])
        for key, metric in metrics.items():
            values[key].append(metric(*in_unit_range))
    return {
        **{key: float(torch.cat(each).double().mean()) for key, each in values.items()},
        "spectrum_reconstruction": float(log_spectrum_distance(reconstructions, images)),
        "sharpness_reconstruction": float(relative_sharpness(reconstructions, images)),
    }


def at_rate(vae: LinearVAE, images: Tensor, kl: float) -> LinearVAE:
    """The optimum at the β at which the mean KL of these images is a given one.

    The mean KL falls with β: along u_i by ½ (1 / β − 1 / λ_i + v_i / λ_i²), v_i the mean square of W(x − m) along
    it, as long as β < λ_i. So there is one such β, and it is found by bisection.

    Args:
        vae: at any β.
        images: in [−1, 1], ``(B, C, *image_size)``.
        kl: in nats, for example that of a network; without a rate β is the largest eigenvalue.

    Raises:
        ValueError: if no β has such a rate: images that are all alike have none but 0.
    """
    largest = float(vae.eigenvalues[0])
    if kl <= 0 and largest > 0:
        return replace(vae, beta=largest)
    parts = [_filter(part.to(vae.mean) - vae.mean, vae.weight).flatten(1) for part in _some_at_a_time(images)]
    square = torch.stack([(part @ vae.components.T).square().sum(0) for part in parts]).sum(0) / len(images)

    def rate(beta: float) -> float:
        modelled = vae.eigenvalues.clamp_min(beta)
        prior = beta / modelled - 1 - (beta / modelled).log()
        return float(0.5 * (square * (modelled - beta) / modelled.square() + prior).sum())

    if not (largest > 0 and math.isfinite(kl)) or rate(LEAST_BETA * largest) < kl:
        raise ValueError(f"no β of the linear model has a rate of {kl:.4g} nats on these images.")
    low, high = math.log(LEAST_BETA * largest), math.log(largest)
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if rate(math.exp(middle)) > kl else (low, middle)
    return replace(vae, beta=math.exp(high))


def _check_beta(beta: float) -> None:
    if not beta > 0:
        raise ValueError(f"beta must be positive, but is {beta}: without a KL the optimal rate is infinite.")


def _check_weight(weight: Tensor, images: Tensor) -> None:
    channels, *rest, last = images.shape[1:]
    half = (*rest, last // 2 + 1)
    if tuple(weight.shape) not in {(1, 1, *half), (1, channels, *half)}:
        raise ValueError(
            f"the weight has the shape {tuple(weight.shape)}, but one half spectrum for all images of shape "
            f"{tuple(images.shape[1:])} has {(1, 1, *half)}; take one weight for all images."
        )
    if not (weight.isfinite() & (weight > 0)).all():
        raise ValueError(
            f"the weight is between {float(weight.min()):.4g} and {float(weight.max()):.4g}, but has to be positive: "
            "what it does not see has no optimum."
        )


def _some_at_a_time(images: Tensor) -> tuple[Tensor, ...]:
    return images.split(max(1, VALUES_AT_ONCE // max(1, images[:1].numel())))


def _filter(images: Tensor, weight: Tensor | None) -> Tensor:
    """Images ``(B, C, *image_size)`` times a real half spectrum in Fourier space; None for 1."""
    return images if weight is None else spectral_filter(images, weight)


def _principal_components(
    images: Tensor, mean: Tensor, weight: Tensor | None, count: int
) -> tuple[Tensor, Tensor, float]:
    """Rows u_i ``(count, D)``, eigenvalues ``(count,)`` and the sum of all, see :class:`LinearVAE`."""

    def whitened() -> Iterator[Tensor]:
        for part in _some_at_a_time(images):
            yield _filter(part.to(mean) - mean, weight).flatten(1)

    number, dimensions = len(images), mean.numel()
    if number < dimensions:
        # Y Yᵀ has the eigenvalues of Yᵀ Y but for zeros, and is smaller.
        rows = torch.cat(list(whitened()))
        matrix = rows @ rows.T / number
    else:
        matrix = mean.new_zeros(dimensions, dimensions)
        for part in whitened():
            matrix.addmm_(part.T, part)
        matrix /= number
    values, vectors = _largest_eigenpairs(matrix, min(count, len(matrix)))
    known = values > len(matrix) * torch.finfo(values.dtype).eps * values[0]  # the others are zeros, rounded
    values, vectors = values[known], vectors[:, known]
    found = vectors.T if number >= dimensions else vectors.T @ rows / (number * values).sqrt()[:, None]
    components, eigenvalues = mean.new_zeros(count, dimensions), mean.new_zeros(count)
    components[: len(values)], eigenvalues[: len(values)] = found, values
    return components, eigenvalues, float(matrix.trace())


def _largest_eigenpairs(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues, descending, ``(count,)``, and their eigenvectors ``(n, count)`` of a symmetric matrix.

    A block Krylov space, extended until the residuals have vanished, takes a fifth of the time of all eigenvectors of a
    4096×4096 matrix whose eigenvalues fall off as those of images do; where they do not, all are computed. An
    eigenvalue whose multiplicity is above the block would be found no more often than the block is wide.
    """
    size = len(matrix)
    if size <= max(EXACT_SIZE, 8 * count):
        return _top(matrix, count)
    block = max(16, -(-count // 4))
    start = torch.randn(size, block, generator=torch_rng(0, "eigenvectors"), dtype=matrix.dtype).to(matrix.device)
    basis = torch.linalg.qr(start)[0]
    image = matrix @ basis
    for _ in range(size // (8 * block)):
        for _ in range(4):
            new = image[:, -block:]
            for _ in range(2):  # once leaves what rounding has left
                new = torch.linalg.qr(new - basis @ (basis.T @ new))[0]
            basis, image = torch.cat([basis, new], 1), torch.cat([image, matrix @ new], 1)
        values, inner = _top(basis.T @ image, count)
        vectors = basis @ inner
        if (image @ inner - vectors * values).norm(dim=0).max() <= RESIDUAL * values[0]:
            return values, vectors
    return _top(matrix, count)


def _top(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """:func:`_largest_eigenpairs` by way of all of them."""
    values, vectors = torch.linalg.eigh(matrix)
    return values[-count:].flip(0), vectors[:, -count:].flip(1)
