"""Tune every method on the validation subjects and run it on the test subjects, setting by setting.

Each reconstruction that was measured has a file, so that a comparison that was cut off goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor

from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import make_folder, read_object, replacing, write_json
from monai_blurvae.priors.reconstruction.splitting import (
    MEASURES,
    can_be_watched,
    magnitude_psnr,
    reconstruction_measures,
)
from prior_comparison.methods import Method, Parameters
from prior_comparison.scenes import Case, Setting, simulate

logger = logging.getLogger(__name__)

VALIDATION, TEST, CROSS = "validation", "test", "cross"
"""Sets of slices: to tune on, to report, and of other data, with what was tuned for the first."""


@dataclass(frozen=True)
class Result:
    """One reconstruction.

    Attributes:
        subject: the person.
        index: of the slice.
        parameters: of the method.
        measures: :data:`~monai_blurvae.priors.reconstruction.MEASURES` by name.
        seconds: of processor time, of all threads, which what else the machine does leaves alone.
        psnr_of_steps: where they were looked at.
    """

    subject: str
    index: int
    parameters: Parameters
    measures: dict[str, float]
    seconds: float
    psnr_of_steps: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """All reconstructions of a comparison.

    Attributes:
        methods: to compare.
        settings: of the scans.
        cases: slices of each set by its name.
        folder: of ``SETTING/METHOD/SET/SUBJECT_SLICE.json``, with the image of the first slice as ``.npy`` beside it.
        seed: of the scans.
    """

    methods: Sequence[Method]
    settings: Sequence[Setting]
    cases: Mapping[str, Sequence[Case]]
    folder: Path
    seed: int = 0

    def run(self) -> None:
        """Make what is missing.

        Raises:
            BlurVAEError: naming what cannot be used.
        """
        for setting in self.settings:
            for method in self.methods:
                parameters = self.tuned(setting, method)
                values = ", ".join(f"{name} {value:g}" for name, value in parameters.items())
                for data in self.reported:
                    results = [self._result(setting, method, parameters, data, case) for case in self.cases[data]]
                    psnr, ssim = (fmean(result.measures[name] for result in results) for name in ("psnr", "ssim"))
                    logger.info(
                        f"{setting.title}, {data}: {method.label}{f' ({values})' if values else ''} {psnr:.2f} dB, "
                        f"SSIM {ssim:.3f}, {fmean(result.seconds for result in results):.2f} s of a core a slice"
                    )

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
                self._result(setting, method, parameters, VALIDATION, case, f"_trial{trial}").measures["psnr"]
                for case in self.cases[VALIDATION]
            )
            for trial, parameters in enumerate(method.grid)
        ]
        return method.grid[psnr.index(max(psnr))]

    def finished(self, setting: Setting, method: Method, data: str) -> list[Result]:
        """Results that are there, of all slices or of none."""
        found = [_read(self.path(setting, method, data, case)) for case in self.cases[data]]
        return [result for result in found if result is not None] if all(found) else []

    def path(self, setting: Setting, method: Method, data: str, case: Case, trial: str = "") -> Path:
        """The file of a reconstruction."""
        return self.folder / setting.name / method.name / data / f"{case.name}{trial}.json"

    def _result(
        self, setting: Setting, method: Method, parameters: Parameters, data: str, case: Case, trial: str = ""
    ) -> Result:
        path = self.path(setting, method, data, case, trial)
        found = _read(path)
        if found is not None and found.parameters == parameters:
            return found
        watched = not trial and case is self.cases[data][0]
        result, image = self._reconstruct(setting, method, parameters, case, watched)
        make_folder(path.parent)
        if watched:
            with replacing(path.with_suffix(".npy")) as temporary, temporary.open("wb") as stream:
                np.save(stream, image[0, 0].float().numpy(), allow_pickle=False)
        write_json(path, vars(result) | {"parameters": dict(result.parameters)})
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


def _read(path: Path) -> Result | None:
    """A reconstruction that was measured; None if it was not."""
    if not path.is_file():
        return None
    content = read_object(path, "remove it, and it is made again")
    try:
        return Result(
            str(content["subject"]),
            int(content["index"]),
            dict(content["parameters"]),
            {name: float(content["measures"][name]) for name in MEASURES},
            float(content["seconds"]),
            [float(value) for value in content["psnr_of_steps"]],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{path} is not a result of a comparison ({error}); remove it.") from error
