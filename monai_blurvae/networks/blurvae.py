"""The two architectures of the paper (appendix A) and one of ours, in N dimensions, readable from the weights alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn

from monai_blurvae.networks.latent_model import (
    KernelGenerator,
    LatentImageModel,
    check_kernel_fits,
    require_image_shape,
)


@dataclass(frozen=True)
class Architecture:
    """Hyperparameters that fix the shape of every weight of a :class:`~monai_blurvae.networks.BlurVAE`."""

    spatial_dims: int
    in_channels: int
    image_size: int
    latent_size: int
    channels: tuple[int, ...]
    kernel_size: int
    architecture: str

    def differences(self, other: Architecture) -> list[str]:
        """Names of the hyperparameters in which the two differ."""
        mine, theirs = asdict(self), asdict(other)
        return [name for name in mine if mine[name] != theirs[name]]


def architecture_of(state_dict: Mapping[str, Any]) -> Architecture | None:
    """Read the architecture off the shapes of a state dict.

    Args:
        state_dict: weights of a BlurVAE.

    Returns:
        The architecture, or None when these are not the weights of a BlurVAE.
    """
    blocks: dict[int, Tensor] = {}
    for name, value in state_dict.items():
        match = re.fullmatch(r"encoder\.blocks\.(\d+)\.conv\.weight", name)
        if match and isinstance(value, Tensor):
            blocks[int(match.group(1))] = value
    first_linear = state_dict.get("decoder.expand.0.weight")
    last_linear = state_dict.get("kernel_generator.layers.2.weight")
    flat_size = state_dict.get("encoder.flat_size")
    if not blocks or first_linear is None or last_linear is None or flat_size is None:
        return None
    channels = tuple(int(blocks[i].shape[0]) for i in sorted(blocks))
    spatial_dims = blocks[0].ndim - 2
    smallest = round((int(flat_size) // channels[-1]) ** (1 / spatial_dims))
    return Architecture(
        spatial_dims=spatial_dims,
        in_channels=int(blocks[0].shape[1]),
        image_size=smallest * 2 ** len(channels),
        latent_size=int(first_linear.shape[1]),
        channels=channels,
        kernel_size=round(math.pow(last_linear.shape[0], 1 / spatial_dims)),
        architecture=_name(state_dict),
    )


def _name(state_dict: Mapping[str, Any]) -> str:
    if "decoder.expand.2.weight" in state_dict:
        return "transposed"
    return "transposed_linear" if "decoder.blocks.0.conv.weight" in state_dict else "upsample"


ARCHITECTURES = ("transposed", "transposed_linear", "upsample")
HIDDEN_SIZE = 512
LOG_VAR_LIMIT = 10.0
LEAKY_RELU: tuple[str, dict[str, Any]] = ("leakyrelu", {"negative_slope": 0.2, "inplace": True})


def _channels_last(x: Tensor) -> Tensor:
    """Images or features in the layout that convolutions are faster in, which their results then have too.

    The weights stay contiguous in the usual layout: a state dict that is exchanged in memory has to be. Volumes stay as
    they are.
    """
    if x.dim() != 4:
        return x
    if x.shape[1] == 1:  # in either layout the same numbers; the strides alone tell a convolution which is meant
        x = x.squeeze(1).unsqueeze(3).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


class _Encoder(nn.Module):
    """Strided convolutions, then linear layers to μ and log σ²."""

    def __init__(
        self, spatial_dims: int, in_channels: int, smallest: int, latent_size: int, channels: Sequence[int], mlp: bool
    ) -> None:
        super().__init__()
        self.log_var_limit = LOG_VAR_LIMIT
        self.blocks = nn.Sequential()
        for i, (before, after) in enumerate(zip([in_channels, *channels[:-1]], channels, strict=True)):
            block = Convolution(spatial_dims, before, after, strides=2, kernel_size=3, act=LEAKY_RELU, norm="batch")
            self.blocks.add_module(str(i), block)
        flat_size = channels[-1] * smallest**spatial_dims
        # The image size shows in no weight of the convolutions; with it the weights alone tell the architecture.
        self.register_buffer("flat_size", torch.tensor(flat_size))
        hidden = HIDDEN_SIZE if mlp else flat_size
        self.hidden = nn.Sequential(nn.Linear(flat_size, hidden), nn.LeakyReLU(0.2)) if mlp else nn.Sequential()
        self.posterior = nn.Linear(hidden, 2 * latent_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.flatten(self.blocks(_channels_last(x)), 1)
        mu, log_var = torch.chunk(self.posterior(self.hidden(features)), 2, dim=1)
        return mu, log_var.clamp(-self.log_var_limit, self.log_var_limit)


class _Decoder(nn.Module):
    """Linear layers, then blocks that double the size, then a convolution and tanh."""

    def __init__(
        self,
        spatial_dims: int,
        out_channels: int,
        smallest: int,
        latent_size: int,
        channels: Sequence[int],
        mlp: bool,
        transposed: bool,
    ) -> None:
        super().__init__()
        reverse = list(reversed(channels))
        self.first_shape = [reverse[0]] + [smallest] * spatial_dims
        flat_size = math.prod(self.first_shape)
        if mlp:
            self.expand = nn.Sequential(
                nn.Linear(latent_size, HIDDEN_SIZE), nn.LeakyReLU(0.2), nn.Linear(HIDDEN_SIZE, flat_size)
            )
        else:
            self.expand = nn.Sequential(nn.Linear(latent_size, flat_size))
        self.blocks = nn.Sequential()
        for i, (before, after) in enumerate(zip([reverse[0], *reverse[:-1]], reverse, strict=True)):
            self.blocks.add_module(str(i), self._block(spatial_dims, before, after, transposed))
        self.output = Convolution(spatial_dims, reverse[-1], out_channels, kernel_size=3, conv_only=True)

    @staticmethod
    def _block(spatial_dims: int, before: int, after: int, transposed: bool) -> nn.Module:
        if transposed:
            return Convolution(
                spatial_dims,
                before,
                after,
                strides=2,
                kernel_size=4,
                padding=1,
                output_padding=0,
                is_transposed=True,
                act=LEAKY_RELU,
                norm="batch",
            )
        upsample = nn.Upsample(
            scale_factor=2, mode="bilinear" if spatial_dims == 2 else "trilinear", align_corners=False
        )
        return nn.Sequential(
            upsample, Convolution(spatial_dims, before, after, kernel_size=3, act=LEAKY_RELU, norm="batch")
        )

    def forward(self, z: Tensor) -> Tensor:
        features = _channels_last(self.expand(z).unflatten(1, self.first_shape))
        return torch.tanh(self.output(self.blocks(features)))


class _BlurVAEParts(nn.Module):
    """Encoder, decoder and kernel generator with the methods that every forward builds on."""

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        image_size: int = 64,
        latent_size: int = 256,
        channels: Sequence[int] = (64, 128, 256, 512),
        kernel_size: int = 11,
        architecture: str = "transposed",
        kernel_normalization: str = "softmax",
        kernel_hidden_size: int = 1000,
    ) -> None:
        super().__init__()
        _check(spatial_dims, in_channels, image_size, latent_size, channels, kernel_size, architecture)
        self.spatial_dims = spatial_dims
        self.latent_size = latent_size
        self.image_shape = [in_channels] + [image_size] * spatial_dims
        self.kernel_size = kernel_size
        smallest = image_size // 2 ** len(channels)
        mlp, transposed = architecture == "transposed", architecture != "upsample"
        self.encoder = _Encoder(spatial_dims, in_channels, smallest, latent_size, channels, mlp)
        self.decoder = _Decoder(spatial_dims, in_channels, smallest, latent_size, channels, mlp, transposed)
        for part in (self.encoder, self.decoder):
            part.apply(_initialize)
        self.kernel_generator = KernelGenerator(
            latent_size, kernel_size, kernel_hidden_size, kernel_normalization, spatial_dims
        )
        # mm along each axis of the training images, 0 where it is unknown; it travels with the weights.
        self.register_buffer("voxel_size", torch.zeros(spatial_dims))
        self._register_load_state_dict_pre_hook(_refuse_other_architecture, with_module=True)

    @torch.jit.export
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log σ² (within ±10), ``(B, latent_size)`` each, of images in [−1, 1]."""
        require_image_shape(x, self.image_shape)
        mu, log_var = self.encoder(x)
        return mu, log_var

    @torch.jit.export
    def decode(self, z: Tensor) -> Tensor:
        """Decoder mean in [−1, 1], ``(B, C, *image_size)``, of latents ``(B, latent_size)``."""
        return self.decoder(z)

    @torch.jit.export
    def kernel(self, z: Tensor) -> Tensor:
        """Blur kernels ``(B, 1, k, k)`` of latents ``(B, latent_size)``."""
        return self.kernel_generator(z)

    def vae_parameters(self) -> Iterator[nn.Parameter]:
        """θ and φ: the parameters of the decoder and the encoder."""
        yield from self.encoder.parameters()
        yield from self.decoder.parameters()

    def kernel_parameters(self) -> Iterator[nn.Parameter]:
        """γ: the parameters of the kernel generator."""
        yield from self.kernel_generator.parameters()


