"""What an evaluation leaves for a report: examples, mean spectra, the KL of each latent unit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import replacing

ABOUT = frozenset(
    (
        *("title", "remark", "evaluated_on", "images", "subjects", "metrics", "active_units", "latent_size"),
        *("training_voxel_size", "voxel_size", "quarter_turns", "examples", "draws"),
    )
)
"""The keys of ``about``."""

Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.float64]


class EvaluationRecord(NamedTuple):
    """The content of ``evaluation.npz``. Means are over all images that were evaluated; N are kept as examples.

    Attributes:
        images: ``(N, C, H, W)`` uint8; 255 is 1. Of cubes, and of their kernels, the
            :func:`~monai_blurvae.handlers.pictures.section`.
        reconstructions: of ``images``, likewise.
        samples: from the prior, likewise.
        kernels: of ``images``, ``(N, k, k)``.
        mean_kernel: ``(k, k)``, or ``(k, k, k)`` of cubes.
        frequencies: of the spectra in cycles per pixel, ``(R,)``.
        image_power: mean windowed power at ``frequencies`` of the images in [−1, 1], mean over the channels, ``(R,)``;
            see :func:`~monai_blurvae.functional.radial_power`.
        reconstruction_power: likewise.
        sample_power: likewise, of samples from the prior.
        reconstruction_draws: of L densities p(x|z), an image drawn around each reconstruction, ``(L, N, C, H, W)`` like
            ``images``, clipped; L is 0 where no density was fitted.
        sample_draws: likewise, around each sample.
        reconstruction_draw_power: mean power of images drawn around all reconstructions, unclipped, ``(L, R)``, like
            ``reconstruction_power``.
        sample_draw_power: likewise, of samples.
        unit_kl: mean KL of each latent unit from N(0, 1), in nats, ``(latent_size,)``.
        about: what is no array, as JSON holds it: ``title``, ``remark`` (what has to be said of the data, mostly
            nothing), ``evaluated_on`` (how many images, in words), ``images`` and ``subjects`` (their numbers;
            ``subjects`` is None for images that are no patches), ``metrics`` (``{name: {"mean", "std"}}``),
            ``active_units`` (or None), ``latent_size``, ``training_voxel_size`` (mm, zeros where unknown),
            ``voxel_size`` (of the evaluated images, None where unknown), ``quarter_turns`` (of the pictures),
            ``examples`` (the line of ``metrics.csv`` of each example), ``draws`` (``likelihoods``: the L keys of
            :data:`~monai_blurvae.metrics.measures.LIKELIHOODS`; ``outside``: of each the mean share of the pixels of
            its draws that lie outside of [−1, 1], around all reconstructions; ``fitted_on``: which images, in words;
            ``missing``: why L is 0).
    """

    images: Pixels
    reconstructions: Pixels
    samples: Pixels
    kernels: Numbers
    mean_kernel: Numbers
    frequencies: Numbers
    image_power: Numbers
    reconstruction_power: Numbers
    sample_power: Numbers
    reconstruction_draws: Pixels
    sample_draws: Pixels
    reconstruction_draw_power: Numbers
    sample_draw_power: Numbers
    unit_kl: Numbers
    about: Mapping[str, Any]

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            RunFolderError: if it cannot be written.
        """
        arrays = {**self._asdict(), "about": np.array(json.dumps(self.about))}
        with replacing(path) as temporary, temporary.open("wb") as handle:
            np.savez_compressed(handle, **arrays)

    @classmethod
    def read(cls, path: str | Path) -> EvaluationRecord:
        """Read the file; nothing in it is run.

        Raises:
            RunFolderError: if it is missing, broken or another file.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in cls._fields}
            record = cls(**{**arrays, "about": json.loads(str(arrays["about"]))})
            if absent := ABOUT - record.about.keys():
                raise KeyError(*sorted(absent))
            return record
        except Exception as error:  # what a damaged archive raises depends on where the damage is
            raise RunFolderError(
                f"{path} cannot be read as the record of an evaluation ({type(error).__name__}: {error}); evaluate "
                "the run again."
            ) from error
