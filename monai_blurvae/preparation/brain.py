"""Bias field, template and voxel size of one scan, by SimpleITK."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from monai_blurvae.data.header import LPS_TO_RAS, image_of
from monai_blurvae.data.sample import mni152_datasets
from monai_blurvae.errors import DataError, SettingsError
from monai_blurvae.transforms import matching_sigma

SHRINK = 4
"""By this factor an image is made smaller along each axis before its bias field is looked for, which is smooth."""
FEWEST_VOXELS = 16
"""An axis is not made shorter than this."""
TEMPLATE_SHRINKS = (8, 4, 2)
"""Likewise for the template, whose voxels have 1 mm: to choose a start, and twice for the affine registration."""
MOVING_MM = 1.5
"""A scan is made smaller for the registration while its voxels stay below this size."""
MARGIN_MM = 6
"""Around the template's brain, which has no skull: what is compared with the scan ends here."""
HEAD_MM = 150.0
"""From the top of the head down to below the brain; neck and shoulders say nothing of the brain's place."""
SCALP_MM = 12.0
"""Of scalp, bone and fluid above the brain."""
LARGEST_CHANGE = 2.5
"""Factor between the volume of a brain and the template's that is still believed."""
MOST_VOXELS = 1_000_000_000
WIDEST_SMOOTHING = 512
"""In voxels; far beyond the kernel of any voxel size in use."""


