"""Data lists, the stores, datasets of patches and of images, and the loader of a training."""

from monai_blurvae.data.datalist import (
    Datalist,
    evaluation_datalist,
    find_volumes,
    load_datalist,
    read_datalist,
    split_subjects,
)
from monai_blurvae.data.describe import describe_transform, transform_key
from monai_blurvae.data.facts import DatasetFacts, facts_of, require_distinct_contents
from monai_blurvae.data.header import (
    VOLUME_SUFFIXES,
    VolumeHeader,
    distinct_volumes,
    header_voxel_sizes,
    is_volume,
    read_header,
)
from monai_blurvae.data.image_list import evaluation_image_datalist, find_images, load_image_datalist
from monai_blurvae.data.images import ImageDataset
from monai_blurvae.data.input_volumes import input_datalist
from monai_blurvae.data.loader import EndlessBatchSampler, ShareSampler, SizedDataset, TrainLoader
from monai_blurvae.data.output_names import OutputNames
from monai_blurvae.data.patches import VolumePatchDataset
from monai_blurvae.data.reference import reference_images
from monai_blurvae.data.result_names import ResultFolder, ResultNames
from monai_blurvae.data.save_volume import SaveVolumed
from monai_blurvae.data.store import StoredVolume, VolumeStore
from monai_blurvae.data.volume_dataset import VolumeDataset
from monai_blurvae.data.volume_reader import VolumeReader

__all__ = [
    "VOLUME_SUFFIXES",
    "Datalist",
    "DatasetFacts",
    "EndlessBatchSampler",
    "ImageDataset",
    "OutputNames",
    "ResultFolder",
    "ResultNames",
    "SaveVolumed",
    "ShareSampler",
    "SizedDataset",
    "StoredVolume",
    "TrainLoader",
    "VolumeDataset",
    "VolumeHeader",
    "VolumePatchDataset",
    "VolumeReader",
    "VolumeStore",
    "describe_transform",
    "distinct_volumes",
    "evaluation_datalist",
    "evaluation_image_datalist",
    "facts_of",
    "find_images",
    "find_volumes",
    "header_voxel_sizes",
    "input_datalist",
    "is_volume",
    "load_datalist",
    "load_image_datalist",
    "read_datalist",
    "read_header",
    "reference_images",
    "require_distinct_contents",
    "split_subjects",
    "transform_key",
]
