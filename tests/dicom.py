"""Small DICOM series, one file a slice."""

import locale

import numpy as np
import SimpleITK as sitk

DIRECTION = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])
"""Columns are the axes of the rows, the columns and the slices, in LPS."""


def write_series(folder, array, spacing=(1.5, 0.75, 2.0), positions=None, uid="1.2.826.0.1.3680043.2.1125.1", lean=0.0):
    """A series of ``array`` (x, y, slice), and its affine to RAS.

    Args:
        folder: of the files, made if it is not there.
        array: int16.
        spacing: along x, y and the slices.
        positions: of the slices along their normal, in mm; by default equally spaced.
        uid: of the series.
        lean: by how much a slice moves along x for each mm along the normal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    positions = np.arange(array.shape[2]) * spacing[2] if positions is None else positions
    here = locale.setlocale(locale.LC_ALL)  # the writer leaves the process in "C", in which text is read as ASCII
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for i, along in enumerate(positions):
        image = sitk.GetImageFromArray(array[:, :, i].T)
        image.SetSpacing(spacing[:2])
        origin = np.array([-30.0, -20.0, 5.0]) + DIRECTION @ np.array([lean * along, 0, along])
        tags = {
            "0008|0060": "MR",
            "0008|0018": f"{uid}.{i + 1}",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.0",
            "0020|000e": uid,
            "0020|0013": str(i + 1),
            "0020|0032": "\\".join(f"{value:.6g}" for value in origin),
            "0020|0037": "\\".join(f"{value:g}" for value in [*DIRECTION[:, 0], *DIRECTION[:, 1]]),
            "0018|0050": str(spacing[2]),
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid[-1]}_{(7 * i) % 101:03d}.dcm"))  # names do not give the order
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, here)
    affine = np.eye(4)
    affine[:3, :3] = DIRECTION * spacing
    affine[:3, 3] = [-30, -20, 5]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
