"""PASCAL VOC on disk: read a devkit, fetch VOC 2012, verify every file."""

from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.coco_convert import coco_to_voc, read_coco, voc_to_coco
from vocseg_lib.data.download import FetchError, fetch
from vocseg_lib.data.verify import Problem, verify
from vocseg_lib.data.voc import (
    BadSample,
    Sample,
    VocDataset,
    class_names,
    find_devkit,
    fingerprint,
    read_sample,
    split_ids,
)

__all__ = [
    "CLASS_NAMES",
    "BadSample",
    "FetchError",
    "Problem",
    "Sample",
    "VocDataset",
    "class_names",
    "coco_to_voc",
    "fetch",
    "find_devkit",
    "fingerprint",
    "read_coco",
    "read_sample",
    "split_ids",
    "verify",
    "voc_to_coco",
]