class BlurVAE(_BlurVAEParts, LatentImageModel):
    """Variational autoencoder whose latent also predicts the blur kernel of its reconstruction.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the images, and of the reconstructions: 1 for grey, 3 for RGB. They share one kernel.
        image_size: size of the images along every axis; a multiple of 2 to the number of blocks.
        latent_size: size of the latent.
        channels: feature channels of the encoder's blocks, each of which halves the size.
        kernel_size: odd size of the blur kernels, at most ``image_size``.
        architecture: ``"transposed"``, the paper's main one (two-layer MLPs around the latent, transposed
            convolutions), ``"upsample"``, its second (one linear layer, bilinear upsampling and convolutions), or
            ``"transposed_linear"``, ours (one linear layer, transposed convolutions), which learns fastest.
        kernel_normalization: ``"softmax"`` or ``"none"``, see :class:`KernelGenerator`.
        kernel_hidden_size: width of the kernel generator's hidden layer.

    Raises:
        ValueError: naming the argument that does not fit.

    Example:
        >>> import torch
        >>> network = BlurVAE(channels=(8, 16, 32, 64), latent_size=16)
        >>> network(torch.zeros(2, 1, 64, 64)).reconstruction.shape
        torch.Size([2, 1, 64, 64])
    """


class BlurVAEReconstructor(_BlurVAEParts):
    """Deterministic x → reconstruction from the posterior mean, for inference and export.

    It takes the weights that :class:`BlurVAE` was trained to, and has the same arguments. In TorchScript it also keeps
    ``encode``, ``decode``, ``kernel`` and the buffer ``voxel_size``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions in [−1, 1] of images in [−1, 1], both ``(B, C, *image_size)``."""
        mu, _ = self.encode(x)
        return self.decode(mu)


