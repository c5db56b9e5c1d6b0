"""Frozen ImageNet features of AlexNet and VGG16, and the LPIPS distance on top of them.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, version 0.1 of the
linear heads. The weights are in ``lpips_alex.pt`` and ``lpips_vgg.pt``, which ``scripts/convert_lpips.py`` writes:
dictionaries of float tensors, loaded with ``weights_only``. Their keys are those of the ``lpips`` package and of
torchmetrics, ``net.slice{1..5}.{torchvision index}.weight`` and ``.bias`` for the convolutions and
``lin{0..4}.model.1.weight`` for the heads, so that either of them loads the same file (``strict=False``).
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_blurvae.errors import WeightsError

logger = logging.getLogger(__name__)


class _Conv(NamedTuple):
    """A convolution followed by a ReLU; ``layer`` is its place in torchvision's ``features``."""

    layer: int
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    padding: int = 1


class _Architecture(NamedTuple):
    """A network by its stages; a stage with a pooling size begins with max pooling of that size and stride 2."""

    torchvision_name: str
    pool_sizes: tuple[int, ...]
    stages: tuple[tuple[_Conv, ...], ...]
    minimum_size: int


_ARCHITECTURES = {
    "alex": _Architecture(
        "alexnet",
        (0, 3, 3, 0, 0),
        (
            (_Conv(0, 3, 64, 11, stride=4, padding=2),),
            (_Conv(3, 64, 192, 5, padding=2),),
            (_Conv(6, 192, 384, 3),),
            (_Conv(8, 384, 256, 3),),
            (_Conv(10, 256, 256, 3),),
        ),
        31,
    ),
    "vgg": _Architecture(
        "vgg16",
        (0, 2, 2, 2, 2),
        (
            (_Conv(0, 3, 64, 3), _Conv(2, 64, 64, 3)),
            (_Conv(5, 64, 128, 3), _Conv(7, 128, 128, 3)),
            (_Conv(10, 128, 256, 3), _Conv(12, 256, 256, 3), _Conv(14, 256, 256, 3)),
            (_Conv(17, 256, 512, 3), _Conv(19, 512, 512, 3), _Conv(21, 512, 512, 3)),
            (_Conv(24, 512, 512, 3), _Conv(26, 512, 512, 3), _Conv(28, 512, 512, 3)),
        ),
        16,
    ),
}

PERCEPTUAL_NETS = tuple(_ARCHITECTURES)
"""Names of the networks."""


def _architecture(net: str) -> _Architecture:
    if net not in _ARCHITECTURES:
        raise ValueError(f"net must be one of {PERCEPTUAL_NETS}, but is {net!r}.")
    return _ARCHITECTURES[net]


def convolution_keys(net: str) -> list[str]:
    """Keys of the convolutions from the first to the last, without ``.weight`` and ``.bias``.

    Raises:
        ValueError: for an unknown network.
    """
    stages = enumerate(_architecture(net).stages, start=1)
    return [f"net.slice{stage}.{conv.layer}" for stage, convs in stages for conv in convs]


def head_keys() -> list[str]:
    """Keys of the heads' weights from the first stage to the last."""
    return [f"lin{stage}.model.1.weight" for stage in range(5)]


def weight_shapes(net: str) -> dict[str, tuple[int, ...]]:
    """The tensors of a weights file, by key.

    Raises:
        ValueError: for an unknown network.
    """
    stages = _architecture(net).stages
    shapes: dict[str, tuple[int, ...]] = {}
    for key, conv in zip(convolution_keys(net), (conv for convs in stages for conv in convs), strict=True):
        shapes[f"{key}.weight"] = (conv.out_channels, conv.in_channels, conv.kernel_size, conv.kernel_size)
        shapes[f"{key}.bias"] = (conv.out_channels,)
    for key, convs in zip(head_keys(), stages, strict=True):
        shapes[key] = (1, convs[-1].out_channels, 1, 1)
    return shapes


def default_weights_dir() -> Path:
    """``$BLURVAE_WEIGHTS_DIR``, or ``monai_blurvae/weights`` in the user's cache folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return Path(os.environ.get("BLURVAE_WEIGHTS_DIR") or base / "monai_blurvae" / "weights")


def weights_file(net: str, weights_dir: str | Path | None = None) -> Path:
    """Where the weights of a network are looked for.

    Args:
        net: ``"alex"`` or ``"vgg"``.
        weights_dir: the folder; None for :func:`default_weights_dir`.

    Raises:
        ValueError: for an unknown network.
    """
    _architecture(net)
    return (default_weights_dir() if weights_dir is None else Path(weights_dir).expanduser()) / f"lpips_{net}.pt"


def read_tensors(path: str | Path, advice: str) -> Mapping[str, object]:
    """A dictionary that ``torch.save`` wrote, on the CPU; runs nothing of what is in the file.

    Args:
        path: the file.
        advice: what to do where it cannot be read, for the error.

    Raises:
        WeightsError: if it cannot be read or holds no dictionary.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{path} cannot be read ({reason}); {advice}.") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__} and no dictionary of tensors; {advice}.")
    return content


