"""What SimpleITK tells, in this package's terms."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

VOXEL_TYPES = {
    sitk.sitkUInt8: np.uint8,
    sitk.sitkInt8: np.int8,
    sitk.sitkUInt16: np.uint16,
    sitk.sitkInt16: np.int16,
    sitk.sitkUInt32: np.uint32,
    sitk.sitkInt32: np.int32,
    sitk.sitkUInt64: np.uint64,
    sitk.sitkInt64: np.int64,
    sitk.sitkFloat32: np.float32,
    sitk.sitkFloat64: np.float64,
}
"""Real numbers, one for each voxel."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_of(image: Any) -> npt.NDArray[np.float64]:
    """From voxels (x, y, z, 1) to RAS millimetres, of an image or of a reader that has read the information of one.

    Args:
        image: with ``GetDimension``, ``GetSpacing``, ``GetDirection`` and ``GetOrigin``; of a fourth dimension nothing
            is taken, of two the third is taken across.
    """
    n = image.GetDimension()
    direction = np.eye(max(n, 3))
    direction[:n, :n] = np.reshape(image.GetDirection(), (n, n))
    spacing = np.array([*image.GetSpacing(), 1.0])[:3]
    affine = np.eye(4)
    affine[:3, :3] = direction[:3, :3] * spacing
    affine[:3, 3] = np.array([*image.GetOrigin(), 0.0])[:3]
    return LPS_TO_RAS @ affine


def image_of(array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> sitk.Image:
    """SimpleITK's image of a volume, the inverse of :func:`affine_of`.

    Args:
        array: ``(X, Y, Z)``.
        affine: from voxels to RAS millimetres, ``(4, 4)``.
    """
    lps = LPS_TO_RAS @ affine
    spacing = np.sqrt(np.square(lps[:3, :3]).sum(0))
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def voxel_type(image: Any) -> np.dtype[Any]:
    """Type of the voxels of an image or of a reader; several numbers a voxel and complex ones make a ``void``."""
    real = VOXEL_TYPES.get(image.GetPixelID()) if image.GetNumberOfComponents() == 1 else None
    return np.dtype(np.void if real is None else real)


def reason_of(error: BaseException) -> str:
    """What an error says, in one line; of ITK's several lines the last, without the object's address."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return reason.partition("): ")[2] or reason if "0x" in reason else reason
