"""What was measured, a file for each reconstruction, so that a comparison that was cut off goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_blurvae.errors import RunFolderError
from monai_blurvae.files import make_folder, read_object, replacing, write_json
from monai_blurvae.priors.reconstruction.measures import MEASURES
from prior_comparison.methods import Method, Parameters
from prior_comparison.scenes import Case, Setting


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


class Results:
    """The folder ``SETTING/METHOD/SET/SUBJECT_SLICE.json`` of a comparison, and beside the first slice its image.

    Args:
        folder: of all.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def read(self, setting: Setting, method: Method, data: str, case: Case, trial: int | None = None) -> Result | None:
        """A reconstruction that was measured; None if it was not.

        Raises:
            RunFolderError: if the file is damaged, or another of the same name has other parameters.
        """
        path = self._path(setting, method, data, case, trial)
        if not path.is_file():
            return None
        content = read_object(path, "remove it, and it is made again")
        try:
            return _result_of(content)
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(f"{path} is not a result of a comparison ({error}); remove it.") from error

    def write(
        self, setting: Setting, method: Method, data: str, case: Case, result: Result, trial: int | None = None
    ) -> None:
        """Keep a reconstruction."""
        path = self._path(setting, method, data, case, trial)
        make_folder(path.parent)
        write_json(path, vars(result) | {"parameters": dict(result.parameters)})

    def image(self, setting: Setting, method: Method, data: str, case: Case) -> npt.NDArray[np.float32] | None:
        """The magnitude that was kept, ``(H, W)``, the 99th percentile of the volume at 1."""
        path = self._path(setting, method, data, case).with_suffix(".npy")
        if not path.is_file():
            return None
        pixels: npt.NDArray[np.float32] = np.load(path, allow_pickle=False)
        return pixels

    def keep_image(
        self, setting: Setting, method: Method, data: str, case: Case, image: npt.NDArray[np.float32]
    ) -> None:
        """Keep a magnitude, ``(H, W)``, for the figures."""
        path = self._path(setting, method, data, case).with_suffix(".npy")
        make_folder(path.parent)
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, image, allow_pickle=False)

    def _path(self, setting: Setting, method: Method, data: str, case: Case, trial: int | None = None) -> Path:
        name = case.name if trial is None else f"{case.name}_trial{trial}"
        return self.folder / setting.name / method.name / data / f"{name}.json"


def _result_of(content: dict[str, Any]) -> Result:
    return Result(
        str(content["subject"]),
        int(content["index"]),
        dict(content["parameters"]),
        {name: float(content["measures"][name]) for name in MEASURES},
        float(content["seconds"]),
        [float(value) for value in content["psnr_of_steps"]],
    )
