"""Tune every method on the validation subjects and run it on the test subjects, setting by setting."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from torch import Tensor

from monai_blurvae.priors.reconstruction.measures import magnitude_psnr, reconstruction_measures
from monai_blurvae.priors.reconstruction.splitting import can_be_watched
from prior_comparison.methods import Method, Parameters
from prior_comparison.results import Result, Results
from prior_comparison.scenes import Case, Setting, simulate

logger = logging.getLogger(__name__)

VALIDATION, TEST, CROSS = "validation", "test", "cross"
"""Sets of slices: to tune on, to report, and of other data, with what was tuned for the first."""


@dataclass(frozen=True)
class Comparison:
    """All reconstructions of a comparison.

    Attributes:
        methods: to compare.
        settings: of the scans.
        cases: slices of each set by its name.
        results: where they are kept.
        seed: of the scans.
    """

    methods: Sequence[Method]
    settings: Sequence[Setting]
    cases: Mapping[str, Sequence[Case]]
    results: Results
    seed: int = 0

    def run(self) -> None:
        """Make what is missing.

        Raises:
            BlurVAEError: naming what cannot be used.
        """
        for setting in self.settings:
            for method in self.methods:
                parameters = self.tuned(setting, method)
                for data in self.reported:
                    for case in self.cases[data]:
                        self._result(setting, method, parameters, data, case)
                    logger.info(self._summary(setting, method, parameters, data))

    @property
    def reported(self) -> list[str]:
        """Names of the sets in the tables."""
        return [data for data in (TEST, CROSS) if self.cases.get(data)]

    def tuned(self, setting: Setting, method: Method) -> Parameters:
        """The parameters with the highest mean PSNR of the validation slices; what is missing of the trials is made."""
        if len(method.grid) == 1:
            return method.grid[0]
        psnr = [
            fmean(
                self._result(setting, method, parameters, VALIDATION, case, trial).measures["psnr"]
                for case in self.cases[VALIDATION]
            )
            for trial, parameters in enumerate(method.grid)
        ]
        return method.grid[psnr.index(max(psnr))]

    def finished(self, setting: Setting, method: Method, data: str) -> list[Result]:
        """Results that are there, of all slices or of none."""
        found = [self.results.read(setting, method, data, case) for case in self.cases[data]]
        return [result for result in found if result is not None] if all(found) else []

    def _result(
        self,
        setting: Setting,
        method: Method,
        parameters: Parameters,
        data: str,
        case: Case,
        trial: int | None = None,
    ) -> Result:
        found = self.results.read(setting, method, data, case, trial)
        if found is not None and found.parameters == parameters:
            return found
        watched = trial is None and case is self.cases[data][0]
        result, image = self._reconstruct(setting, method, parameters, case, watched)
        if watched:
            self.results.keep_image(setting, method, data, case, image[0, 0].float().numpy())
        self.results.write(setting, method, data, case, result, trial)
        return result

    def _reconstruct(
        self, setting: Setting, method: Method, parameters: Parameters, case: Case, watched: bool
    ) -> tuple[Result, Tensor]:
        scene = simulate(case, setting, self.seed)
        reconstruct = method.make(**parameters)
        curve: list[float] = []

        def watcher(step: int, image: Tensor) -> None:
            curve.extend(magnitude_psnr(scene.scale * image, case.magnitude, case.largest))

        more: dict[str, Any] = {"watcher": watcher} if watched and can_be_watched(reconstruct) else {}
        started = time.process_time()
        image = reconstruct(scene.kspace, scene.operator, scene.noise_std, **more).detach().abs() * scene.scale
        seconds = time.process_time() - started
        (measures,) = reconstruction_measures(image, case.magnitude, case.largest)
        return Result(case.subject, case.index, parameters, measures, seconds, curve), image

    def _summary(self, setting: Setting, method: Method, parameters: Parameters, data: str) -> str:
        results = self.finished(setting, method, data)
        means = {name: fmean(result.measures[name] for result in results) for name in ("psnr", "ssim")}
        values = ", ".join(f"{name} {value:g}" for name, value in parameters.items())
        return (
            f"{setting.title}, {data}: {method.label}{f' ({values})' if values else ''} {means['psnr']:.2f} dB, SSIM "
            f"{means['ssim']:.3f}, {fmean(result.seconds for result in results):.2f} s of a core a slice"
        )
