"""One object around a trained network, which takes images as they are and answers in their intensities."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer, SlidingWindowInferer
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientationd
from torch import Tensor

from monai_blurvae.bundle.densities import fit_densities
from monai_blurvae.data import VolumeReader
from monai_blurvae.errors import BlurVAEError, DataError, RunFolderError, SettingsError
from monai_blurvae.metrics.likelihood import Densities, SpectrumLikelihood
from monai_blurvae.networks import LatentImageModel, as_reconstructor
from monai_blurvae.priors import BlurVAEPrior
from monai_blurvae.runs.run import Run
from monai_blurvae.trained.architecture import scriptable_parts, untrained_network
from monai_blurvae.trained.intensity import Bounds, IntensityRule, checked, from_network, to_network
from monai_blurvae.trained.scriptable import ScriptableModel
from monai_blurvae.trained.source import is_of_volumes, read_weights
from monai_blurvae.transforms import NaNToBackgroundd, PrepareImaged

logger = logging.getLogger(__name__)

PATCHES_AT_ONCE = 16
OVERLAP = 0.5
"""Of neighbouring patches, blended by Gaussian weights, as in the bundles' inference."""

ADD_CHANNEL = EnsureChannelFirst(channel_dim="no_channel")
STEPS = {
    3: Compose([NaNToBackgroundd("image")]),
    4: Compose([Orientationd("image", axcodes="RAS", labels=None), NaNToBackgroundd("image")]),
}
"""What is done to an image ``(C, H, W)`` and a volume ``(C, X, Y, Z)`` before they are scaled; it is inverted after."""

Image = str | Path | npt.NDArray[Any] | Tensor
"""A file, or an array: ``(H, W)``, channel-first ``(C, H, W)``, or of a grey model a volume ``(X, Y, Z)`` or
``(1, X, Y, Z)``. A ``MetaTensor`` of a volume is turned to RAS by its affine, and back."""


