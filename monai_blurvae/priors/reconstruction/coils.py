"""Coil sensitivities of a scan."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from monai_blurvae.errors import DataError, SettingsError
from monai_blurvae.priors.reconstruction.masks import centre_line_count
from monai_blurvae.priors.reconstruction.operator import CartesianMRI

CALIBRATION = 24
"""Width of the square in the centre of k-space that the maps are taken from, if so many lines are sampled there."""
SMALLEST_CALIBRATION = 8


def estimate_coil_maps(kspace: Tensor, mask: Tensor, crop: float = 0.0) -> Tensor:
    """ESPIRiT maps (Uecker et al. 2014) from the sampled centre, by sigpy, of the extra ``recon``.

    Args:
        kspace: ``(B, N, H, W)`` with N > 1.
        mask: of the operator, or lines ``(W,)``.
        crop: pixels whose first eigenvalue is below it get maps of 0: 0.95 leaves the object alone.

    Returns:
        Complex, ``(B, N, H, W)``, Σ|S|² = 1 where they are not 0; the first coil's are real, so that its phase is the
        image's.

    Raises:
        DataError: if k-space does not fit the mask, or too few lines around its centre are sampled.
        SettingsError: where sigpy is not installed.
    """
    operator = CartesianMRI(
        mask, (kspace.shape[-2], kspace.shape[-1]), torch.ones(kspace.shape[1:], dtype=torch.complex64)
    )
    operator.check_kspace(kspace)
    lines = min(CALIBRATION, centre_line_count(operator.mask))
    if lines < SMALLEST_CALIBRATION:
        raise DataError(
            f"{lines} neighbouring lines around the centre of k-space are sampled, where at least "
            f"{SMALLEST_CALIBRATION} are needed to estimate coil maps; give the maps."
        )
    try:
        from sigpy.mri.app import EspiritCalib
    except ImportError as error:
        raise SettingsError(
            "coil maps are estimated by sigpy, which is not installed; run pip install 'monai-blurvae[recon]', or give "
            "the maps."
        ) from error
    sampled = (operator.mask.to(kspace.device) * kspace).cpu().numpy()
    maps = [EspiritCalib(one, calib_width=lines, crop=crop, show_pbar=False).run() for one in sampled]
    return torch.from_numpy(np.stack(maps)).to(kspace.device, kspace.dtype)
