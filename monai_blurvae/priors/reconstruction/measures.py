"""How far a reconstruction is from the fully sampled image."""

from __future__ import annotations

from torch import Tensor

from monai_blurvae.metrics.image_quality import CappedPSNRMetric, make_ssim_metric

MEASURES = ("rmse_percent", "nmse", "psnr", "ssim")
"""Columns of the tables."""


Measures = dict[str, float]


def reconstruction_measures(image: Tensor, reference: Tensor, data_range: float | None = None) -> list[Measures]:
    """RMSE in percent, NMSE, PSNR in dB and SSIM of magnitudes.

    RMSE % = 100 ‖|x̂| − |x|‖ / ‖|x|‖ (Tezcan et al. 2019), NMSE its square (fastMRI); SSIM has an 11×11 Gaussian window.

    Args:
        image: complex or real, ``(B, 1, H, W)``.
        reference: the same.
        data_range: of PSNR and SSIM; by default the largest magnitude of all references, as fastMRI has it.

    Returns:
        A dictionary with :data:`MEASURES` for each image; NMSE and RMSE of an empty reference are NaN.
    """
    found, true = image.abs().double(), reference.abs().double()
    largest = float(true.max()) if data_range is None else data_range
    nmse = (found - true).square().sum((1, 2, 3)) / true.square().sum((1, 2, 3))
    psnr = magnitude_psnr(image, reference, largest)
    ssim = _each(make_ssim_metric()(found / largest, true / largest))
    return [
        dict(zip(MEASURES, (100 * ratio**0.5, ratio, *quality), strict=True))
        for ratio, *quality in zip(_each(nmse), psnr, ssim, strict=True)
    ]


def magnitude_psnr(image: Tensor, reference: Tensor, data_range: float) -> list[float]:
    """PSNR in dB of magnitudes; arguments as of :func:`reconstruction_measures`."""
    return _each(CappedPSNRMetric()(image.abs().double() / data_range, reference.abs().double() / data_range))


def _each(values: Tensor) -> list[float]:
    return [float(value) for value in values.flatten()]