def _initialize(module: nn.Module) -> None:
    """Linear layers by He et al. 2015: torch's own start a third as large and takes the MLPs much longer to leave."""
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, a=0.2)
        nn.init.zeros_(module.bias)


def _check(
    spatial_dims: int,
    in_channels: int,
    image_size: int,
    latent_size: int,
    channels: Sequence[int],
    kernel_size: int,
    architecture: str,
) -> None:
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, but is {spatial_dims}.")
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {ARCHITECTURES}, but is {architecture!r}.")
    if not channels or any(n < 1 for n in channels):
        raise ValueError(f"channels must be positive numbers, one for each block, but is {list(channels)}.")
    if latent_size < 1 or in_channels < 1:
        raise ValueError(f"latent_size and in_channels must be positive, but are {latent_size} and {in_channels}.")
    step = 2 ** len(channels)
    if image_size < step or image_size % step:
        raise ValueError(
            f"patch_size (image_size) {image_size} cannot be halved {len(channels)} times, once for each entry of "
            f"channels; take a multiple of {step}."
        )
    check_kernel_fits(kernel_size, image_size)


def _refuse_other_architecture(module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Say in one sentence in what a checkpoint's network differs, in place of a list of mismatched tensors."""
    own = {name: value for name, value in state_dict.items() if name.startswith(prefix)}
    saved = architecture_of({name[len(prefix) :]: value for name, value in own.items()})
    here = architecture_of(dict(module.named_parameters()) | dict(module.named_buffers()))
    if saved is None or here is None or saved == here:
        return
    names = saved.differences(here)
    raise ValueError(
        "the checkpoint is of another architecture: "
        + ", ".join(f"{name} is {_plain(saved, name)} there and {_plain(here, name)} here" for name in names)
        + "; set "
        + " and ".join("patch_size (image_size)" if name == "image_size" else name for name in names)
        + " to the checkpoint's."
    )


def _plain(architecture: Architecture, name: str) -> Any:
    value = getattr(architecture, name)
    return list(value) if isinstance(value, tuple) else value
