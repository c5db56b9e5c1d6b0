"""Small NIfTI files with a brain-like object, and runs of the bundle on them."""

import csv
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np

from monai_blurvae.errors import user_error

ROOT = Path(__file__).parents[1]
TRAIN = str(ROOT / "bundles/hcp/train.json")
EVALUATE = str(ROOT / "bundles/hcp/evaluate.json")
HCP = "T1w/T1w_acpc_dc_restore_brain.nii.gz"

# The smallest run that has everything: patches of 32, two blocks, a few kB of weights.
TINY = {
    "patch_size": 32,
    "channels": [4, 8],
    "latent_size": 4,
    "kernel_size": 5,
    "batch_size": 8,
    "patches_per_volume": 4,
    "eval_patches_per_volume": 2,
    "num_workers": 0,
    "device": "cpu",
    "max_epochs": 2,
    "beta": 1.0,
    "warmup_epochs": 1,
    "val_interval": 1,
    "lr": 1e-3,
    "yardstick_images": 64,
}


def brain(seed=0, shape=(48, 40, 44)):
    """An ellipsoid of smooth texture in a black background, int16."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(g**2 for g in grid) < 0.9
    texture = sum(np.sin(rng.uniform(3, 9) * g + rng.uniform(0, 6)) for g in grid)
    return ((600 + 150 * texture + rng.normal(0, 20, shape)) * inside).clip(0).astype(np.int16)


def save(path, array, voxel_size=(1.0, 1.0, 1.0), description=b"", affine=None):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.diag([*voxel_size, 1.0]) if affine is None else affine)
    image.header["descrip"] = description
    nib.save(image, path)
    return path


def make_dataset(folder, subjects=5, **arguments):
    for i in range(subjects):
        save(Path(folder) / f"{100 + i}" / HCP, brain(i), **arguments)
    return Path(folder)


def run(run_id, config, **settings):
    """The bundle command in this process."""
    monai.bundle.run(run_id, config_file=config, **settings)


def cause(error):
    """The error that a user is shown, out of MONAI's wrappers."""
    return user_error(error)


def per_image(path):
    """Rows of a metrics.csv without the bounds, which are means over as many latents as the evaluation takes."""
    with Path(path).open(newline="") as handle:
        return [{k: v for k, v in row.items() if not k.startswith("elbo_")} for row in csv.DictReader(handle)]
