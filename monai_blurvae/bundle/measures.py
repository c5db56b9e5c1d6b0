"""All measures of a comparison for one finished run: likelihoods with every constant, distances, spectra, sharpness."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from monai_blurvae.bundle.densities import fit_densities
from monai_blurvae.data.facts import DatasetFacts, facts_of
from monai_blurvae.files import FilePath, make_folder, resolved, write_json, write_text
from monai_blurvae.metrics.evaluated import Evaluated
from monai_blurvae.metrics.likelihood import Densities
from monai_blurvae.metrics.measures import EIGHT_BIT_DENSITY, FLOAT_DENSITY, LIKELIHOOD, MEASURES, keys
from monai_blurvae.metrics.suite import NO_KERNEL, Measure, measure_model
from monai_blurvae.run_files import MEASURES_JSON, MEASURES_MD
from monai_blurvae.runs import Run, TrainedObjective

logger = logging.getLogger(__name__)

FIXED_KERNEL = "the loss has a fixed kernel, and the generator's plays no part in it"
"""The reason for a missing value of the kernel where a generator may have been trained all the same."""


def images_of(dataset: Any) -> Tensor:
    """All images of a dataset of ``{"image"}``, ``(B, C, H, W)`` in [−1, 1]."""
    return torch.stack([torch.as_tensor(dataset[i]["image"]) for i in range(len(dataset))])


def no_kernel_of(objective: TrainedObjective) -> str:
    """Why the kernels of a model are worth no measure; empty where they are."""
    if objective.fixed_kernel:
        return FIXED_KERNEL
    return "" if objective.has_kernel else NO_KERNEL


class MeasuresHandler:
    """Write ``measures.json`` and ``measures.md``: every measure of a comparison of losses, or why it is missing.

    The images are those that the evaluation goes through. The variances and the spectrum of the likelihoods are fitted
    on the run's own validation subjects, whatever is evaluated, and as the run cut them into patches. See
    :func:`~monai_blurvae.metrics.measure_model`.

    Args:
        folder: where to write, or a function that gives the folder when the evaluation is completed.
        run: whose model it is.
        network: the model, which may be wrapped in ``DistributedDataParallel``.
        cache_dir: of the store, for the run's validation images.
        dataset: what is evaluated, whose :func:`~monai_blurvae.data.facts.facts_of` are told; None for the dataset of
            the engine's loader.
        title: what is evaluated.
        importance_samples: K ≥ 1, latents of each image for the bounds of log p.
        weights_dir: folder of the weights of LPIPS and Inception; None for the default one.
        eight_bit: whether the images are 8-bit, v / 127.5 − 1, so that they are dequantised.
        seed: of samples, latents and dequantisation.

    Raises:
        ValueError: if ``importance_samples`` is no whole number of at least 1.
        DataError: when the evaluation starts, if the run's validation images are not there any more.
    """

    def __init__(
        self,
        folder: FilePath,
        run: Run,
        network: nn.Module,
        cache_dir: str | Path,
        dataset: Any = None,
        title: str = "test",
        importance_samples: int = 16,
        weights_dir: str | Path | None = None,
        eight_bit: bool = False,
        seed: int = 0,
    ) -> None:
        if not isinstance(importance_samples, int) or importance_samples < 1:
            raise ValueError(
                f"importance_samples is {importance_samples!r}, but has to be a whole number of at least 1."
            )
        self.folder = folder
        self.run = run
        self.network = network
        self.cache_dir = cache_dir
        self.dataset = dataset
        self.title = title
        self.importance_samples = importance_samples
        self.weights_dir = None if weights_dir is None else Path(weights_dir).expanduser()
        self.eight_bit = eight_bit
        self.seed = seed
        self._fitted_on: Any = None

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluation engine."""
        self._evaluated = Evaluated.of_engine(engine)
        self._evaluated.samples, self._evaluated.seed = self.importance_samples, self.seed
        self._evaluated.eight_bit, self._evaluated.fit = self.eight_bit, self._fit
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self) -> None:
        self._fitted_on = self.run.validation_dataset(self.cache_dir)  # missing ones stop the evaluation at once

    def _fit(self) -> Densities:
        most = len(self._fitted_on)
        return fit_densities(
            self.run, self.network, self.cache_dir, self._fitted_on, most, eight_bit=self.eight_bit, seed=self.seed
        )

    def _write(self, engine: Engine) -> None:
        count = len(self._evaluated.images)
        facts = facts_of(engine.state.dataloader.dataset if self.dataset is None else self.dataset)
        logger.info(f"Measuring {facts.count_text(count)} with {self.importance_samples} latents each.")
        objective = self.run.objective()
        measures = measure_model(
            self._evaluated,
            no_kernel=no_kernel_of(objective),
            weights_dir=self.weights_dir,
            c=objective.wiener_c,
        )
        content = self._content(measures, objective, facts, count, len(self._fitted_on))
        folder = make_folder(resolved(self.folder))
        write_json(folder / MEASURES_JSON, content)
        write_text(folder / MEASURES_MD, to_markdown(content))
        logger.info(f"Measures in {folder / MEASURES_MD}.")

    def _content(
        self, measures: Mapping[str, Measure], objective: TrainedObjective, facts: DatasetFacts, count: int, fitted: int
    ) -> dict[str, Any]:
        density = EIGHT_BIT_DENSITY if self.eight_bit else FLOAT_DENSITY
        fitted_facts = facts_of(self._fitted_on)
        fitted_on = fitted_facts.count_text(fitted)
        shared = _shared_note(facts, fitted_facts)
        return {
            "title": ", ".join(filter(None, (self.title, facts.remark))),
            "images": count,
            "evaluated_on": facts.count_text(count),
            "fitted_on": fitted_on,
            "importance_samples": self.importance_samples,
            "seed": self.seed,
            "eight_bit": self.eight_bit,
            "density": density,
            "training": objective._asdict(),
            "notes": [
                f"p is a {density}.",
                f"Variances and spectrum are fitted on {fitted_on} of the run's validation; the ELBO is a mean over "
                f"K = {self.importance_samples} latents of each image, which also make the importance-weighted bound.",
                *shared,
                _training_note(objective),
            ],
            "measures": {key: _row(key, measure) for key, measure in measures.items()},
        }


