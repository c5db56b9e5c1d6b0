"""The comparison with the linear VAE at the end of an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from monai_blurvae.data.facts import DatasetFacts, facts_of
from monai_blurvae.errors import user_error
from monai_blurvae.files import FilePath, make_folder, resolved, write_json, write_text
from monai_blurvae.metrics.evaluated import Evaluated
from monai_blurvae.networks import unwrapped
from monai_blurvae.run_files import YARDSTICK_JSON, YARDSTICK_MD
from monai_blurvae.yardstick.comparison import FIGURES, compare
from monai_blurvae.yardstick.models import IMAGES as TRAINING_IMAGES
from monai_blurvae.yardstick.models import LinearModels

logger = logging.getLogger(__name__)


class YardstickHandler:
    """Write ``yardstick.json`` and ``yardstick.md``: the network beside the exact optimum of a linear VAE, and say so.

    A network that is behind the linear model is not trained. What the two have in common is said by
    :func:`~monai_blurvae.yardstick.compare`. What keeps the comparison from being made is written and logged in a
    sentence, and stops nothing.

    Args:
        folder: where to write, or a function that gives the folder when the evaluation is completed.
        network: the model, which may be wrapped in ``DistributedDataParallel``.
        objective: that it was trained with, or a function that gives it; None, also by the function, for one without a
            closed form, so that the two are compared at equal rate alone.
        training: the training's dataset, on which the linear model is fitted, or a function that gives it.
        cache_dir: where fitted models are kept for other runs, see :class:`~monai_blurvae.yardstick.LinearModels`.
        dataset: what is evaluated, whose :func:`~monai_blurvae.data.facts.facts_of` are told; None for the dataset of
            the engine's loader.
        title: what is evaluated.
        keep: file that gets the models for later evaluations, or a function that gives it; None for none.
        kept: such a file of the training, likewise.
        images: training images that the linear model is fitted on, at most.
    """

    def __init__(
        self,
        folder: FilePath,
        network: nn.Module,
        objective: nn.Module | Callable[[], nn.Module | None] | None,
        training: Any,
        cache_dir: str | Path,
        dataset: Any = None,
        title: str = "test",
        keep: FilePath | None = None,
        kept: FilePath | None = None,
        images: int = TRAINING_IMAGES,
    ) -> None:
        self.folder = folder
        self.network: Any = unwrapped(network)
        self.objective = objective
        self.training = training
        self.cache_dir = cache_dir
        self.dataset = dataset
        self.title = title
        self.keep = keep
        self.kept = kept
        self.images = images

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluation engine."""
        self._evaluated = Evaluated.of_engine(engine)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        facts = facts_of(engine.state.dataloader.dataset if self.dataset is None else self.dataset)
        content = self._content(facts)
        folder = make_folder(resolved(self.folder))
        write_json(folder / YARDSTICK_JSON, content)
        write_text(folder / YARDSTICK_MD, to_markdown(content))
        if content["problem"]:
            logger.warning(f"The network was not compared with a linear model: {content['problem']}")
        else:
            say = logger.warning if content["behind"] else logger.info
            say(f"{content['title']}: {content['verdict']}; see {folder / YARDSTICK_MD}")

    def _content(self, facts: DatasetFacts) -> dict[str, Any]:
        images = self._evaluated.images[self._evaluated.compared]
        whole = len(images) == len(self._evaluated.images)
        evaluated = facts.count_text(len(images)) if whole else f"{len(images)} of the images"
        content = {"title": ", ".join(filter(None, (self.title, facts.remark))), "evaluated_on": evaluated}
        try:
            objective = self.objective
            if callable(objective) and not isinstance(objective, nn.Module):
                objective = objective()
            kept = None if self.kept is None else resolved(self.kept)
            models = LinearModels(self.training, int(self.network.latent_size), self.cache_dir, kept, self.images)
            found = compare(self._evaluated, objective, models)
            if self.keep is not None:
                models.keep(resolved(self.keep))
        except Exception as error:  # a training of days must not fail for what stands beside it
            logger.debug("no comparison with a linear model", exc_info=True)
            return {**content, "problem": _sentence(error)}
        return {**content, "fitted_on": models.fitted_on, "problem": "", **found}


def to_markdown(content: Mapping[str, Any]) -> str:
    """The content of ``yardstick.json`` as a table for the eye.

    Args:
        content: of ``yardstick.json``.
    """
    lines = [f"# {content['title']}: the network and a linear model", ""]
    if content["problem"]:
        return "\n".join([*lines, f"They were not compared: {content['problem']}"]) + "\n"
    head, *rows = table(content)
    verdict = str(content["verdict"])
    lines += [f"{verdict[:1].upper()}{verdict[1:]}.", "", f"{content['evaluated_on']}.", ""]
    lines += [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(content))]) + "\n"


def table(content: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Heading and lines: each figure of the network and of the linear models beside it.

    Args:
        content: of ``yardstick.json``, without a problem.
    """
    columns = {"network": content["network"]}
    if content["linear"] is not None:
        columns[f"linear, β = {content['beta']:g}"] = content["linear"]
    columns[f"linear, L2, at the network's rate (β = {content['equal_rate']['beta']:.3g})"] = content["equal_rate"]
    rows = [("measure", *columns)]
    for figure in FIGURES:
        values = [column.get(figure.key) for column in columns.values()]
        if any(value is not None for value in values):
            rows.append((figure.label, *("–" if value is None else figure.text(value) for value in values)))
    return rows


def notes(content: Mapping[str, Any]) -> Iterator[str]:
    """What one has to know to read :func:`table`, in sentences.

    Args:
        content: of ``yardstick.json``, without a problem.
    """
    yield (
        f"The linear models are the exact optima of linear VAEs with {content['latent_size']} latents, as the network "
        f"has, fitted on {content['fitted_on']}. A network that is behind them is not trained, and says nothing of "
        "losses."
    )
    if content["linear"] is None:
        yield "The network's objective has no closed form, so that it is compared by the PSNR at equal rate."
    else:
        yield (
            f"Objective: E_q ½ ‖W(x − x̂(z))‖² + β KL without constants, the mean over {content['samples']} latent(s) "
            f"of each image for the network, exact for the linear model; the weight W of both is {content['weight']}."
        )
    yield "The last column's β is the one at which the KL is the network's on the same images, and its W is 1."


def _sentence(error: Exception) -> str:
    lines = str(user_error(error) or error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