def check_lpips_weights(weights: Mapping[str, object], net: str, source: str) -> dict[str, Tensor]:
    """The tensors of :func:`weight_shapes` and nothing else, if they are all there.

    Args:
        weights: what a file holds.
        net: ``"alex"`` or ``"vgg"``.
        source: what the error calls the file.

    Raises:
        WeightsError: naming the first key that is missing or has another shape or values that are not finite.
    """
    advice = "run python scripts/convert_lpips.py to write it again"
    checked = {}
    for key, shape in weight_shapes(net).items():
        value = weights.get(key)
        if not isinstance(value, Tensor) or tuple(value.shape) != shape:
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else "no tensor"
            raise WeightsError(f"{source} has {found} under {key!r}, where shape {shape} is expected; {advice}.")
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{source} has values under {key!r} that are not finite numbers; {advice}.")
        checked[key] = value
    return checked


def load_lpips_weights(net: str, weights_dir: str | Path | None = None) -> dict[str, Tensor]:
    """Weights of a network and of its LPIPS heads.

    From ``lpips_{net}.pt`` in the folder; without that file, torchvision's download with the heads that torchmetrics
    packages, where both are installed and the download succeeds.

    Args:
        net: ``"alex"`` or ``"vgg"``.
        weights_dir: the folder; None for :func:`default_weights_dir`.

    Returns:
        The tensors of :func:`weight_shapes`.

    Raises:
        ValueError: for an unknown network.
        WeightsError: if the file cannot be used, or there is neither a file nor a download.
    """
    path = weights_file(net, weights_dir)
    if not path.exists():
        return _download(net, path)
    weights = read_tensors(path, "delete it and run python scripts/convert_lpips.py")
    return check_lpips_weights(weights, net, str(path))


