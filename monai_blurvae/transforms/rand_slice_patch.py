"""Random square patches out of the slices of a volume."""

from __future__ import annotations

from monai.config import KeysCollection

from monai_blurvae.errors import DataError
from monai_blurvae.transforms.patch_table import PatchRule
from monai_blurvae.transforms.rand_patch import RandPatchd


class RandSlicePatchd(RandPatchd):
    """Cut a random square patch out of a random slice.

    The slice is drawn first, uniform among those that have a valid position, then the position, uniform among the valid
    ones of that slice: those whose patch holds at least ``min_foreground`` of voxels above ``threshold``. Several keys
    are cut alike; the first that is there decides what is foreground.

    Volumes are channel-first ``(C, X, Y, Z)`` arrays or tensors of any real type. Each becomes a float32 tensor
    ``(C, patch_size, patch_size)`` in the order of the axes that are left, a ``MetaTensor`` with the patch's own affine
    if it was one; ``position`` gets (slice, row, column) of the patch's first voxel.

    Args:
        keys: of the volumes.
        patch_size: side of the square patch, in voxels.
        slice_axis: spatial axis across which the slices lie: in RAS order 0 for sagittal, 1 for coronal, 2 for axial.
        min_foreground: smallest share of foreground voxels in a patch, 0 to 1.
        threshold: voxels above it are foreground; −0.9 leaves air and zeroed background of volumes in [−1, 1] below.
        allow_missing_keys: do not complain about a key that is not there.

    Raises:
        ValueError: for an argument out of its range, and when called on something without three spatial dimensions.
        DataError: when called on a volume whose slices are smaller than the patch, or that has no valid position.

    Example:
        >>> import torch
        >>> cut = RandSlicePatchd("image", patch_size=8, slice_axis=2).set_random_state(0)
        >>> cut({"image": torch.ones(1, 16, 16, 4)})["image"].shape
        torch.Size([1, 8, 8])
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch_size: int = 64,
        slice_axis: int = 1,
        min_foreground: float = 0.25,
        threshold: float = -0.9,
        allow_missing_keys: bool = False,
    ) -> None:
        if slice_axis not in (0, 1, 2):
            raise ValueError(f"slice_axis must be 0 (sagittal), 1 (coronal) or 2 (axial), but is {slice_axis!r}.")
        rule = PatchRule(patch_size, float(min_foreground), float(threshold))
        super().__init__(keys, rule, slice_axis, allow_missing_keys)

    def require_size(self, shape: tuple[int, ...], name: str) -> None:
        """Check that a slice holds a patch, see :meth:`RandPatchd.require_size`."""
        rows, columns = (n for axis, n in enumerate(shape) if axis != self.slice_axis)
        if min(rows, columns) < self.rule.patch_size:
            raise DataError(
                f"{name} has slices of {rows}×{columns} voxels along slice_axis {self.slice_axis}, smaller than the "
                f"patch_size {self.rule.patch_size}; choose another slice_axis or patch_size, or pad the volumes with "
                "ResizeWithPadOrCropd."
            )
