"""Data lists, the volume store, patches and the built-in sample."""

from monai_blurvae.data.datalist import (
    Datalist,
    evaluation_datalist,
    find_volumes,
    load_datalist,
    read_datalist,
    split_subjects,
)
from monai_blurvae.data.patches import EndlessBatchSampler, SizedDataset, SlicePatchDataset, make_train_loader
from monai_blurvae.data.prepared import PreparedImages, log_skipped
from monai_blurvae.data.store import StoredVolume, VolumeStore
from monai_blurvae.data.volumes import Volumes, prepare_volumes

__all__ = [
    "Datalist",
    "EndlessBatchSampler",
    "PreparedImages",
    "SizedDataset",
    "SlicePatchDataset",
    "StoredVolume",
    "VolumeStore",
    "Volumes",
    "evaluation_datalist",
    "find_volumes",
    "load_datalist",
    "log_skipped",
    "make_train_loader",
    "prepare_volumes",
    "read_datalist",
    "split_subjects",
]