class TrainedModel:
    """A trained BlurVAE, or BlurAutoencoderKL of MONAI's AutoencoderKL, with what it has to know of images.

    Images are scaled by the training's own rule: for volumes mostly the 1st and 99th percentile of the whole. Of a part
    of a scan give the scan's ``intensity``, see :meth:`intensity`, since its own percentiles are others.

    Args:
        run: a finished run or a packed bundle, of which nothing is run.
        device: to compute on.

    Raises:
        RunFolderError: if it is neither, unfinished, broken, or of another version, in a sentence.

    Attributes:
        network: the model in evaluation mode, on images in [−1, 1].
        rule: how the training scaled intensities; None where it did so in a way that is not known here.
        config: of the training.
        slice_axis: of a volume in RAS that its slices are across; None for a network of cubes.
        voxel_size: of the training's images in mm along each axis of a patch, 0 where it is unknown.

    Example:
        >>> import monai_blurvae
        >>> model = monai_blurvae.load("outputs/hcp/0001")  # doctest: +SKIP
        >>> model.reconstruct("t1.nii.gz")  # doctest: +SKIP
    """

    def __init__(self, run: Run, device: str | torch.device = "cpu") -> None:
        weights = read_weights(run)
        self.config: Mapping[str, Any] = run.config
        self.name = run.name
        self.rule = IntensityRule.of(self.config)
        self._crop_size: int | None = run.argument("crop_size", None)
        self.network = untrained_network(run, weights)
        planar = self.network.spatial_dims == 2
        self.slice_axis: int | None = run.argument("slice_axis", 1) if planar else None
        try:
            self.network.load_state_dict(weights)
        except RuntimeError as error:  # torch's lists of names
            raise RunFolderError(f"{self.name} holds weights that are not all there; take another one.") from error
        self.network.to(device).eval()
        self.voxel_size = tuple(float(size) for size in self.network.get_buffer("voxel_size"))
        self._run = run
        self._scored: ScriptableModel | None = None
        self._densities: Densities | None = None

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> TrainedModel:
        """Load a finished run, a packed bundle, or its zip; nothing from it is run.

        Args:
            path: of the folder or zip; ``"sample_model"`` for the one that comes with the package.
            device: to compute on.

        Raises:
            RunFolderError: if it is none of these, unfinished, broken, or of another version, in a sentence.
        """
        return cls(Run(path), device)

    @property
    def image_shape(self) -> list[int]:
        """(C, *image_size) of the patches that the network sees."""
        return self.network.image_shape

    @property
    def volumes(self) -> bool:
        """Whether the training's images are slices of volumes, not files of images."""
        return is_of_volumes(self.config)

    def preprocessing(self) -> dict[str, Any]:
        """What an image has to go through on its way to the network, as JSON has it."""
        volumes = {"orientation": "RAS", "slice_axis": self.slice_axis, "nan": "smallest value"} if self.volumes else {}
        return {
            "intensity": None if self.rule is None else self.rule.described(),
            "range": [-1, 1],
            "image_shape": self.image_shape,
            "voxel_size": list(self.voxel_size),
            **volumes,
        }

    def densities(self) -> Densities:
        """The Gaussians fitted around the decoder: of a bundle as packed, of a run fitted on its validation images.

        The latter happens once, when they are first needed, and runs the run's config.

        Raises:
            BlurVAEError: if there are none, or those images are not there any more.
        """
        if self._densities is None:
            self._densities = fit_densities(self._run, self.network, self._run.cache_dir)
        return self._densities

    def find_densities(self) -> Densities | None:
        """:meth:`densities`, or None, with a warning that says why there are none."""
        try:
            return self.densities()
        except BlurVAEError as error:
            logger.warning(f"There will be no log_prob: {error}")
            return None

    def scriptable(self, densities: Densities | None) -> ScriptableModel:
        """The network with samples and densities, as it is exported.

        Args:
            densities: to have, of :meth:`densities`; None for none.
        """
        variances = None if densities is None else densities.variances
        return ScriptableModel(self.network, scriptable_parts(self.network), variances).to(self._device).eval()

    def reconstructor(self) -> LatentImageModel:
        """A copy of the network for its forward alone, a tensor for a tensor."""
        return as_reconstructor(deepcopy(self.network))

    def intensity(self, image: Image) -> Bounds:
        """The intensities (low, high) of an image that the network sees as −1 and 1, by the training's rule.

        Args:
            image: a whole scan or image.

        Raises:
            DataError: if it cannot be used; a blank one is an example.
            SettingsError: if the rule is not known.
        """
        return self._bounds(self._prepared(image), None)

    @torch.no_grad()
    def reconstruct(self, image: Image, intensity: Bounds | None = None) -> Any:
        """Reconstruct an image of any size from the posterior means of its overlapping patches.

        Args:
            image: see :data:`Image`; of volumes each slice along the training's axis is reconstructed,
                by a network of cubes the whole.
            intensity: (low, high) that become −1 and 1, in place of the image's own.

        Returns:
            Like the image, in its intensities and its orientation, float32; of a file a ``MetaTensor`` (C, …). What was
            clipped on the way in stays so. NaN stays NaN.

        Raises:
            DataError: if it cannot be used.
            SettingsError: if the rule is not known and no ``intensity`` given.
        """
        prepared = self._prepared(image)
        bounds = self._bounds(prepared, intensity)
        scaled = self._scaled(prepared, bounds)
        blended = self._inferer(scaled.ndim)(inputs=scaled[None], network=self.network.reconstruct)[0]
        result = from_network(blended.cpu(), bounds)
        restored = self._restored(result, prepared)
        if isinstance(image, (str, Path)):
            return restored
        return _like(restored.reshape(image.shape), image)

    @torch.no_grad()
    def encode(self, image: Image, intensity: Bounds | None = None) -> tuple[Tensor, Tensor]:
        """Posterior mean and log σ², ``(B, latent_size)`` each.

        Args:
            image: of the patches' size, or a batch ``(B, C, *image_size)``, of which each is scaled by itself.
            intensity: as of :meth:`reconstruct`.

        Raises:
            DataError: if it cannot be used, or is of another size.
            SettingsError: as of :meth:`reconstruct`.
        """
        return self.network.encode(self._patches(image, intensity))

    @torch.no_grad()
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Draw images from the prior: the decoder's means of latents from N(0, I).

        Args:
            n: how many.
            seed: of the latents, on every device the same.

        Returns:
            ``(n, C, *image_size)`` on [−1, 1]; an image's own scale is there only where there is an image.
        """
        return self.network.sample(n, torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def log_prob(self, image: Image, intensity: Bounds | None = None, likelihood: str = "spectrum") -> Tensor:
        """Lower bound of the log-density of patches on the network's scale, which scans of all scales share.

        See :meth:`~monai_blurvae.trained.scriptable.ScriptableModel.log_prob`. For intensities as they are subtract
        D log((high − low) / 2); for larger images take :meth:`prior`.

        Args:
            image: as of :meth:`encode`.
            intensity: as of :meth:`reconstruct`.
            likelihood: ``"spectrum"`` or ``"variance"``.

        Returns:
            In nats, float64, ``(B,)``.

        Raises:
            BlurVAEError: as of :meth:`densities` and :meth:`encode`.
        """
        if self._scored is None:
            self._scored = ScriptableModel(self.network, self.network, self.densities().variances).to(self._device)
        return self._scored.log_prob(self._patches(image, intensity), likelihood)

    def prior(self, **options: Any) -> BlurVAEPrior:
        """The density over images of any size, with gradient and denoiser.

        Args:
            options: of :class:`~monai_blurvae.priors.BlurVAEPrior`, such as ``intensity``.

        Raises:
            BlurVAEError: as of :meth:`densities`.
            ValueError: for a network of colour or volumes, or an option out of its range.
        """
        spectrum = self.densities().variances["spectrum"].to(self._device).float()
        return BlurVAEPrior(self.network, SpectrumLikelihood(spectrum), **options)

    @property
    def _device(self) -> torch.device:
        return self.network.get_buffer("voxel_size").device

    def _prepared(self, image: Image) -> MetaTensor:
        """The image (C, …), a volume in RAS, without NaN, in its own intensities."""
        tensor = self._loaded(image) if isinstance(image, (str, Path)) else self._channel_first(image)
        prepared: MetaTensor = STEPS[tensor.ndim]({"image": tensor})["image"]
        if not bool(torch.isfinite(prepared).all()):
            raise DataError("the image holds infinite values; replace them first.")
        return prepared

    def _loaded(self, path: str | Path) -> MetaTensor:
        if not self.volumes:
            channels, size = self.image_shape[:2]
            return PrepareImaged("image", size, self._crop_size, channels)({"image": str(path)})["image"].float()
        return ADD_CHANNEL(LoadImage(reader=VolumeReader())(str(path)))

    def _channel_first(self, image: npt.NDArray[Any] | Tensor) -> MetaTensor:
        if image.is_complex() if isinstance(image, Tensor) else np.iscomplexobj(image):
            raise DataError("the image holds complex numbers; give its magnitude.")
        # a copy, since arrays may be read-only, or of a byte order that torch does not know
        values = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image, np.float32, order="C"))
        meta = deepcopy(image.meta) if isinstance(image, MetaTensor) else None
        tensor = MetaTensor(values.as_subclass(Tensor).float().cpu(), meta=meta)
        channels, planar = self.image_shape[0], self.slice_axis is not None
        grey_volume = channels == 1 and tensor.ndim == 3 and not (planar and len(tensor) == 1)
        if (tensor.ndim == 2 and channels == 1 and planar) or grey_volume:
            tensor = ADD_CHANNEL(tensor)
        allowed = {4} if not planar else {3, 4} if channels == 1 else {3}
        if tensor.ndim not in allowed or len(tensor) != channels:
            axes = "H, W" if planar else "X, Y, Z"
            raise DataError(
                f"the image has shape {tuple(image.shape)}, where {channels} channel(s) first, ({channels}, {axes}), "
                "is needed; move its axes."
            )
        return tensor

    def _restored(self, result: Tensor, prepared: MetaTensor) -> Tensor:
        """In the orientation of what was given, with its NaN."""
        known = MetaTensor(result, meta=prepared.meta, applied_operations=prepared.applied_operations)
        return STEPS[result.ndim].inverse({"image": known})["image"]

    def _bounds(self, prepared: MetaTensor, intensity: Bounds | None) -> Bounds:
        if intensity is not None:
            return checked(intensity)
        if self.rule is None:
            raise SettingsError(
                f"{self.name} scaled intensities by transforms that are not known here; give intensity=(low, high), "
                "which the network sees as -1 and 1."
            )
        return self.rule.bounds(prepared.as_tensor())

    def _scaled(self, prepared: MetaTensor, bounds: Bounds) -> Tensor:
        return to_network(prepared.as_tensor(), bounds, self.rule is None or self.rule.clip).to(self._device)

    def _patches(self, image: Image, intensity: Bounds | None) -> Tensor:
        """``(B, C, *image_size)`` on [−1, 1]."""
        if not isinstance(image, (str, Path)) and list(image.shape[1:]) == self.image_shape:
            return torch.cat([self._patches(one, intensity) for one in image])
        prepared = self._prepared(image)
        if list(prepared.shape) != self.image_shape:
            raise DataError(
                f"the image has shape {tuple(prepared.shape)}, but the network takes {tuple(self.image_shape)}; cut "
                "patches, and give the scan's intensity with them."
            )
        return self._scaled(prepared, self._bounds(prepared, intensity))[None]

    def _inferer(self, ndim: int) -> SlidingWindowInferer:
        options: dict[str, Any] = {
            "roi_size": self.image_shape[1:],
            "sw_batch_size": PATCHES_AT_ONCE,
            "overlap": OVERLAP,
            "mode": "gaussian",
            "cval": -1.0,
        }
        if ndim == len(self.image_shape):
            return SlidingWindowInferer(**options)
        return SliceInferer(spatial_dim=self.slice_axis, **options)


def _like(result: Tensor, image: npt.NDArray[Any] | Tensor) -> Any:
    """A result as what an image was given as."""
    values = result.as_subclass(Tensor)
    if isinstance(image, MetaTensor):
        return MetaTensor(values, meta=deepcopy(image.meta), applied_operations=deepcopy(image.applied_operations))
    return values if isinstance(image, Tensor) else values.numpy()