def correct_bias(image: sitk.Image, mask: sitk.Image) -> sitk.Image:
    """Divide by the bias field that N4 finds inside of a mask.

    Args:
        image: float32; what is not above 0 takes no part.
        mask: uint8 on its grid, 1 in the brain.

    Returns:
        The image, float32, in its units.
    """
    shrinks = [max(1, min(SHRINK, n // FEWEST_VOXELS)) for n in image.GetSize()]
    positive = sitk.Cast(image > 0, sitk.sitkUInt8) * mask
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.Execute(sitk.Shrink(image, shrinks), sitk.Shrink(positive, shrinks))
    field = corrector.GetLogBiasFieldAsImage(image)
    return sitk.Cast(image / sitk.Exp(field), sitk.sitkFloat32)


def resample(image: sitk.Image, spacing: Sequence[float], interpolator: int = sitk.sitkBSpline3) -> sitk.Image:
    """An image in voxels of another size, on a grid with the same axes and the same middle.

    Where voxels become larger it is smoothed first, but for a mask, see
    :func:`~monai_blurvae.transforms.matching_sigma`.

    Args:
        image: of three dimensions.
        spacing: in mm along its axes.
        interpolator: SimpleITK's; of the nearest neighbour for a mask.

    Raises:
        SettingsError: if that makes more than 10⁹ voxels.
    """
    extent = [n * size for n, size in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    size = [max(1, round(length / step)) for length, step in zip(extent, spacing, strict=True)]
    if np.prod([float(n) for n in size]) > MOST_VOXELS:
        raise SettingsError(
            f"spacing {' '.join(f'{step:g}' for step in spacing)} makes {'×'.join(map(str, size))} voxels, more than "
            "10⁹; it is in mm, give a larger one."
        )
    middle = [(n - 1) / 2 for n in image.GetSize()]
    direction = np.reshape(image.GetDirection(), (3, 3))
    half = np.array([(n - 1) / 2 * step for n, step in zip(size, spacing, strict=True)])
    origin = np.array(image.TransformContinuousIndexToPhysicalPoint(middle)) - direction @ half
    arguments = (size, sitk.Transform(), interpolator, origin.tolist(), list(spacing), image.GetDirection())
    variance = [matching_sigma(size, target) ** 2 for size, target in zip(image.GetSpacing(), spacing, strict=True)]
    if any(variance) and interpolator != sitk.sitkNearestNeighbor:
        image = sitk.DiscreteGaussian(image, variance, WIDEST_SMOOTHING)
    # the border is repeated for the half voxel by which the grids may differ
    return sitk.Resample(image, *arguments, 0.0, image.GetPixelID(), True)


class TemplateBrain:
    """The MNI152 template of the built-in sample, to find a brain with.

    Raises:
        DataError: if nilearn is not installed.
    """

    def __init__(self) -> None:
        datasets = mni152_datasets("finding the brain by a template", "give brain masks as mask_pattern")
        t1, mask = datasets.load_mni152_template(resolution=1), datasets.load_mni152_brain_mask(resolution=1)
        self.image = image_of(np.asarray(t1.dataobj, np.float32), t1.affine)
        self.mask = image_of(np.asarray(mask.dataobj).astype(np.uint8), mask.affine)
        coarse = sitk.Shrink(self.mask, [2, 2, 2])
        self._region = sitk.BinaryDilate(coarse, [MARGIN_MM // 2] * 3)
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.Execute(coarse)
        self._centre = np.array(shape.GetCentroid(1))
        _, _, z, _, _, depth = shape.GetBoundingBox(1)
        self._top = coarse.TransformIndexToPhysicalPoint((0, 0, z + depth - 1))[2]

    def register(self, scan: sitk.Image) -> sitk.AffineTransform:
        """Register the template to a scan of a head or of a brain, by mutual information.

        Args:
            scan: float32, of any contrast, axes in RAS order.

        Returns:
            From points of the template to points of the scan, in LPS millimetres.

        Raises:
            DataError: if it does not succeed.
        """
        moving = sitk.Shrink(scan, [max(1, int(MOVING_MM / size)) for size in scan.GetSpacing()])
        tried = [
            self._try(sitk.Euler3DTransform(start), moving, TEMPLATE_SHRINKS[:1]) for start in self._starts(moving)
        ]
        found = [result for result in tried if result is not None]
        if found:
            rigid = sitk.Euler3DTransform(min(found, key=lambda result: result[1])[0])
            affine = sitk.AffineTransform(3)
            affine.SetCenter(rigid.GetCenter())
            affine.SetMatrix(rigid.GetMatrix())
            affine.SetTranslation(rigid.GetTranslation())
            result = self._try(affine, moving, TEMPLATE_SHRINKS[1:])
            if result is not None:
                affine = sitk.AffineTransform(result[0])
                change = float(np.linalg.det(np.reshape(affine.GetMatrix(), (3, 3))))
                if 1 / LARGEST_CHANGE < change < LARGEST_CHANGE:
                    return affine
        raise DataError("the template's brain cannot be found in it; give a brain mask of it as mask_pattern")

    def mask_of(self, scan: sitk.Image, to_scan: sitk.AffineTransform) -> sitk.Image:
        """The template's brain on the grid of a scan, uint8.

        Args:
            scan: gives the grid.
            to_scan: from :meth:`register`.
        """
        return sitk.Resample(self.mask, scan, to_scan.GetInverse(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)

    def _starts(self, scan: sitk.Image) -> list[sitk.Euler3DTransform]:
        """Shifts of the template's brain below the top of the head, and to the middle of what is bright."""
        head = sitk.GetArrayFromImage(sitk.OtsuThreshold(scan, 0, 1)).T.astype(bool)
        indices = np.argwhere(head)
        spacing, direction = np.array(scan.GetSpacing()), np.reshape(scan.GetDirection(), (3, 3))
        points = (indices * spacing) @ direction.T + np.array(scan.GetOrigin())
        top = float(np.percentile(points[:, 2], 99.9))
        upper = points[points[:, 2] > top - HEAD_MM]
        below_top = np.array([*np.median(upper, 0)[:2], top - SCALP_MM - (self._top - self._centre[2])])
        starts = []
        for place in (below_top, points.mean(0)):
            start = sitk.Euler3DTransform()
            start.SetCenter(self._centre.tolist())
            start.SetTranslation((place - self._centre).tolist())
            starts.append(start)
        return starts

    def _try(
        self, start: sitk.Transform, moving: sitk.Image, shrinks: Sequence[int]
    ) -> tuple[sitk.Transform, float] | None:
        """The transform and its negative mutual information; None where too little of the two overlaps."""
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(32)
        method.SetMetricFixedMask(self._region)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.01, 100, relaxationFactor=0.6)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetShrinkFactorsPerLevel(list(shrinks))
        method.SetSmoothingSigmasPerLevel([shrink / 2 for shrink in shrinks])
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        method.SetInitialTransform(start, inPlace=True)
        try:
            method.Execute(self.image, moving)
        except RuntimeError:
            return None
        return start, float(method.GetMetricValue())


@cache
def template_brain() -> TemplateBrain:
    """The template, loaded once in each process.

    Raises:
        DataError: if nilearn is not installed.
    """
    return TemplateBrain()


def ras_matrix(transform: sitk.AffineTransform) -> npt.NDArray[np.float64]:
    """An affine transform of LPS points as a matrix ``(4, 4)`` of RAS points."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    centre, shift = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    matrix[:3, 3] = shift + centre - matrix[:3, :3] @ centre
    return LPS_TO_RAS @ matrix @ LPS_TO_RAS
