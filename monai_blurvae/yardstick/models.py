"""Linear VAEs of a training's data, fitted once and kept."""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from monai_blurvae.data import DatasetFacts, facts_of, reference_images
from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import make_folder
from monai_blurvae.handlers.checkpoint import load_safely, save_whole
from monai_blurvae.metrics.linear import LinearVAE, fit_linear_vae
from monai_blurvae.yardstick.comparison import same_weight

logger = logging.getLogger(__name__)

FORMAT = 1
IMAGES = 8192
"""Training images that a linear model is fitted on."""
MOST_VALUES = 2**26
"""Pixels times channels of all of them, at most, 512 MB in float64: 5461 images of 3×64×64, 341 of
3×256×256."""

MOST_CACHED = 32
"""Models that the cache holds; the oldest ones give way. Those of the weight 1 are used by every run, the others are of
a network's kernels, and seldom used again."""
MOST_KEPT = 2**24
"""Numbers of a model's components beyond which a run does not keep it: 64 MB."""


class LinearModels:
    """Gives the linear VAE of each weight, fitted on a training's images.

    What was fitted is kept in ``cache_dir``, under the content of the images, the latent size and the weight, so that
    it is fitted anew when any of these changes. An L2 model serves every β. Files appear whole or not at all; one that
    cannot be read is made again, and where none can be written all is fitted each time.

    Args:
        training: the training's dataset, or a function that gives it, called when it is first needed.
        latent_size: of the models.
        cache_dir: of the store.
        kept: a file of :meth:`keep`, whose models are used as they are; None for none. Its model of W = 1 stands for
            the training, its other one where the weight is the same, or where the training is not there any more.
        images: training images that a model is fitted on, at most.

    Attributes:
        fitted_on: what the models are fitted on, in words; empty before the first.
    """

    def __init__(
        self,
        training: Any,
        latent_size: int,
        cache_dir: str | Path,
        kept: Path | None = None,
        images: int = IMAGES,
    ) -> None:
        self.training = training
        self.images = images
        self.latent_size = latent_size
        self.folder = Path(cache_dir).expanduser() / "linear"
        self.fitted_on = ""
        self._images: Tensor | None = None
        self._digest = ""
        self._given: list[LinearVAE] = []
        self._kept = self._read_kept(kept)

    def __call__(self, weight: Tensor | None) -> LinearVAE:
        """The model of a weight ``(1, 1, *half)``, None for 1, at β = 1.

        Raises:
            DataError: if neither the training's images nor a kept model are there.
        """
        same = next((vae for vae in (*self._given, *self._kept) if same_weight(vae.weight, weight)), None)
        vae = same or self._fitted_or_kept(weight)
        if not any(vae is given for given in self._given):
            self._given.append(vae)
        return vae

    def keep(self, path: Path) -> None:
        """Write what was given so far, for an evaluation without the training's images.

        Raises:
            RunFolderError: if the file cannot be written.
        """
        small = [vae for vae in self._given if vae.components.numel() <= MOST_KEPT]
        if small:
            content = {"format": FORMAT, "fitted_on": self.fitted_on, "models": [_plain(vae) for vae in small]}
            save_whole(content, path)

    def _fitted_or_kept(self, weight: Tensor | None) -> LinearVAE:
        other = next((vae for vae in self._kept if vae.weight is not None), None) if weight is not None else None
        try:
            return self._fitted(weight)
        except Exception as error:  # whatever keeps the training's images from being read
            if other is None:
                raise
            logger.info(f"The linear model that the run kept is used, since it cannot be fitted anew: {error}")
            return other

    def _fitted(self, weight: Tensor | None) -> LinearVAE:
        images = self._reference()
        path = self.folder / f"{self._key(weight)}.pt"
        if path.is_file():
            with suppress(RunFolderError, KeyError, TypeError, ValueError):
                return _restored(load_safely(path))
        logger.info(f"Fitting a {self.latent_size}-component linear model on {self.fitted_on}.")
        content = _plain(fit_linear_vae(images, self.latent_size, 1.0, weight))
        try:
            make_folder(self.folder)
            save_whole(content, path)
            self._remove_oldest()
        except (RunFolderError, OSError) as error:  # of another user, or full: no reason to fail
            logger.info(f"The linear model is not kept: {error}")
        return _restored(content)

    def _reference(self) -> Tensor:
        if self._images is None:
            dataset = self.training() if callable(self.training) else self.training
            self._images = reference_images(dataset, self.images, MOST_VALUES)
            self.fitted_on = _text(facts_of(dataset), self._images, self.images)
            content = self._images.numpy().tobytes()
            self._digest = f"{tuple(self._images.shape)}{hashlib.sha256(content).hexdigest()}"
        return self._images

    def _key(self, weight: Tensor | None) -> str:
        of_weight = "1" if weight is None else hashlib.sha256(weight.cpu().float().numpy().tobytes()).hexdigest()
        return hashlib.sha256(f"{FORMAT}/{self._digest}/{self.latent_size}/{of_weight}".encode()).hexdigest()[:32]

    def _remove_oldest(self) -> None:
        files = sorted(self.folder.glob("*.pt"), key=lambda path: path.stat().st_mtime)
        for path in files[:-MOST_CACHED]:
            path.unlink(missing_ok=True)

    def _read_kept(self, path: Path | None) -> list[LinearVAE]:
        if path is None or not path.is_file():
            return []
        try:
            content = load_safely(path)
            models = [_restored(model) for model in content["models"]]
        except (RunFolderError, KeyError, TypeError, ValueError) as error:
            logger.warning(f"{path} holds no linear models ({error}), and is not used.")
            return []
        fitting = [vae for vae in models if len(vae.eigenvalues) == self.latent_size]
        if fitting:
            self.fitted_on = str(content["fitted_on"])
        return fitting


def write_half(source: Path, target: Path) -> None:
    """Write the model of W = 1 out of a file of :meth:`LinearModels.keep`, its components in half precision.

    A quarter of the size where there are two models. Log-densities of 64×64 patches under 128 components moved by
    1e-4 nats a pixel at most, 7e-6 on average, where they scatter by 0.3.

    Args:
        source: the file.
        target: to write to.

    Raises:
        RunFolderError: if a file cannot be read or written.
    """
    content = load_safely(source)
    models = [model for model in content["models"] if model["weight"] is None]
    save_whole(content | {"models": [model | {"components": model["components"].half()} for model in models]}, target)


def _text(facts: DatasetFacts, images: Tensor, most: int) -> str:
    bounded = len(images) < most and len(images) == MOST_VALUES // images[0].numel()
    return f"{facts.count_text(len(images))} of the training" + (", as many as memory allows" if bounded else "")


def _plain(vae: LinearVAE) -> dict[str, Any]:
    """What a file holds: components in float32, which is half the size and exact enough."""
    return {
        "mean": vae.mean.cpu(),
        "components": vae.components.float().cpu(),
        "eigenvalues": vae.eigenvalues.cpu(),
        "total_variance": vae.total_variance,
        "weight": None if vae.weight is None else vae.weight.cpu(),
    }


def _restored(content: dict[str, Any]) -> LinearVAE:
    return LinearVAE(
        mean=content["mean"],
        components=content["components"].double(),
        eigenvalues=content["eigenvalues"],
        total_variance=content["total_variance"],
        beta=1.0,
        weight=content["weight"],
    )
