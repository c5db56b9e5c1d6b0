"""The density of a mixture of Gaussians over patches, the prior of EPLL."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import replacing
from monai_blurvae.functional import RotatedMixture
from monai_blurvae.priors.patch_prior import PatchPrior, ScoredPatches

ARRAYS = ("weights", "means", "covariances")
"""Of a file of a mixture."""


class GaussianMixturePrior(PatchPrior):
    """Log-density, gradient and denoiser of images whose patches are a mixture of K Gaussians with full covariances.

    Zoran & Weiss 2011, "From learning models of natural image patches to whole image restoration" (EPLL). Patches with
    white noise are a mixture again, of N(m_k, Σ_k + σ²), so that everything is exact at every σ; where the paper
    takes the likeliest component alone, ``denoise`` is the posterior mean over all of them.

    Args:
        weights: of the components, ``(K,)``, which sum to 1.
        means: of the pixels on [−1, 1], row by row, ``(K, p²)``.
        covariances: of the pixels, positive definite, ``(K, p², p²)``.
        stride: wanted distance of neighbouring patches.
        intensity: (low, high) of the images, see :class:`~monai_blurvae.priors.PatchPrior`.
        imaginary_std: of complex images, see there.
        chunk_size: patches that are looked at together; each takes 4 · K · p² bytes.

    Raises:
        ValueError: for arrays whose shapes do not fit or a covariance that is not positive definite, or another
            argument out of its range.
    """

    weights: Tensor
    means: Tensor
    basis: Tensor
    variances: Tensor

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor,
        stride: int = 2,
        intensity: tuple[float, float] = (0.0, 1.0),
        imaginary_std: float | None = None,
        chunk_size: int = 512,
    ) -> None:
        components, pixels = means.shape
        size = math.isqrt(pixels)
        if size**2 != pixels or weights.shape != (components,) or covariances.shape != (components, pixels, pixels):
            raise ValueError(
                f"weights, means and covariances have shapes {tuple(weights.shape)}, {tuple(means.shape)} and "
                f"{tuple(covariances.shape)}, where (K,), (K, p²) and (K, p², p²) are needed."
            )
        super().__init__(size, stride, intensity, imaginary_std, 0, chunk_size)
        variances, basis = torch.linalg.eigh(covariances.double())
        if not bool((variances > 0).all()) or not bool((weights > 0).all()):
            raise ValueError("every component needs a positive weight and a positive definite covariance; fit it anew.")
        self.register_buffer("weights", weights)
        self.register_buffer("means", means)
        self.register_buffer("basis", basis.to(means))
        self.register_buffer("variances", variances.to(means))

    @classmethod
    def fit(
        cls,
        patches: Tensor,
        components: int = 64,
        iterations: int = 50,
        floor: float = 1e-6,
        seed: int = 0,
        **options: Any,
    ) -> GaussianMixturePrior:
        """Fit the mixture by expectation maximisation, with scikit-learn, of the extra ``recon``.

        Args:
            patches: for training, without noise, ``(N, p, p)`` on [−1, 1].
            components: K.
            iterations: at most.
            floor: that is added to the variances, as of the black background they are 0.
            seed: of the patches that the components begin at.
            **options: further arguments of the class.

        Raises:
            ImportError: without scikit-learn, naming the extra.
            ValueError: for fewer patches than components.
        """
        try:
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.mixture import GaussianMixture
        except ImportError as error:
            raise ImportError("scikit-learn is not installed; run pip install 'monai-blurvae[recon]'.") from error
        mixture = GaussianMixture(
            components, max_iter=iterations, reg_covar=floor, init_params="k-means++", random_state=seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a number of iterations is a setting
            mixture.fit(patches.flatten(1).numpy())
        found = (mixture.weights_, mixture.means_, mixture.covariances_)
        weights, means, covariances = (torch.from_numpy(array).to(patches) for array in found)
        return cls(weights, means, covariances, **options)

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> GaussianMixturePrior:
        """The prior that :meth:`save` wrote.

        Args:
            path: of the file.
            **options: further arguments of the class.

        Raises:
            RunFolderError: if the file holds no mixture.
        """
        try:
            with np.load(Path(path).expanduser()) as arrays:
                weights, means, covariances = (torch.from_numpy(arrays[name]) for name in ARRAYS)
        except (OSError, ValueError, KeyError) as error:
            raise RunFolderError(f"{path} holds no mixture of Gaussians ({error}); fit it again.") from error
        return cls(weights, means, covariances, **options)

    def save(self, path: str | Path) -> None:
        """Write the mixture as NumPy's ``.npz`` with ``weights``, ``means`` and ``covariances``."""
        arrays = {name: getattr(self, name).cpu().numpy() for name in ARRAYS}
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)

    @property
    def covariances(self) -> Tensor:
        """Of the pixels of a patch on [−1, 1], ``(K, p², p²)``."""
        return (self.basis * self.variances[:, None]) @ self.basis.transpose(1, 2)

    def _place(self, x: Tensor) -> tuple[torch.dtype, torch.device]:
        return self.means.dtype, self.means.device

    def patch_score(self, patches: Tensor, sigma: float, noise: Tensor) -> ScoredPatches:
        """See :meth:`PatchPrior.patch_score`."""
        variance = (self.variances + sigma**2)[:, None, None]
        mean, log_weights = torch.zeros_like(variance[:, 0]), self.weights.log()[:, None]
        mixture = RotatedMixture(self.basis, self.means, mean, variance, log_weights)
        scored = mixture.score(patches.flatten(1))
        return ScoredPatches(scored.log_prob, scored.score.view_as(patches))
