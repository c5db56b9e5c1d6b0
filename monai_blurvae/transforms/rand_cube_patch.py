"""Random cubes out of a volume."""

from __future__ import annotations

from monai.config import KeysCollection

from monai_blurvae.errors import DataError
from monai_blurvae.transforms.patch_table import PatchRule
from monai_blurvae.transforms.rand_patch import RandPatchd


class RandCubePatchd(RandPatchd):
    """Cut a random cube out of a volume.

    Its first plane along X is drawn first, uniform among those at which a valid cube begins, then Y and Z, uniform
    among the valid ones there: those whose cube holds at least ``min_foreground`` of voxels above ``threshold``.
    Several keys are cut alike; the first that is there decides what is foreground.

    Volumes are channel-first ``(C, X, Y, Z)`` arrays or tensors of any real type. Each becomes a float32 tensor
    ``(C, patch_size, patch_size, patch_size)``, a ``MetaTensor`` with the cube's own affine if it was one; ``position``
    gets (x, y, z) of the cube's first voxel.

    Args:
        keys: of the volumes.
        patch_size: side of the cube, in voxels.
        min_foreground: smallest share of foreground voxels in a cube, 0 to 1.
        threshold: voxels above it are foreground; −0.9 leaves air and zeroed background of volumes in [−1, 1] below.
        allow_missing_keys: do not complain about a key that is not there.

    Raises:
        ValueError: for an argument out of its range, and when called on something without three spatial dimensions.
        DataError: when called on a volume that is smaller than the cube, or that has no valid position.

    Example:
        >>> import torch
        >>> cut = RandCubePatchd("image", patch_size=8).set_random_state(0)
        >>> cut({"image": torch.ones(1, 16, 16, 12)})["image"].shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch_size: int = 64,
        min_foreground: float = 0.25,
        threshold: float = -0.9,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, PatchRule(patch_size, float(min_foreground), float(threshold), 3), 0, allow_missing_keys)

    def require_size(self, shape: tuple[int, ...], name: str) -> None:
        """Check that a volume holds a cube, see :meth:`RandPatchd.require_size`."""
        if min(shape) < self.rule.patch_size:
            size = "×".join(str(n) for n in shape)
            raise DataError(
                f"{name} has {size} voxels, less than the patch_size {self.rule.patch_size} along an axis; choose a "
                "smaller patch_size, or pad the volumes with ResizeWithPadOrCropd."
            )
