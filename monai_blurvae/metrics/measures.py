"""The one table of what each measure is: its name, its unit and which direction is better, for all who show it."""

from __future__ import annotations

import math
from typing import NamedTuple

from monai_blurvae.metrics.distances import ALEXNET_FEATURES, INCEPTION_FEATURES


class Description(NamedTuple):
    """What a measure is.

    Attributes:
        key: in files and dictionaries.
        name: in tables and figures.
        unit: empty for a number without one.
        digits: after the point.
        better: 1 where higher is better, −1 where lower is, 0 where neither.
        what: a line.
        features: that images are compared on, where there are some.
        significant: whether ``digits`` are significant ones, for a measure that spans magnitudes.
        signed: whether positive numbers have their sign, as differences do.
    """

    key: str
    name: str
    unit: str
    digits: int
    better: int
    what: str
    features: str = ""
    significant: bool = False
    signed: bool = False

    @property
    def label(self) -> str:
        """The name with its unit, for example ``"PSNR (dB)"``."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def direction(self) -> str | None:
        """``"higher"`` or ``"lower"``, which is better, or None."""
        return {1: "higher", -1: "lower"}.get(self.better)

    def text(self, value: float, std: float | None = None) -> str:
        """A value, for example ``"−0.012 ± 0.003"``.

        Args:
            value: of the measure.
            std: its standard deviation, with as many digits; None and NaN leave it out.
        """
        digits = self.digits
        if self.significant and value != 0 and math.isfinite(value):
            digits = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        deviation = "" if std is None or math.isnan(std) else f" ± {std:.{digits}f}"
        return (f"{value:{'+' if self.signed else ''}.{digits}f}" + deviation).replace("-", "−")


LIKELIHOODS = {
    "variance": ("one variance", "N(x̂, s² I): one variance s² for all pixels"),
    "kernel": ("kernel", "N(x̂, s² (WᵀW)⁻¹): W the Wiener inverse of the predicted kernel, its exact determinant"),
    "spectrum": ("spectrum", "N(x̂, Σ): one variance for each spatial frequency"),
}
"""Name and meaning of the fitted likelihoods, see :func:`~monai_blurvae.metrics.likelihood.fit_likelihoods`."""

_SPECTRUM = "RMS difference from the images' windowed radial log10 spectrum"
_SHARPNESS = "variance of the Laplacian over the images'; 1 is as sharp"
_SQUARED = "squared; compares between equal numbers of images only"

QUALITY = (
    Description("psnr", "PSNR", "dB", 2, 1, "reconstructions on [0, 1], of the error over all channels together"),
    Description(
        "ssim", "SSIM", "", 4, 1, "reconstructions on [0, 1], mean of channels, 11×11 Gaussian window, σ = 1.5"
    ),
)
LPIPS = (
    Description("lpips", "LPIPS", "", 4, -1, "distance of reconstructions", "AlexNet with the heads of LPIPS 0.1"),
)
LATENT = (
    Description("kl", "KL", "nats per image", 1, 0, "rate, KL(q(z|x) ‖ N(0, I))"),
    Description("active_units", "active units", "", 0, 0, "latent units whose posterior mean varies by more than 0.01"),
)
KERNEL = (
    Description("kernel_width", "kernel width", "pixels", 2, 0, "RMS radius of the predicted kernels"),
    Description(
        "below_sqrt_c",
        "|F| < √C",
        "share",
        3,
        0,
        "frequencies that the predicted kernel suppresses below √C, C the Wiener constant",
    ),
)
SPECTRUM = (
    Description("spectrum_reconstruction", "spectrum of reconstructions", "decades", 3, -1, _SPECTRUM),
    Description("spectrum_sample", "spectrum of samples", "decades", 3, -1, _SPECTRUM),
)
DETAIL = (
    Description(
        "resolution",
        "resolution",
        "pixels",
        2,
        -1,
        "finest period in reconstructions at which they and the images have a Fourier ring correlation of 0.5",
    ),
)
DRAWN = ("reconstruction", "sample")
"""What images are drawn around: x̂ of the posterior mean of an image, x̂ of a latent from the prior."""
DRAWS = tuple(
    Description(
        f"spectrum_{kind}_draw_{key}",
        f"spectrum of {kind}s drawn, {name}",
        "decades",
        3,
        -1,
        f"{_SPECTRUM}; of images drawn from p(x|z) = {what}",
    )
    for kind in DRAWN
    for key, (name, what) in LIKELIHOODS.items()
)
SHARPNESS = (
    Description("sharpness_reconstruction", "sharpness of reconstructions", "", 3, 0, _SHARPNESS),
    Description("sharpness_sample", "sharpness of samples", "", 3, 0, _SHARPNESS),
)
ALEXNET = (
    Description(
        "mmd_alexnet",
        "MMD² of samples",
        "",
        3,
        -1,
        "squared maximum mean discrepancy, cubic kernel, unbiased",
        ALEXNET_FEATURES,
        significant=True,
    ),
    Description(
        "frechet_alexnet", "Fréchet distance of samples", "", 4, -1, _SQUARED, ALEXNET_FEATURES, significant=True
    ),
)
FID = tuple(
    Description(
        f"fid_{size}",
        f"FID of samples, {size}",
        "",
        4,
        -1,
        _SQUARED,
        f"torch-fidelity Inception, {size}",
        significant=True,
    )
    for size in INCEPTION_FEATURES
)
LIKELIHOOD = (
    *(
        Description(f"nll_{key}", f"−log p, {name}", "nats per image", 1, -1, f"minus the ELBO under {what}")
        for key, (name, what) in LIKELIHOODS.items()
    ),
    *(
        Description(
            f"iw_nll_{key}",
            f"−log p, {name}, IW",
            "nats per image",
            1,
            -1,
            f"minus the importance-weighted bound under {what}",
        )
        for key, (name, what) in LIKELIHOODS.items()
    ),
    *(
        Description(
            f"bpd_{key}",
            f"−log2 p / D, {name}",
            "bits per dimension",
            3,
            -1,
            f"minus the ELBO under {what}; D pixels times channels",
        )
        for key, (name, what) in LIKELIHOODS.items()
        if key != "kernel"
    ),
)

MEASURES = {
    description.key: description
    for group in (QUALITY, LPIPS, LATENT, KERNEL, SPECTRUM, DETAIL, DRAWS, SHARPNESS, ALEXNET, FID, LIKELIHOOD)
    for description in group
}
"""Every measure by its key, in the order of the result of :func:`~monai_blurvae.metrics.measure_model`."""

PER_IMAGE = ("psnr", "ssim", "kl", "kernel_width")
"""The keys of those that an evaluation writes of each image."""

FLOAT_DENSITY = "density of float data on [−1, 1], not comparable with figures of 8-bit data"
EIGHT_BIT_DENSITY = "density of dequantised 8-bit data on [−1, 1]; bits per dimension are those of the grey levels"
"""What the p of the likelihoods is."""


def keys(group: tuple[Description, ...]) -> tuple[str, ...]:
    """The keys of some measures."""
    return tuple(description.key for description in group)
