"""A devkit by hand, with pictures that show which object is where."""

import numpy as np
from PIL import Image

from vocseg_lib.data.classes import save_map
from vocseg_lib.data.voc import make_devkit_folders

CLASSES = np.zeros((20, 30), np.uint8)
CLASSES[2:9, 3:12], CLASSES[11:18, 15:28], CLASSES[0] = 15, 12, 255
OBJECTS = np.select([CLASSES == 15, CLASSES == 12, CLASSES == 255], [1, 2, 255]).astype(np.uint8)


def write_devkit(folder, orientations=(1,), classes=CLASSES, objects=OBJECTS):
    """Pictures a0, a1, ... with the maps; under each object, the picture has a color of its own."""
    make_devkit_folders(folder)
    names = [f"a{k}" for k in range(len(orientations))]
    for name, orientation in zip(names, orientations, strict=True):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = np.stack([objects * 60] * 3, 2)
        Image.fromarray(picture).save(folder / f"JPEGImages/{name}.png", exif=exif)
        save_map(folder / f"SegmentationObject/{name}.png", objects)
        save_map(folder / f"SegmentationClass/{name}.png", classes)
    for split in ("train", "val"):
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names) + "\n")
    return folder
