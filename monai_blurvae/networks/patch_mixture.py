"""A model of small patches with noise whose latent is discrete, so that its density is exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from monai_blurvae.functional import RotatedMixture, Scored, fit_gaussians, image_of, patches_of, without_autocast
from monai_blurvae.networks.patch_model import VARIANCE_RANGE, PatchModel


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
        sigma_range: of a training, see :class:`~monai_blurvae.networks.patch_model.PatchModel`.

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
