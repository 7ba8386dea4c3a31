"""Devkits of other classes than VOC's, in VOC's layout and as COCO annotations."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from vocseg_lib.data import synthetic
from vocseg_lib.data.classes import CLASS_NAMES, VOID, save_map
from vocseg_lib.data.coco_convert import voc_to_coco

OTHER_CLASSES = ("bottle", "person", "woolly sheep")


def write_other_classes(
    folder: Path, classes=("bottle", "person", "sheep"), names=OTHER_CLASSES, **numbers
) -> Path:
    """A synthetic devkit of some classes, numbered from 1, in `class_names.txt`."""
    devkit = synthetic.write(folder, **{"train": 12, "val": 6, "seed": 4} | numbers)
    (devkit / synthetic.STAMP_NAME).unlink()
    new_values = np.zeros(256, np.uint8)
    new_values[VOID] = VOID
    for label, name in enumerate(classes, 1):
        new_values[CLASS_NAMES.index(name) + 1] = label
    for path in (devkit / "SegmentationClass").iterdir():
        class_map = new_values[np.array(Image.open(path))]
        objects = devkit / "SegmentationObject" / path.name
        save_map(objects, np.where(class_map == 0, 0, np.array(Image.open(objects))))
        save_map(path, class_map)
    (devkit / "class_names.txt").write_text("_background_\n" + "\n".join(names) + "\n")
    return devkit


def write_as_coco(devkit: Path, folder: Path) -> Path:
    """Its splits as COCO annotations, category ids 3, 7 and 90, beside its images; train's file."""
    shutil.copytree(devkit / "JPEGImages", folder / "images")
    (folder / "annotations").mkdir()
    ids = {1: 3, 2: 7, 3: 90}
    for split in ("train", "val"):
        content = voc_to_coco(devkit, split)
        for key, entries in (("category_id", "annotations"), ("id", "categories")):
            for entry in content[entries]:
                entry[key] = ids[entry[key]]
        content["categories"].reverse()
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content))
    return folder / "annotations" / "instances_train.json"
