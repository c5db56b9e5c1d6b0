"""Data lists, the stores, datasets of patches and of images, and the loader of a training."""

from monai_blurvae.data.datalist import (
    Datalist,
    evaluation_datalist,
    find_volumes,
    input_datalist,
    load_datalist,
    read_datalist,
    split_subjects,
)
from monai_blurvae.data.facts import (
    DatasetFacts,
    describe_transform,
    facts_of,
    reference_images,
    require_distinct_contents,
)
from monai_blurvae.data.header import (
    VOLUME_SUFFIXES,
    VolumeHeader,
    VolumeReader,
    distinct_volumes,
    header_voxel_sizes,
    is_volume,
    read_header,
)
from monai_blurvae.data.image_list import evaluation_image_datalist, find_images, load_image_datalist
from monai_blurvae.data.images import ImageDataset
from monai_blurvae.data.loader import EndlessBatchSampler, ShareSampler, SizedDataset, TrainLoader
from monai_blurvae.data.patches import VolumeDataset, VolumePatchDataset
from monai_blurvae.data.results import OutputNames, ResultFolder, ResultNames, SaveVolumed
from monai_blurvae.data.store import StoredVolume, VolumeStore

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
]
