"""Raw scans in: DICOM series and NIfTI become brains of one orientation and voxel size, named by BIDS."""

from monai_blurvae.preparation.scans import DONE, FAILED, THERE, Outcome, Scan, find_scans, prepare_scans

__all__ = ["DONE", "FAILED", "THERE", "Outcome", "Scan", "find_scans", "prepare_scans"]
