"""Densities of small patches with noise: a VAE whose covariance depends on the latent, and an exact mixture."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from monai_blurvae.functional import (
    RotatedMixture,
    Scored,
    dct_matrix,
    diagonal_log_prob,
    fit_gaussians,
    image_of,
    kl_standard_normal,
    mixture_score,
    patches_of,
    without_autocast,
)
from monai_blurvae.seeding import torch_rng

VARIANCE_RANGE = (1e-6, 1e2)
"""Of the variances of the coefficients: the lower bound is a standard deviation of 0.1 % of the image's range."""
SIGMAS = (0.01, 0.02, 0.05, 0.1)
"""Noise levels of evaluations and of the calibration, standard deviations of images in [0, 1]."""
MODEL_RANGE = 2.0
"""Length of [−1, 1]: a σ on it is so many times that on [0, 1]."""


class PatchModel(nn.Module, ABC):
    """A density of patches y = x + σ n with noise of known σ, in the orthonormal DCT.

    Everything is in the scale of the images, [−1, 1], and computed without autocast.

    Args:
        patch_size: side p of the patches, of which the DCT has D = p² coefficients.
        sigma_range: smallest and largest σ of a training, on [−1, 1], between which its logarithm is uniform; twice
            what it is on [0, 1].

    Attributes:
        scale: rough standard deviation of each coefficient in units of that of the mean, ``(D,)``.
        voxel_size: mm along each axis of the training images, 0 where it is unknown.
        calibration: of held-out patches a row (σ on [0, 1], mean ELBO, mean log-density, that of the bank for a
            :class:`~monai_blurvae.networks.PatchVAE`, both in nats a patch on [−1, 1]) for each of :data:`SIGMAS`; NaN
            before the first validation of a training.

    Raises:
        ValueError: naming the argument that does not fit.
    """

    scale: Tensor
    voxel_size: Tensor
    calibration: Tensor

    def __init__(self, patch_size: int, sigma_range: Sequence[float]) -> None:
        super().__init__()
        if patch_size < 1:
            raise ValueError(f"patch_size must be positive, but is {patch_size}.")
        if len(sigma_range) != 2 or not 0 < sigma_range[0] <= sigma_range[1]:
            raise ValueError(f"sigma_range must be two positive numbers, the smaller first, but is {sigma_range}.")
        self.patch_size = patch_size
        self.sigma_range = (float(sigma_range[0]), float(sigma_range[1]))
        # of power spectra that fall with the square of the frequency, as those of images do
        frequency = torch.arange(patch_size, dtype=torch.float32)
        power = 1 / (1 + frequency[:, None] ** 2 + frequency[None] ** 2).flatten()
        self.register_buffer("scale", power.sqrt())
        self.register_buffer("voxel_size", torch.zeros(2))
        self.register_buffer("calibration", torch.full((len(SIGMAS), 3), torch.nan))

    @property
    @abstractmethod
    def latent_noise(self) -> int:
        """How many standard normal numbers the latent of a patch is drawn with."""

    @property
    @abstractmethod
    def latents(self) -> int:
        """How many latents :meth:`density` sums over."""

    @abstractmethod
    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws from the prior of the latent: means of the coefficients without noise, and draws around them.

        Args:
            noise: standard normal, ``(N, D + latent_noise + 1)``, as of :meth:`noise_shape`.

        Returns:
            ``(N, D)`` each.
        """

    @abstractmethod
    def density(self, y: Tensor, sigma: float) -> Scored:
        """Log-density of patches with noise in closed form, and its gradient.

        Args:
            y: coefficients with noise, ``(N, D)``.
            sigma: standard deviation of the noise on [−1, 1].
        """

    @abstractmethod
    def bound(self, y: Tensor, sigma: float, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The evidence lower bound of log p of patches, and the KL of their latents, ``(N,)`` each.

        Args:
            y: coefficients with noise, ``(N, D)``.
            sigma: standard deviation of the noise on [−1, 1].
            noise: standard normal, ``(N, latent_noise)``.
        """

    def noise_shape(self, image_shape: Sequence[int]) -> tuple[int, int]:
        """Shape of the standard normal numbers that one pass over images of a shape (B, 1, H, W) needs."""
        return math.prod(image_shape) // self.patch_size**2, self.patch_size**2 + self.latent_noise + 1

    def coefficients(self, patches: Tensor) -> Tensor:
        """Orthonormal DCT of patches ``(N, p, p)``, ``(N, D)``."""
        d = dct_matrix(self.patch_size, patches.dtype, patches.device)
        return (d @ patches @ d.T).flatten(1)

    def patches(self, coefficients: Tensor) -> Tensor:
        """Patches ``(N, p, p)`` of their coefficients ``(N, D)``."""
        d = dct_matrix(self.patch_size, coefficients.dtype, coefficients.device)
        return d.T @ coefficients.unflatten(1, (self.patch_size, self.patch_size)) @ d

    def vae_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters."""
        yield from self.parameters()

    def _noise(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """The noise of a pass, once the images are known to fit: drawn in training mode, else 0."""
        p = self.patch_size
        if x.ndim != 4 or x.shape[1] != 1 or x.shape[2] % p or x.shape[3] % p:
            raise ValueError(
                f"the network takes images (B, 1, H, W) with H and W multiples of the {p} pixels of its patches, but "
                f"got {tuple(x.shape)}; cut or pad them."
            )
        if noise is not None:
            return noise
        shape = self.noise_shape(x.shape)
        return torch.randn(shape, device=x.device) if self.training else torch.zeros(shape, device=x.device)

    def _sigma(self, level: Tensor) -> Tensor:
        """Log-uniform σ of standard normal numbers."""
        low, high = map(math.log, self.sigma_range)
        return torch.exp(low + (high - low) * torch.special.ndtr(level))


LOG_VAR_LIMIT = 10.0
"""Largest |log σ²| of the posterior."""


class PatchVAEOutput(NamedTuple):
    """One forward pass over the N patches of all images.

    Attributes:
        reconstruction: decoder means put together to images, ``(B, 1, H, W)``.
        mu: posterior mean, ``(N, latent_size)``.
        log_var: posterior log σ², ``(N, latent_size)``.
        z: the latent that was decoded, ``(N, latent_size)``.
        coefficients: DCT coefficients y of the patches with noise, ``(N, D)``.
        mean: of p(y|z), ``(N, D)``.
        variance: of p(y|z), that of the noise included, ``(N, D)``.
    """

    reconstruction: Tensor
    mu: Tensor
    log_var: Tensor
    z: Tensor
    coefficients: Tensor
    mean: Tensor
    variance: Tensor

    @property
    def log_likelihood(self) -> Tensor:
        """Log p(y|z), ``(N,)``, in nats."""
        return diagonal_log_prob(self.coefficients, self.mean, self.variance)

    @property
    def kl(self) -> Tensor:
        """KL(q(z|y, σ) ‖ N(0, I)), ``(N,)``, in nats."""
        return kl_standard_normal(self.mu, self.log_var)


class PatchVAE(PatchModel):
    """VAE of patches y = x + σ n with noise of known σ: p(y|z) = N(m(z), diag v(z) + σ²) in the orthonormal DCT.

    The decoder gives a mean and a variance to each of the D = p² DCT coefficients of a patch, both functions of z,
    and knows nothing of the noise; so one model has the density of the patches under every noise. The encoder sees the
    coefficients with noise and σ.

    Args:
        patch_size: side p of the patches.
        latent_size: size of the latent.
        hidden_size: width of the two hidden layers of encoder and decoder.
        sigma_range: of a training, see :class:`~monai_blurvae.networks.PatchModel`.
        bank_size: number K of latents in the buffer ``bank``, drawn once from N(0, I).

    Attributes:
        bank: ``(K, latent_size)``; the equal mixture of p(y|z) over it stands for p(y).

    Raises:
        ValueError: naming the argument that does not fit.

    Example:
        >>> PatchVAE()(torch.zeros(2, 1, 64, 64)).mean.shape
        torch.Size([128, 64])
    """

    bank: Tensor

    def __init__(
        self,
        patch_size: int = 8,
        latent_size: int = 12,
        hidden_size: int = 256,
        sigma_range: Sequence[float] = (0.01, 0.3),
        bank_size: int = 256,
    ) -> None:
        super().__init__(patch_size, sigma_range)
        for name, value in (("latent_size", latent_size), ("hidden_size", hidden_size), ("bank_size", bank_size)):
            if value < 1:
                raise ValueError(f"{name} must be positive, but is {value}.")
        self.latent_size = latent_size
        dimensions = patch_size**2
        self.encoder = _mlp(2 * dimensions + 1, hidden_size, 2 * latent_size)
        self.decoder = _mlp(latent_size, hidden_size, 2 * dimensions)
        self.register_buffer("bank", torch.randn(bank_size, latent_size, generator=torch_rng(0, "bank")))

    @property
    def latent_noise(self) -> int:
        """The size of the latent."""
        return self.latent_size

    def forward(self, x: Tensor, noise: Tensor | None = None) -> PatchVAEOutput:
        """Cut images into patches side by side, add noise, encode, draw a latent, decode.

        Args:
            x: images in [−1, 1], ``(B, 1, H, W)``, both sides multiples of ``patch_size``.
            noise: standard normal numbers of :meth:`noise_shape`: of the pixels, the latents and the levels σ. Without
                them a module in training mode draws its own, and a module in evaluation mode takes zeros: no noise
                under the σ in the middle of the range, and z = μ.

        Returns:
            :class:`PatchVAEOutput`.

        Raises:
            ValueError: for images of another shape.
        """
        p, noise = self.patch_size, self._noise(x, noise)
        pixels, latents, levels = noise.split([p**2, self.latent_size, 1], 1)
        with without_autocast(x.device):  # half precision would be a noise of its own, as large as the smallest σ
            sigma = self._sigma(levels)
            y = self.coefficients(patches_of(x, p, p).flatten(0, 1)) + sigma * pixels
            mu, log_var = self.encode(y, sigma)
            z = mu + torch.exp(0.5 * log_var) * latents
            mean, variance = self.decode(z)
            decoded = image_of(self.patches(mean).unflatten(0, (len(x), -1)), x.shape[2:], p)
        return PatchVAEOutput(decoded, mu, log_var, z, y, mean, variance + sigma.square())

    @property
    def latents(self) -> int:
        """The size of the bank."""
        return len(self.bank)

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Decode draws from N(0, I)."""
        white, z, _ = noise.split([self.patch_size**2, self.latent_size, 1], 1)
        mean, variance = self.decode(z)
        return mean, mean + variance.sqrt() * white

    def density(self, y: Tensor, sigma: float) -> Scored:
        """The mean of p(y|z) over the bank of latents, a mixture of Gaussians."""
        mean, variance = self.decode(self.bank)
        equal = y.new_full((len(mean),), -math.log(len(mean)))
        return mixture_score(y, mean, variance + sigma**2, equal)

    def bound(self, y: Tensor, sigma: float, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The bound and the KL of the encoder, with one latent for each patch."""
        mu, log_var = self.encode(y, sigma)
        mean, variance = self.decode(mu + torch.exp(0.5 * log_var) * noise)
        kl = kl_standard_normal(mu, log_var)
        return diagonal_log_prob(y, mean, variance + sigma**2) - kl, kl

    def encode(self, y: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """Posterior mean and log σ² (within ±10), ``(N, latent_size)`` each.

        Args:
            y: coefficients with noise, ``(N, D)``.
            sigma: standard deviation of the noise on [−1, 1], a number or ``(N, 1)``.
        """
        sigma = torch.as_tensor(sigma, dtype=y.dtype, device=y.device).expand(len(y), 1)
        signal = y / (self.scale + sigma)
        contrast = torch.asinh(y / sigma.clamp_min(self.sigma_range[0]))
        features = torch.cat([signal, contrast, sigma.clamp_min(self.sigma_range[0]).log()], 1)
        mu, log_var = self.encoder(features).chunk(2, 1)
        return mu, log_var.clamp(-LOG_VAR_LIMIT, LOG_VAR_LIMIT)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the coefficients without noise, ``(N, D)`` each, of latents ``(N, latent_size)``."""
        mean, log_var = self.decoder(z).chunk(2, 1)
        return mean * self.scale, (log_var.exp() * self.scale.square()).clamp(*VARIANCE_RANGE)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, outputs)
    )


