"""A synthetic sample in HCP's layout, for trying things out where no data is.

Run ``python -m monai_blurvae.data.sample FOLDER`` to make it anywhere. Its volumes are the MNI152 T1 template that
nilearn ships, deformed, with another contrast, bias field and noise for each subject; they are nobody's brains, and
what a model makes of them says nothing about patients.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from filelock import FileLock
from monai.transforms import RandAdjustContrast, RandBiasField, RandRicianNoise
from tqdm import tqdm

from monai_blurvae.data.datalist import SAMPLE_DESCRIPTION, SPLITS, SYNTHETIC_REMARK, Datalist
from monai_blurvae.errors import DataError
from monai_blurvae.files import make_folder, replacing, write_text
from monai_blurvae.seeding import derive_seed, numpy_rng

logger = logging.getLogger(__name__)

HCP_IMAGE = "T1w/T1w_acpc_dc_restore_brain.nii.gz"
FloatArray = npt.NDArray[np.float32]
MARGIN = 10  # voxels around the brain
MATTER_CHANGE = 0.12  # largest relative change of the grey and the white matter's intensity
DISPLACEMENT_MM = 7.0  # largest coefficient of the B-spline; folding begins at half its knot spacing of about 28 mm
FIELD_STEP = 4  # mm
VOXEL_SIZE_MM = 0.7  # HCP's, so that a patch covers as much of the brain as there
NOISE = 0.01  # standard deviation over the 99th percentile; with three times as much, the finest detail is noise
SUBJECTS = {"training": 8, "validation": 2, "test": 2}
LICENSE_NOTE = """\
These twelve volumes are SYNTHETIC: the MNI152 T1 template, deformed at random, with random contrast, bias and noise.

The template is the ICBM 152 nonlinear symmetric 2009a one, as shipped by nilearn:
Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill
University. Its licence permits to use, copy, modify and distribute it without fee, provided that the copyright notice
appears in all copies; it comes as is, without warranty.
Fonov et al., Unbiased average age-appropriate atlases for pediatric studies, NeuroImage 54 (2011) 313-327.
"""


def sample_dir(cache_dir: str | Path) -> Path:
    """The folder of a cache in which the sample lies, once :func:`make_sample` has made it there."""
    return Path(cache_dir).expanduser() / "sample"


def make_sample(folder: str | Path, seed: int = 0) -> Path:
    """Make the sample, or find it made.

    Args:
        folder: gets ``{subject}/T1w/T1w_acpc_dc_restore_brain.nii.gz`` of 12 subjects, ``LICENSE.txt`` and, last,
            ``datalist.json`` with 8 subjects for training, 2 for validation and 2 for the test.
        seed: of the deformations.

    Returns:
        The folder.

    Raises:
        DataError: if nilearn is not installed, or the folder holds something else.
        RunFolderError: if the folder cannot be written.
    """
    folder = make_folder(Path(folder).expanduser())
    with FileLock(folder / ".lock"):
        if (folder / "datalist.json").is_file():
            return folder
        foreign = [p.name for p in folder.iterdir() if not p.name.startswith((".", "synthetic", "LICENSE"))]
        if foreign:
            raise DataError(f"{folder} already holds {foreign[0]}; give an empty or new folder for the sample.")
        _make(folder, seed)
    return folder


def _make(folder: Path, seed: int) -> None:
    template, affine = _load_template()
    total = sum(SUBJECTS.values())
    names = [f"synthetic{i + 1:02d}" for i in range(total)]
    logger.info(f"Making the synthetic sample of {total} subjects in {folder}, once: 0.1 GB, in two or three minutes.")
    for i, name in enumerate(tqdm(names, desc="synthetic sample", unit="subject")):
        path = folder / name / HCP_IMAGE
        if not path.is_file():
            make_folder(path.parent)
            _write_volume(path, _subject(template, derive_seed(seed, "sample", i)), affine)
    write_text(folder / "LICENSE.txt", LICENSE_NOTE)
    entries = iter([{"image": f"{name}/{HCP_IMAGE}", "subject": name} for name in names])
    parts = {split: [next(entries) for _ in range(SUBJECTS[split])] for split in SPLITS}
    Datalist.of(folder.resolve(), parts, SAMPLE_DESCRIPTION, SYNTHETIC_REMARK).write(folder / "datalist.json")


def mni152_datasets(purpose: str, otherwise: str) -> Any:
    """Nilearn's ``datasets``, which holds the MNI152 template.

    Args:
        purpose: what needs it, for the message.
        otherwise: what to do without it, for the message.

    Raises:
        DataError: if nilearn is not installed.
    """
    try:
        from nilearn import datasets
    except ImportError as error:
        raise DataError(
            f"{purpose} needs nilearn, which is not installed: pip install 'monai-blurvae[sample]', or {otherwise}."
        ) from error
    return datasets


def _load_template() -> tuple[dict[str, sitk.Image], Any]:
    """T1, grey and white matter and brain mask of the MNI152 template, cut to the brain, and the sample's affine."""
    datasets = mni152_datasets("the built-in sample", "give your own volumes as dataset_dir")
    images = {
        "t1": datasets.load_mni152_template(resolution=1),
        "grey": datasets.load_mni152_gm_template(resolution=1),
        "white": datasets.load_mni152_wm_template(resolution=1),
        "mask": datasets.load_mni152_brain_mask(resolution=1),
    }
    arrays = {name: np.asarray(image.dataobj, dtype=np.float32) for name, image in images.items()}
    inside = np.nonzero(arrays["mask"])
    box = tuple(slice(max(0, int(i.min()) - MARGIN), int(i.max()) + 1 + MARGIN) for i in inside)
    affine = images["t1"].affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [axis.start for axis in box]
    affine[:3, :3] *= VOXEL_SIZE_MM
    arrays["t1"] /= np.percentile(arrays["t1"][inside], 99)
    return {name: sitk.GetImageFromArray(array[box].T) for name, array in arrays.items()}, affine