def _shared_note(evaluated: DatasetFacts, fitted_on: DatasetFacts) -> Iterator[str]:
    shared = len(evaluated.identities & fitted_on.identities)
    if shared:
        yield (
            f"{shared} of the {len(evaluated.identities)} evaluated files are among those, so that the likelihoods "
            "come out slightly too good."
        )


def _training_note(objective: TrainedObjective) -> str:
    if objective.departures:
        return (
            f"The model was not trained as a bound of this density: {'; '.join(objective.departures)}. The figures are "
            "those of the Gaussian fitted around its decoder."
        )
    return (
        f"The model was trained on a bound of log p under the likelihood of its loss, {objective.loss}; the figures "
        "are those of the Gaussian fitted around its decoder afterwards."
    )


def _row(key: str, measure: Measure) -> dict[str, Any]:
    described = MEASURES[key]
    told = {name: getattr(described, name) for name in ("name", "unit", "what", "features")}
    return {**measure._asdict(), **told, "better": described.direction}


def to_markdown(content: Mapping[str, Any]) -> str:
    """The content of ``measures.json`` as tables for the eye.

    Args:
        content: of ``measures.json``.
    """
    measures = content["measures"]
    likelihoods = [key for key in measures if key in keys(LIKELIHOOD)]
    others = [key for key in measures if key not in keys(LIKELIHOOD)]
    lines = [f"# {content['title']}", "", f"{content['evaluated_on']}.", ""]
    lines += ["## Reconstructions, samples, latent", "", *_table(measures, others), ""]
    lines += ["## Likelihood", "", *_table(measures, likelihoods), ""]
    return "\n".join(lines + [f"- {note}" for note in content["notes"]]) + "\n"


def _table(measures: Mapping[str, Mapping[str, Any]], shown: Sequence[str]) -> list[str]:
    rows = [("measure", "value", "unit", "what it is"), ("---",) * 4]
    for key in shown:
        row = measures[key]
        arrow = {"higher": " ↑", "lower": " ↓"}.get(row["better"], "")
        features = f"; features: {row['features']}" if row["features"] else ""
        value = f"– ({row['reason']})" if row["value"] is None else MEASURES[key].text(row["value"])
        rows.append((row["name"] + arrow, value, row["unit"], row["what"] + features))
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