class PatchMixtureOutput(NamedTuple):
    """One forward pass over the N patches of all images.

    Attributes:
        reconstruction: means of the likeliest latents put together to images, ``(B, 1, H, W)``, without gradient.
        log_likelihood: E[log p(y|z)] under the posterior of the latent, ``(N,)``, in nats.
        kl: of that posterior from the prior of the latent, ``(N,)``, in nats; log p(y) is the difference.
    """

    reconstruction: Tensor
    log_likelihood: Tensor
    kl: Tensor


class PatchMixture(PatchModel):
    """p(y) = Σ_k Σ_j w_kj N(y; c_k + B_k m_kj, B_k diag(v_kj) B_kᵀ + σ²): K bases, with J states of patches in each.

    The latent z = (k, j) is the kind of a patch, which has an orthonormal basis B_k of the D = p² coefficients and a
    centre c_k, and a state, which has a mean and a variance of each coordinate in that basis, as those of weak and
    strong contrast. There are few enough latents to sum over all: the posterior is exact, the bound is log p, and there
    is no encoder. A patch costs little more than with one state: what takes time is the change of basis.

    All but the centres are learned by gradient, from where :meth:`initialize` begins. A basis turns by the Cayley
    transform of a skew-symmetric matrix, so that it stays orthonormal.

    Args:
        patch_size: side p of the patches.
        components: number K of bases.
        states: number J of states in each.
        sigma_range: of a training, see :class:`~monai_blurvae.networks.PatchModel`.

    Attributes:
        start: the bases that the training begins with, the columns of ``(K, D, D)``.
        centre: c, ``(K, D)``.

    Raises:
        ValueError: naming the argument that does not fit.

    Example:
        >>> PatchMixture(components=8)(torch.zeros(2, 1, 64, 64)).kl.shape
        torch.Size([128])
    """

    start: Tensor
    pairs: Tensor
    ease: Tensor
    centre: Tensor

    def __init__(
        self,
        patch_size: int = 8,
        components: int = 64,
        states: int = 4,
        sigma_range: Sequence[float] = (0.01, 0.3),
    ) -> None:
        super().__init__(patch_size, sigma_range)
        for name, value in (("components", components), ("states", states)):
            if value < 1:
                raise ValueError(f"{name} must be positive, but is {value}.")
        shape = (components, states, patch_size**2)
        self.register_buffer("start", torch.eye(shape[2]).repeat(components, 1, 1))
        pairs = torch.tril_indices(shape[2], shape[2], -1)
        self.register_buffer("pairs", pairs, persistent=False)
        self.register_buffer("ease", torch.ones(components, pairs.shape[1]))
        self.turn = nn.Parameter(torch.zeros(components, pairs.shape[1]))
        self.register_buffer("centre", torch.zeros(components, shape[2]))
        self.mean = nn.Parameter(torch.zeros(shape))  # in standard deviations of the coordinates
        self.log_var = nn.Parameter(2 * self.scale.log().expand(shape).clone())
        self.logits = nn.Parameter(torch.zeros(shape[:2]))
        self._turned: tuple[object, Tensor] | None = None

    @torch.no_grad()
    def initialize(self, patches: Tensor, rounds: int = 10, seed: int = 0) -> None:
        """Begin with a mixture of K Gaussians, fitted to patches without noise by hard assignment.

        Bases and centres stay, the means and variances of all states of a component begin around those of its Gaussian.

        Args:
            patches: for training, ``(N, p, p)``, not fewer than K.
            rounds: of fitting the Gaussians and giving each patch to the likeliest.
            seed: of the patches that the components begin at.

        Raises:
            ValueError: for fewer patches than components.
        """
        components, states = self.logits.shape
        fitted = fit_gaussians(self.coefficients(patches), components, self.sigma_range[0], rounds, seed)
        variance, basis = torch.linalg.eigh(fitted.covariance)
        self.start.copy_(basis)
        self.turn.zero_()
        # a turn of a strong direction into a weak one shows in the weak one, by the ratio of their deviations
        deviation = variance.clamp(*VARIANCE_RANGE).sqrt()
        self.ease.copy_(deviation[:, self.pairs[1]] / deviation[:, self.pairs[0]])
        self.centre.copy_(fitted.mean)
        spread = torch.linspace(-2, 2, states) if states > 1 else torch.zeros(1)
        self.log_var.copy_(variance.clamp(*VARIANCE_RANGE).log()[:, None] + spread.to(variance)[:, None])
        self.logits.copy_(fitted.weight.log()[:, None] - spread.to(variance).square() / 2)
        self.mean.zero_()

    def bases(self) -> Tensor:
        """The orthonormal bases B, the columns of ``(K, D, D)``; without gradients they are kept until they change."""
        if torch.is_grad_enabled():
            self._turned = None  # a step of a fused optimizer follows unseen: it does not count the weights' versions
            return self._turn()
        state = [(id(x), x._version, x.data_ptr()) for x in (self.turn, self.start, self.ease)]
        if self._turned is None or self._turned[0] != state:
            self._turned = (state, self._turn())
        return self._turned[1]

    def mixture(self, sigma: Tensor) -> RotatedMixture:
        """The density of the coefficients of patches with noise, of each σ of ``(G,)`` on [−1, 1]."""
        clean = self.log_var.exp().clamp(*VARIANCE_RANGE)
        variance = clean[:, None] + sigma.square()[:, None, None]
        log_weights = self.logits.flatten().log_softmax(0).view_as(self.logits)
        return RotatedMixture(self.bases(), self.centre, self.mean * clean.sqrt(), variance, log_weights)

    @property
    def latent_noise(self) -> int:
        """None: no latent is drawn."""
        return 0

    def forward(self, x: Tensor, noise: Tensor | None = None) -> PatchMixtureOutput:
        """Cut images into patches side by side, add noise, and sum over the latents of each.

        Args:
            x: images in [−1, 1], ``(B, 1, H, W)``, both sides multiples of ``patch_size``.
            noise: standard normal numbers of :meth:`noise_shape`: of the pixels, and of the level σ, which is that of
                the first patch for all patches of an image. Without them a module in training mode draws its own, and a
                module in evaluation mode takes zeros: no noise under the σ in the middle of the range.

        Returns:
            :class:`PatchMixtureOutput`.

        Raises:
            ValueError: for images of another shape.
        """
        p, noise = self.patch_size, self._noise(x, noise).unflatten(0, (len(x), -1))
        with without_autocast(x.device):  # half precision would be a noise of its own, as large as the smallest σ
            sigma = self._sigma(noise[:, 0, -1])
            clean = self.coefficients(patches_of(x, p, p).flatten(0, 1)).view_as(noise[..., :-1])
            mixture = self.mixture(sigma)
            y = clean + sigma[:, None, None] * noise[..., :-1]
            log_joint = _by_patch(mixture.log_joint(mixture.coordinates(y)))
            log_prob, kl = self._summed(log_joint)
            decoded = image_of(self._decode(log_joint, mixture.basis).unflatten(0, (len(x), -1)), x.shape[2:], p)
        return PatchMixtureOutput(decoded, log_prob + kl, kl)

    @property
    def latents(self) -> int:
        """Bases times states."""
        return self.logits.numel()

    @torch.no_grad()
    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Choose latents by the last of the numbers, and draw around their means."""
        edges = self.logits.flatten().softmax(0).cumsum(0)
        chosen = torch.searchsorted(edges, torch.special.ndtr(noise[:, -1])).clamp_max(self.latents - 1)
        basis = self.bases()
        mean = self._means(basis).flatten(0, 1)[chosen]
        white = noise[:, :-1] * self.log_var.exp().clamp(*VARIANCE_RANGE).sqrt().flatten(0, 1)[chosen]
        return mean, mean + (basis[chosen // self.logits.shape[1]] @ white[:, :, None])[:, :, 0]

    def density(self, y: Tensor, sigma: float) -> Scored:
        """Log p of coefficients with noise ``(N, D)``, and its gradient, which have derivatives by these alone."""
        with torch.no_grad():
            mixture = self.mixture(y.new_tensor([sigma]))
        return mixture.score(y)

    @torch.no_grad()
    def bound(self, y: Tensor, sigma: float, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Log p itself, since the posterior is exact, and the KL of that."""
        mixture = self.mixture(y.new_tensor([sigma]))
        return self._summed(_by_patch(mixture.log_joint(mixture.coordinates(y[None]))))

    def _turn(self) -> Tensor:
        skew = self.turn.new_zeros(self.start.shape)
        skew[:, self.pairs[0], self.pairs[1]] = self.turn * self.ease
        skew = skew - skew.mT
        one = torch.eye(skew.shape[1], dtype=skew.dtype, device=skew.device)
        return self.start @ torch.linalg.solve(one + skew, one - skew)

    def _summed(self, log_joint: Tensor) -> tuple[Tensor, Tensor]:
        """Log p and the KL of the posterior ``(N,)`` of log p(y, z) ``(N, K · J)``."""
        log_prob = torch.logsumexp(log_joint, 1)
        log_posterior = log_joint - log_prob[:, None]
        return log_prob, (log_posterior.exp() * (log_posterior - self.logits.flatten().log_softmax(0))).sum(1)

    @torch.no_grad()
    def _decode(self, log_joint: Tensor, basis: Tensor) -> Tensor:
        """The mean of the likeliest latent, patches ``(N, p, p)``."""
        return self.patches(self._means(basis).flatten(0, 1)[log_joint.argmax(1)])

    def _means(self, basis: Tensor) -> Tensor:
        """Of all latents, ``(K, J, D)``."""
        mean = self.mean * self.log_var.exp().clamp(*VARIANCE_RANGE).sqrt()
        return self.centre[:, None] + mean @ basis.mT


def _by_patch(log_joint: Tensor) -> Tensor:
    """``(K, G, N, J)`` as ``(G · N, K · J)``."""
    return log_joint.movedim(0, 2).flatten(0, 1).flatten(1)