def _subject(template: dict[str, sitk.Image], seed: int) -> FloatArray:
    """One random subject, (Z, Y, X) as SimpleITK orders axes, zero outside the brain."""
    rng = numpy_rng(seed, "subject")
    grey, white = rng.uniform(-MATTER_CHANGE, MATTER_CHANGE, 2).tolist()
    t1 = template["t1"] * (1.0 + grey * template["grey"] + white * template["white"])
    field = _displacement(t1, rng)
    grid = _grid(t1)
    warped, mask = (
        sitk.GetArrayFromImage(sitk.Resample(image, grid, field, sitk.sitkLinear, 0.0))
        for image in (t1, template["mask"])
    )
    brain = torch.from_numpy(np.clip(warped, 0, None))[None]
    for transform in (
        RandAdjustContrast(prob=1.0, gamma=(0.75, 1.35)),
        RandBiasField(prob=1.0, degree=3, coeff_range=(-0.12, 0.12)),
        RandRicianNoise(prob=1.0, std=NOISE),
    ):
        transform.set_random_state(derive_seed(seed, type(transform).__name__) % 2**32)
        brain = torch.as_tensor(transform(brain))
    scaled: FloatArray = brain[0].numpy() * (mask > 0.5) * rng.uniform(500, 1500)
    return scaled


def _grid(template: sitk.Image) -> sitk.Image:
    """An empty image of the template's extent in the sample's voxels; the template's are of 1 mm."""
    size = [int((n - 1) / VOXEL_SIZE_MM) + 1 for n in template.GetSize()]
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing([VOXEL_SIZE_MM] * 3)
    return grid


def _displacement(image: sitk.Image, rng: np.random.Generator) -> sitk.Transform:
    """A random rotation, scaling and shift and, on top, a smooth cubic B-spline deformation."""
    affine = sitk.Similarity3DTransform()
    affine.SetCenter(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
    axis = rng.normal(size=3)
    affine.SetRotation((axis / np.linalg.norm(axis)).tolist(), float(rng.uniform(-0.1, 0.1)))
    affine.SetScale(float(rng.uniform(0.93, 1.07)))
    affine.SetTranslation(rng.uniform(-3, 3, 3).tolist())
    spline = sitk.BSplineTransformInitializer(image, [6, 7, 6])
    spline.SetParameters(rng.uniform(-DISPLACEMENT_MM, DISPLACEMENT_MM, len(spline.GetParameters())).tolist())
    # Smooth as it is, the field loses nothing on a coarse grid, which is 50 times faster to evaluate and apply.
    size = [-(-n // FIELD_STEP) + 1 for n in image.GetSize()]
    both = sitk.CompositeTransform([affine, spline])
    field = sitk.TransformToDisplacementField(
        both, sitk.sitkVectorFloat64, size, image.GetOrigin(), [float(FIELD_STEP)] * 3
    )
    return sitk.DisplacementFieldTransform(field)


def _write_volume(path: Path, volume: FloatArray, affine: Any) -> None:
    image = nib.Nifti1Image(volume.T.round().astype(np.int16), affine)
    image.header["descrip"] = SAMPLE_DESCRIPTION.encode()
    image.header.set_xyzt_units("mm")
    with replacing(path) as temporary:
        named = temporary.with_name(f"{temporary.name}.nii.gz")  # nibabel chooses the format by the suffix
        nib.save(image, named)
        named.replace(temporary)


def main(arguments: list[str] | None = None) -> int:
    """Command line: make the sample in a folder."""
    parser = argparse.ArgumentParser(prog="python -m monai_blurvae.data.sample", description=__doc__)
    parser.add_argument("folder", help="new or empty folder for the sample")
    parser.add_argument("--seed", type=int, default=0, help="of the deformations (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        folder = make_sample(options.folder, options.seed)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{folder} holds the synthetic sample; train on it as dataset_dir")
    return 0


if __name__ == "__main__":
    sys.exit(main())
