"""From the intensities of an image to the network's [−1, 1] and back, by the rule that a training had."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from monai.transforms.utils_pytorch_numpy_unification import percentile
from torch import Tensor

from monai_blurvae.errors import DataError

PERCENTILES = "ScalePercentilesd"
RANGE = "ScaleIntensityRanged"
"""MONAI's transforms that a rule is read from."""

Bounds = tuple[float, float]
"""The intensities (low, high) that the network sees as −1 and 1."""


@dataclass(frozen=True)
class IntensityRule:
    """Which intensities of an image are −1 and 1.

    Attributes:
        by: ``"percentile"`` of each image or volume, or ``"value"``, the same for all.
        lower: what becomes −1.
        upper: what becomes 1.
        clip: whether what lies outside is clipped.
    """

    by: str
    lower: float
    upper: float
    clip: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> IntensityRule | None:
        """The rule of a training.

        Args:
            config: of the run.

        Returns:
            None where its transforms scale by anything but one of MONAI's two, with plain numbers, to [−1, 1].
        """
        found = [rule for transform in _transforms(config) if (rule := _rule_of(transform, config)) is not None]
        return found[0] if len(found) == 1 else None

    def bounds(self, image: Tensor) -> Bounds:
        """Low and high of an image, or of a volume as a whole.

        Args:
            image: finite, any shape.

        Raises:
            DataError: if they are alike, as those of a blank image are.
        """
        if self.by == "value":
            return self.lower, self.upper
        low, high = (float(percentile(image, q)) for q in (self.lower, self.upper))
        return checked((low, high))

    def described(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def checked(bounds: Sequence[float]) -> Bounds:
    """The intensities that become −1 and 1.

    Raises:
        DataError: unless they are two finite numbers, the smaller first.
    """
    low, high = (float(value) for value in bounds)
    if not (math.isfinite(high - low) and low < high):
        raise DataError(
            f"the intensities {low:g} and {high:g} cannot become -1 and 1; give an image that is not blank."
        )
    return low, high


def to_network(image: Tensor, bounds: Bounds, clip: bool) -> Tensor:
    """Intensities on [−1, 1], like ``image``."""
    low, high = bounds
    scaled = (image - low) / (high - low) * 2.0 - 1.0
    return scaled.clamp(-1.0, 1.0) if clip else scaled


def from_network(image: Tensor, bounds: Bounds) -> Tensor:
    """The inverse of :func:`to_network`, but for what was clipped."""
    low, high = bounds
    return (image + 1.0) * (0.5 * (high - low)) + low


def _transforms(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    train = config.get("train", {})
    for section in ("deterministic_transforms", "random_transforms"):
        yield from (item for item in train.get(section) or () if isinstance(item, Mapping))


def _rule_of(transform: Mapping[str, Any], config: Mapping[str, Any]) -> IntensityRule | None:
    names = {PERCENTILES: ("percentile", "lower", "upper"), RANGE: ("value", "a_min", "a_max")}
    found = names.get(str(transform.get("_target_", "")).rpartition(".")[2])
    if found is None:
        return None
    by, *limits = found
    numbers = [_plain(transform.get(name), config) for name in (*limits, "b_min", "b_max")]
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in numbers):
        return None
    lower, upper, b_min, b_max = numbers
    if (b_min, b_max) != (-1, 1) or not lower < upper:
        return None
    return IntensityRule(by, float(lower), float(upper), bool(_plain(transform.get("clip", False), config)))


def _plain(value: Any, config: Mapping[str, Any]) -> Any:
    """The value, or the setting that it refers to."""
    return config.get(value[1:]) if isinstance(value, str) and value.startswith("@") else value
