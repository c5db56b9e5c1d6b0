"""Data lists, the volume store, patches and the built-in sample."""

from monai_blurvae.data.datalist import (
    Datalist,
    evaluation_datalist,
    find_volumes,
    load_datalist,
    read_datalist,
    split_subjects,
)
from monai_blurvae.data.image_list import evaluation_image_datalist, find_images, image_loader, load_image_datalist
from monai_blurvae.data.images import ImageDataset, Images, prepare_images
from monai_blurvae.data.patches import EndlessBatchSampler, SizedDataset, SlicePatchDataset, make_train_loader
from monai_blurvae.data.prepared import PreparedImages, log_skipped
from monai_blurvae.data.store import StoredVolume, VolumeStore
from monai_blurvae.data.volumes import Volumes, prepare_volumes

__all__ = [
    "Datalist",
    "EndlessBatchSampler",
    "ImageDataset",
    "Images",
    "PreparedImages",
    "SizedDataset",
    "SlicePatchDataset",
    "StoredVolume",
    "VolumeStore",
    "Volumes",
    "evaluation_datalist",
    "evaluation_image_datalist",
    "find_images",
    "find_volumes",
    "image_loader",
    "load_datalist",
    "load_image_datalist",
    "log_skipped",
    "make_train_loader",
    "prepare_images",
    "prepare_volumes",
    "read_datalist",
    "split_subjects",
]