def _download(net: str, path: Path) -> dict[str, Tensor]:
    """Features by torchvision, heads from torchmetrics' package."""
    advice = (
        f"run python scripts/convert_lpips.py --output {path.parent}, or name the folder that holds the file by "
        "weights_dir or $BLURVAE_WEIGHTS_DIR"
    )
    try:
        models = importlib.import_module("torchvision.models")
        package = importlib.import_module("torchmetrics")
    except ImportError as error:
        raise WeightsError(
            f"{path} does not exist, and {error.name} is not installed, without which there is no download "
            f'(pip install "monai-blurvae[perceptual]"); {advice}.'
        ) from error
    logger.info("%s does not exist: torchvision's weights of %s are downloaded.", path, net)
    heads = Path(str(package.__file__)).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"
    try:
        features = getattr(models, _architecture(net).torchvision_name)(weights="DEFAULT").features.state_dict()
        weights = dict(torch.load(heads, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"{path} does not exist, and the download failed ({error}); {advice}.") from error
    for key in convolution_keys(net):
        for part in ("weight", "bias"):
            weights[f"{key}.{part}"] = features[f"{key.rpartition('.')[2]}.{part}"]
    return check_lpips_weights(weights, net, f"the download of {net}")


class PerceptualFeatures(nn.Module):
    """The five stages of AlexNet or VGG16 that LPIPS compares, frozen.

    The stages end with the ReLUs 1, 2, 3, 4, 5 of AlexNet and 1-2, 2-2, 3-3, 4-3, 5-3 of VGG16. The weights are
    buffers outside the ``state_dict``: no optimiser trains them, no checkpoint carries them. Nothing in it depends on
    the training mode.

    Args:
        net: ``"alex"`` or ``"vgg"``.
        weights_dir: folder of ``lpips_{net}.pt``, see :func:`load_lpips_weights`.
        weights: the weights themselves, in place of a file.

    Attributes:
        minimum_size: the smallest height and width in pixels that the network bears, 31 or 16.
        channels: channels of the five stages.

    Raises:
        ValueError: for an unknown network.
        WeightsError: as :func:`load_lpips_weights`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self, net: str = "alex", weights_dir: str | Path | None = None, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self._architecture = _architecture(net)
        if weights is None:
            weights = load_lpips_weights(net, weights_dir)
        else:
            weights = check_lpips_weights(weights, net, "weights")
        self.net = net
        self.minimum_size = self._architecture.minimum_size
        self.channels = tuple(convs[-1].out_channels for convs in self._architecture.stages)
        for key, conv in zip(convolution_keys(net), self._convolutions(), strict=True):
            for part in ("weight", "bias"):
                value = weights[f"{key}.{part}"].detach().to(torch.get_default_dtype(), copy=True)
                self.register_buffer(f"{part}_{conv.layer}", value, persistent=False)
        # LPIPS takes images in [-1, 1] to the mean and standard deviation of ImageNet's colours.
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        self.register_buffer("shift", shift.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", scale.view(1, 3, 1, 1), persistent=False)

    def _convolutions(self) -> list[_Conv]:
        return [conv for convs in self._architecture.stages for conv in convs]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features of images.

        Args:
            images: ``(B, 1 or 3, H, W)`` in [−1, 1], grey, which is repeated to three channels, or RGB.

        Returns:
            Five tensors ``(B, channels, h, w)``, not normalised.

        Raises:
            ValueError: for another number of dimensions or channels, or images smaller than ``minimum_size``.
        """
        self._check(images)
        x = (images.to(self.shift.dtype) - self.shift) / self.scale  # broadcasting repeats grey
        features = []
        for pool_size, convs in zip(self._architecture.pool_sizes, self._architecture.stages, strict=True):
            if pool_size:
                x = F.max_pool2d(x, pool_size, stride=2)
            for conv in convs:
                weight, bias = self.get_buffer(f"weight_{conv.layer}"), self.get_buffer(f"bias_{conv.layer}")
                x = F.relu(F.conv2d(x, weight, bias, conv.stride, conv.padding))
            features.append(x)
        return tuple(features)

    def _check(self, images: Tensor) -> None:
        require_pictures(images)
        if min(images.shape[2:]) < self.minimum_size:
            raise ValueError(
                f"images of {images.shape[2]}×{images.shape[3]} pixels are too small for the features of "
                f"{self._architecture.torchvision_name}, which need {self.minimum_size}×{self.minimum_size}; "
                "use larger patches or another loss."
            )


def require_pictures(images: Tensor) -> None:
    """Check that images are such as the networks were trained on, which needs no weights to be there.

    Raises:
        ValueError: if they are not grey or RGB in two dimensions.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images must have shape (batch, 1 or 3, height, width) for perceptual features, but have "
            f"{tuple(images.shape)}."
        )


class LearnedPerceptualDistance(nn.Module):
    """LPIPS: Σ over stages of the mean over positions of Σ_c w_c (f̂_c(x) − f̂_c(y))², eq. 1 of Zhang et al. 2018.

    f̂ = f / √(Σ_c f_c² + 10⁻⁸) are the features with unit length at each position; the small number is torchmetrics'
    and keeps the gradient finite where all features are zero. Differentiable; no state, as
    :class:`PerceptualFeatures`.

    Args:
        net: ``"alex"`` or ``"vgg"``.
        weights_dir: folder of ``lpips_{net}.pt``, see :func:`load_lpips_weights`.
        weights: the weights themselves, in place of a file.

    Raises:
        ValueError: for an unknown network.
        WeightsError: as :func:`load_lpips_weights`.
    """

    def __init__(
        self, net: str = "alex", weights_dir: str | Path | None = None, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        if weights is None:
            weights = load_lpips_weights(net, weights_dir)
        self.features = PerceptualFeatures(net, weights=weights)
        for stage, key in enumerate(head_keys()):
            value = weights[key].detach().to(torch.get_default_dtype(), copy=True)
            self.register_buffer(f"head_{stage}", value, persistent=False)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The distance of each pair of images, ``(B,)``.

        Args:
            input: ``(B, 1 or 3, H, W)`` in [−1, 1].
            target: like ``input``.

        Raises:
            ValueError: if the shapes differ, or as :meth:`PerceptualFeatures.forward`.
        """
        if input.shape != target.shape:
            raise ValueError(f"input has shape {tuple(input.shape)}, but target has {tuple(target.shape)}.")
        pairs = zip(self.features(input), self.features(target), strict=True)
        distances = [
            F.conv2d((_unit_length(a) - _unit_length(b)).square(), self.get_buffer(f"head_{stage}")).mean((1, 2, 3))
            for stage, (a, b) in enumerate(pairs)
        ]
        return torch.stack(distances).sum(0)


def _unit_length(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True) + 1e-8).sqrt()
