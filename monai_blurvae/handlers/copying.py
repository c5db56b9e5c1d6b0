"""Evaluate whether a model copies its training images, and show the nearest ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from monai_blurvae.data import reference_images
from monai_blurvae.errors import BlurVAEError
from monai_blurvae.files import FilePath, make_folder, resolved, write_json
from monai_blurvae.handlers.pictures import FigureRow, Pixels, draw_rows, save_figure
from monai_blurvae.metrics.copying import Nearest, data_copying, nearest_images
from monai_blurvae.metrics.evaluated import Evaluated
from monai_blurvae.networks import LatentImageModel
from monai_blurvae.networks.latent_model import unwrapped
from monai_blurvae.run_files import COPYING_JSON, NEAREST_PNG
from monai_blurvae.seeding import torch_rng

logger = logging.getLogger(__name__)

TRAINING_IMAGES = 8192
"""That are searched, at most."""
MOST_VALUES = 2**26
"""Pixels times channels of all of them, at most: 256 MB."""
TEST_IMAGES = 512
"""Evaluated images, at most the first, and as many samples."""
COPIES = -3.0
"""C_T below which a model is said to copy."""
SHOWN = 8
AT_ONCE = 64


class CopyingHandler:
    """Write ``copying.json`` and ``nearest_training.png``: samples and reconstructions beside training images.

    The score is C_T of :func:`~monai_blurvae.metrics.data_copying`; of reconstructions it is lower where they are
    smoother than any image. What keeps it from being made is logged in a sentence, and stops nothing.

    Args:
        folder: where to write, or a function that gives the folder when the evaluation is completed.
        network: the model, which may be wrapped in ``DistributedDataParallel``.
        training: the training's dataset, or a function that gives it.
        seed: of the samples.
        quarter_turns: rotate every picture.
    """

    def __init__(
        self, folder: FilePath, network: nn.Module, training: Any, seed: int = 0, quarter_turns: int = 0
    ) -> None:
        self.folder = folder
        self.network: LatentImageModel = unwrapped(network)
        self.training = training
        self.seed = seed
        self.quarter_turns = quarter_turns

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluation engine."""
        self._evaluated = Evaluated.of_engine(engine)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _write(self) -> None:
        try:
            dataset = self.training() if callable(self.training) else self.training
            training = reference_images(dataset, TRAINING_IMAGES, MOST_VALUES)
        except BlurVAEError as error:  # images that are not there any more
            logger.warning(f"Whether the model copies its training images was not looked at: {error}")
            return
        images = self._evaluated.images[:TEST_IMAGES]
        made = self._made(images)
        nearest = {name: nearest_images(x, training) for name, x in {**made, "test images": images}.items()}
        distances = {name: found.distance for name, found in nearest.items()}
        score = {name: data_copying(distances[name], distances["test images"]) for name in made}
        folder = make_folder(resolved(self.folder))
        counts = {"training_images": len(training), "test_images": len(images)}
        medians = {name: float(distance.median()) for name, distance in distances.items()}
        least = {name: float(distance.min()) for name, distance in distances.items()}
        write_json(folder / COPYING_JSON, {"c_t": score, "median_distance": medians, "least_distance": least, **counts})
        save_figure(self._figure(made, nearest, training), folder / NEAREST_PNG)
        text = ", ".join(f"{name} {value:+.1f}".replace("-", "−") for name, value in score.items())
        near = score["samples"] < COPIES
        verdict = "samples are nearer to them than test images are, look at them in" if near else "no copies; see"
        (logger.warning if near else logger.info)(
            f"Nearness to training images, C_T: {text}; {verdict} {folder / NEAREST_PNG}"
        )

    def _made(self, images: Tensor) -> dict[str, Tensor]:
        generator = torch_rng(self.seed, "copying")
        return {
            "samples": torch.cat([self.network.sample(len(part), generator).cpu() for part in images.split(AT_ONCE)]),
            "reconstructions": self._evaluated.reconstructions[:TEST_IMAGES],
        }

    def _figure(self, made: Mapping[str, Tensor], nearest: Mapping[str, Nearest], training: Tensor) -> Pixels:
        """Of those that are nearest to a training image, in rows, and of each that image below it."""
        rows = []
        for name, images in made.items():
            closest = nearest[name].distance.argsort()[:SHOWN]
            rows += [
                FigureRow(f"{name}, those nearest to a training image", images[closest] / 2 + 0.5),
                FigureRow("the training images nearest to them", training[nearest[name].indices[closest]] / 2 + 0.5),
            ]
        return draw_rows(rows, "Nearest training images", self.quarter_turns)
